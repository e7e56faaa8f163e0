//! What the health document and the supervisor may see of the broker.
//!
//! It never holds an address with a credential in it.

use std::time::{Duration, Instant, SystemTime};

/// How far the way to the broker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    Disconnected,
    /// Connected, but the streams are not confirmed yet.
    Connected,
    /// Connected, and the streams and the consumer are as the settings want them.
    Ready,
}

/// Publishes that were not confirmed, with none confirmed between them, over an open connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unconfirmed {
    first: Instant,
    last: Instant,
}

impl Unconfirmed {
    /// One more, at this moment.
    pub(super) fn again(before: Option<Self>) -> Self {
        let now = Instant::now();
        Self { first: before.map_or(now, |before| before.first), last: now }
    }

    pub(super) fn lasted(self) -> Duration {
        self.last.duration_since(self.first)
    }
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
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// Why it isn't ready, for operators: causes included, credentials not.
    pub problem: Option<String>,
    /// True when that problem stays until somebody changes something.
    pub hopeless: bool,
}

impl BrokerState {
    pub(super) fn at_start() -> Self {
        Self {
            connection: Connection::Disconnected,
            since: SystemTime::now(),
            owner: false,
            pid: None,
            unconfirmed: None,
            problem: None,
            hopeless: false,
        }
    }

    pub(super) fn enter(&mut self, connection: Connection) {
        if self.connection != connection {
            self.connection = connection;
            self.since = SystemTime::now();
            self.unconfirmed = None;
        }
        if connection == Connection::Ready {
            self.problem = None;
            self.hopeless = false;
        }
    }
}
