//! Owns how long a stream of HTTP/2 may wait for its client: one that opens no window is ended alone, whatever else the
//! connection does. HTTP/1 needs none of it: there the socket itself stops taking bytes.
//! Never counts the time in which the client waits for us.

use std::cell::{Cell, RefCell};
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
use crate::runtime::upstream::{Pace, Slowest};

tokio::task_local! {
    static WAIT: Rc<Wait>;
}

/// Since when the client owes the stream something, `None` while we do; and how fast it was.
#[derive(Debug)]
struct Wait {
    since: Cell<Option<Instant>>,
    pace: RefCell<Pace>,
    slowest: Slowest,
}

impl Wait {
    /// Returns when the client has owed for `limit`.
    async fn is_too_long(&self, limit: Duration) {
        loop {
            let due = self.since.get().unwrap_or_else(Instant::now) + limit;
            tokio::time::sleep_until(due).await;
            if self.since.get().is_some_and(|since| since + limit <= Instant::now()) {
                return;
            }
        }
    }
}

/// Runs what serves one stream. Dropped before its end, it resets the stream.
pub async fn bounded(stream: impl Future, slowest: Slowest) {
    let limit = slowest.span;
    let wait = Rc::new(Wait { since: Cell::default(), pace: RefCell::default(), slowest });
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
            wait.since.set(Some(Instant::now()));
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
        let wait = &this.wait;
        let is_too_slow = {
            let mut pace = wait.pace.borrow_mut();
            pace.moved(0);
            pace.is_too_slow(wait.slowest)
        };
        if is_too_slow {
            return Poll::Ready(Some(Err("the client takes the answer too slowly".into())));
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        wait.since.set(polled.is_ready().then(Instant::now));
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let mut pace = wait.pace.borrow_mut();
            pace.moved(frame.data_ref().map_or(0, |data| data.len() as u64));
            pace.wait();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
