//! Owns the bounds of the front door, as the settings `http.*` name them.

use std::sync::Arc;
use std::time::Duration;

use crate::http::edge::TrustedProxies;
use crate::runtime::upstream::Slowest;

/// What the front door is made with.
#[derive(Debug, Clone)]
pub struct DoorSettings {
    pub threads: usize,
    pub bounds: Bounds,
    pub tls_handshake: Duration,
    /// Connections at once, per thread.
    pub connections: usize,
    /// Connections at once of one client that is neither this machine nor a trusted proxy.
    pub connections_of_one: usize,
    /// Requests in hand at once, per thread.
    pub requests: usize,
    pub http2: Http2,
    pub trusted_proxies: Arc<TrustedProxies>,
}

/// How long a client is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A whole head, from its first byte or from the connection's start.
    pub head: Duration,
    /// The next request.
    pub keep_alive: Duration,
    /// The next bytes of a body, and the client's taking of ours.
    pub stream: Duration,
    /// What the client may still send after our last byte.
    pub linger: Duration,
    /// The least that a client may send of a body or take of an answer, over `stream` in which it is waited for.
    pub slowest_bytes_per_second: u64,
}

impl Patience {
    pub fn slowest(&self) -> Slowest {
        Slowest { span: self.stream, bytes_per_second: self.slowest_bytes_per_second }
    }
}

/// Bounds of what the guard holds and passes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub head_bytes: usize,
    pub patience: Patience,
}

/// Bounds of one HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct Http2 {
    pub streams: u32,
    /// Streams that a client has reset and that we have not looked at yet.
    pub pending_resets: usize,
    /// Streams that we have reset because of the client's mistakes, over the life of the connection.
    pub own_resets: usize,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub send_buffer_bytes: usize,
    pub ping: Duration,
    pub ping_timeout: Duration,
}

impl DoorSettings {
    pub fn patience(&self) -> &Patience {
        &self.bounds.patience
    }
}

#[cfg(test)]
impl DoorSettings {
    /// For tests of one connection at a time.
    pub fn small() -> Self {
        let second = Duration::from_secs(1);
        Self {
            threads: 1,
            bounds: Bounds {
                head_bytes: 32 << 10,
                patience: Patience {
                    head: second,
                    keep_alive: second,
                    stream: second,
                    linger: second,
                    slowest_bytes_per_second: 5,
                },
            },
            tls_handshake: second,
            connections: 100,
            connections_of_one: 100,
            requests: 100,
            http2: Http2 {
                streams: 10,
                pending_resets: 20,
                own_resets: 20,
                stream_window_bytes: 65_535,
                connection_window_bytes: 65_535,
                send_buffer_bytes: 16_384,
                ping: second,
                ping_timeout: second,
            },
            trusted_proxies: Arc::default(),
        }
    }
}
