//! The sockets, bound before anything else is started: a taken port must not leave a half-started server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tokio::net::TcpSocket;

use super::AppError;
use crate::config::Settings;

#[derive(Debug)]
pub struct Listeners {
    pub front: Vec<TcpListener>,
    /// Of `tls.listen`.
    pub secure: Vec<TcpListener>,
    pub operator: TcpListener,
}

impl Listeners {
    /// # Errors
    /// [`AppError::Listen`] with the address that can't be had.
    pub fn bind(settings: &Settings) -> Result<Self, AppError> {
        let bind = |address: &str, key: &'static str| {
            listen(address, settings.http.backlog).map_err(|source| AppError::Listen {
                address: address.into(),
                key,
                source,
            })
        };
        let all =
            |addresses: &[String], key| addresses.iter().map(|a| bind(a, key)).collect::<Result<_, _>>();
        Ok(Self {
            front: all(&settings.http.listen, "http.listen")?,
            secure: all(&settings.tls.listen, "tls.listen")?,
            operator: bind(&settings.http.operator_listen, "http.operator_listen")?,
        })
    }

    /// Where the front door really listens.
    pub fn front_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.front)
    }

    /// Where it listens for HTTPS.
    pub fn secure_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.secure)
    }

    /// An address of the front door that this machine can reach.
    pub fn probe_address(&self) -> Option<SocketAddr> {
        let first = *self.front_addresses().first()?;
        Some(if first.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, first.port()).into() } else { first })
    }
}

/// As the standard library does it, but for its backlog of 128.
fn listen(address: &str, backlog: u32) -> io::Result<TcpListener> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(backlog)?.into_std()
}

fn addresses(listeners: &[TcpListener]) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|l| l.local_addr().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn more_than_the_usual_128_may_wait_to_be_taken() {
        let listener = listen("127.0.0.1:0", 400).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for number in 0..300 {
            let client = TcpStream::connect_timeout(&address, Duration::from_secs(5));
            waiting.push(client.unwrap_or_else(|e| panic!("client {number}: {e}")));
        }
    }
}
