//! The sockets, bound before anything else is started: a taken port must not leave a half-started server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::AppError;

#[derive(Debug)]
pub struct Listeners {
    pub front: Vec<TcpListener>,
    pub operator: TcpListener,
}

impl Listeners {
    /// # Errors
    /// [`AppError::Listen`] with the address that can't be had.
    pub fn bind(front: &[String], operator: &str) -> Result<Self, AppError> {
        let bind = |address: &str, key: &'static str| {
            TcpListener::bind(address).map_err(|source| AppError::Listen {
                address: address.into(),
                key,
                source,
            })
        };
        let front = front.iter().map(|a| bind(a, "http.listen")).collect::<Result<_, _>>()?;
        Ok(Self { front, operator: bind(operator, "http.operator_listen")? })
    }

    /// Where the front door really listens.
    pub fn front_addresses(&self) -> Vec<SocketAddr> {
        self.front.iter().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// An address of the front door that this machine can reach.
    pub fn probe_address(&self) -> Option<SocketAddr> {
        let first = *self.front_addresses().first()?;
        Some(if first.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, first.port()).into() } else { first })
    }
}
