//! Owns how long a stream of HTTP/2 may wait for its client: one that opens no window is ended alone, whatever else the
//! connection does. HTTP/1 needs none of it: there the socket itself stops taking bytes.
//! Never counts the time in which the client waits for us.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use crate::http::edge::Body;
use crate::http::edge::body::BodyError;

tokio::task_local! {
    static WAIT: Rc<Wait>;
}

/// Since when the client owes the stream something; `None` while we do.
#[derive(Debug, Default)]
struct Wait(Cell<Option<Instant>>);

impl Wait {
    /// Returns when the client has owed for `limit`.
    async fn is_too_long(&self, limit: Duration) {
        loop {
            let due = self.0.get().unwrap_or_else(Instant::now) + limit;
            tokio::time::sleep_until(due).await;
            if self.0.get().is_some_and(|since| since + limit <= Instant::now()) {
                return;
            }
        }
    }
}

/// Runs what serves one stream. Dropped before its end, it resets the stream.
pub async fn bounded(stream: impl Future, limit: Duration) {
    let wait = Rc::new(Wait::default());
    let watched = WAIT.scope(Rc::clone(&wait), stream);
    tokio::select! {
        biased;
        _ = watched => {}
        () = wait.is_too_long(limit) => {}
    }
}

/// The body of an answer within [`bounded`].
pub fn watched(body: Body) -> Body {
    match WAIT.try_with(Rc::clone) {
        Ok(wait) if !body.is_end_stream() => {
            wait.0.set(Some(Instant::now()));
            Body::frames(Watched { body, wait })
        }
        _ => body,
    }
}

struct Watched {
    body: Body,
    wait: Rc<Wait>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    /// Asked for only while the client's window has room.
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.wait.0.set(polled.is_ready().then(Instant::now));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
