//! Owns the front door's listeners, threads and connections: HTTP/1 and HTTP/2, cleartext and TLS, each within bounds.
//! Never decides what a request gets: the edge answers for Workers, actix-web in this process for the control surface.

mod accept;
mod chunks;
mod connection;
pub mod control;
#[cfg(test)]
mod file_tests;
mod findings;
mod frames;
mod guard;
#[cfg(test)]
mod guard_tests;
#[cfg(test)]
mod h2_tests;
mod head;
#[cfg(test)]
mod origins_tests;
#[cfg(test)]
mod patience_tests;
mod settings;
mod socket;
mod stalls;
#[cfg(test)]
mod test_house;
#[cfg(test)]
mod tests;
mod thread;
#[cfg(test)]
mod waiting_tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::http::edge::EdgeState;
use crate::http::seen::Observer;
use accept::Places;
use control::Late;
use thread::Worker;

pub use settings::{Bounds, DoorSettings, Http2, Patience};

/// One address that is listened on.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// Certificates, where this one speaks TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

/// The open front door.
pub struct Door {
    workers: Vec<Worker>,
    accepting: std::thread::JoinHandle<()>,
    /// No new connection, and the open ones end with their answer.
    draining: CancellationToken,
    /// What is still open is cut.
    cutting: CancellationToken,
}

impl Door {
    /// Starts serving.
    ///
    /// # Errors
    /// If a thread or a socket can't be had.
    pub fn open(
        settings: DoorSettings,
        listeners: Vec<Listener>,
        edge: EdgeState,
        control: impl Into<Late>,
        observer: &Observer,
    ) -> std::io::Result<Door> {
        // Sockets that are tunnels hear of it by the edge's own token.
        let (draining, cutting) = (edge.stopping.clone(), CancellationToken::new());
        let (settings, control) = (Arc::new(settings), control.into());
        let places = Arc::new(Places::default());
        let mut workers = Vec::with_capacity(settings.threads);
        for number in 0..settings.threads {
            let parts = thread::Parts {
                settings: Arc::clone(&settings),
                edge: edge.clone(),
                control: control.clone(),
                draining: draining.clone(),
                seat: observer.seat(number),
            };
            workers.push(Worker::start(number, parts, cutting.clone())?);
        }
        let seats = workers.iter().map(Worker::seat).collect();
        let accepting =
            accept::start(settings, listeners, seats, places, observer.accepting(), draining.clone())?;
        Ok(Door { workers, accepting, draining, cutting })
    }

    /// Ends in order: answers on their way get `limit` to be given whole.
    pub async fn close(self, limit: Duration) {
        self.draining.cancel();
        let workers = self.workers;
        let emptied = async {
            for worker in &workers {
                worker.emptied().await;
            }
        };
        if tokio::time::timeout(limit, emptied).await.is_err() {
            tracing::warn!("not every request was answered in time; their connections are cut");
        }
        self.cutting.cancel();
        let joining = tokio::task::spawn_blocking(move || {
            let threads = workers.into_iter().map(Worker::into_thread).chain(std::iter::once(self.accepting));
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the front door panicked");
                }
            }
        });
        drop(joining.await);
    }
}

/// A client's socket on its way to a thread.
struct Accepted {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    /// Given back when the connection ends.
    place: accept::Place,
}
