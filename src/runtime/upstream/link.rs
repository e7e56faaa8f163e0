//! Owns one HTTP/1 connection to an origin and drives it from the task that uses it.
//! Never runs in a task of its own: handing each request to another task and its answer back would cost two wake-ups,
//! and a dropped link ends the origin's work at once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::RequestBody;
use super::socket::OriginSocket;

/// Largest head of an origin's answer, and what one read of its body may hold.
const BUFFER_BYTES: usize = 128 * 1024;

/// A connection.
pub struct Link {
    pub sender: SendRequest<RequestBody>,
    driver: Option<Connection<TokioIo<OriginSocket>, RequestBody>>,
    pub idle_since: Instant,
}

impl Link {
    pub async fn open(socket: OriginSocket) -> io::Result<Link> {
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER_BYTES);
        let (sender, driver) = builder.handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        Ok(Link { sender, driver: Some(driver), idle_since: Instant::now() })
    }

    /// Moves bytes. Ready when the connection has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else { return Poll::Ready(()) };
        if Pin::new(driver).poll(cx).is_pending() {
            return Poll::Pending;
        }
        // Why it ended is told to whoever waits for an answer or a piece of a body.
        self.driver = None;
        Poll::Ready(())
    }

    /// Whether another request can be sent on it. Looks at the socket: an origin that has closed shows here, and so
    /// does one that has said more than it was asked.
    pub fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx).is_pending() && self.sender.is_ready()
    }

    /// For an upgrade: the driver then hands the socket over.
    pub fn into_driver(self) -> Option<Connection<TokioIo<OriginSocket>, RequestBody>> {
        self.driver
    }
}
