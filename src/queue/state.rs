//! What the health document and the supervisor may see of the broker.
//!
//! It never holds an address with a credential in it.

use std::time::SystemTime;

/// How far the way to the broker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    Disconnected,
    /// Connected, but the streams are not confirmed yet.
    Connected,
    /// Connected, and the streams and the consumer are as the settings want them.
    Ready,
}

/// A snapshot; `Queue::state` hands out a watch on it.
#[derive(Debug, Clone)]
pub struct BrokerState {
    pub connection: Connection,
    /// Since when `connection` is what it is.
    pub since: SystemTime,
    /// True when this process owns the embedded broker.
    pub owner: bool,
    /// The embedded broker's process, ours or the one attached to.
    pub pid: Option<u32>,
    /// Why it isn't ready, for operators: causes included, credentials not.
    pub problem: Option<String>,
}

impl BrokerState {
    pub(super) fn at_start() -> Self {
        Self {
            connection: Connection::Disconnected,
            since: SystemTime::now(),
            owner: false,
            pid: None,
            problem: None,
        }
    }

    pub(super) fn enter(&mut self, connection: Connection) {
        if self.connection != connection {
            self.connection = connection;
            self.since = SystemTime::now();
        }
        if connection == Connection::Ready {
            self.problem = None;
        }
    }
}
