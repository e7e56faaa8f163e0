//! Owns the body of a request on its way from a client to an origin, and how far it has come.
//! Never holds more of it than the piece that is on its way.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::pace::{Pace, Slowest};
use super::trailers;

/// What a client sends.
#[derive(Debug, Default)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    /// At most so many bytes more; a client that sends more is cut off.
    left: Option<u64>,
    /// Counts every piece of every body of one connection.
    pieces: Option<Arc<AtomicU64>>,
    /// Boxed: most requests have no body.
    patience: Option<Box<Patience>>,
    /// What may not come behind it, because it was meant for this hop.
    of_hop: Vec<HeaderName>,
}

/// How long its client is waited for.
#[derive(Debug)]
struct Patience {
    silence: Duration,
    slowest: Slowest,
    pace: Pace,
    alarm: Alarm,
}

/// Why a client's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body ended early")]
    Client(#[from] hyper::Error),
    #[error("the client's body is larger than it may be")]
    TooLarge,
    #[error("the client is silent, or sends too slowly")]
    Late,
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        let incoming = (!body.is_end_stream()).then_some(body);
        Self { incoming, left: None, pieces: None, patience: None, of_hop: Vec::new() }
    }
}

impl RequestBody {
    pub fn empty() -> Self {
        Self::default()
    }

    /// Whether the client sends nothing.
    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    #[must_use]
    pub fn limited(mut self, bytes: u64) -> Self {
        self.left = Some(bytes);
        self
    }

    /// Keeps trailers of these names to this hop.
    #[must_use]
    pub fn without_trailers(mut self, names: &[HeaderName]) -> Self {
        if self.incoming.is_some() {
            self.of_hop = names.to_vec();
        }
        self
    }

    /// Every piece is counted there.
    #[must_use]
    pub fn counted(mut self, pieces: &Arc<AtomicU64>) -> Self {
        if self.incoming.is_some() {
            self.pieces = Some(Arc::clone(pieces));
        }
        self
    }

    /// Ends it when its client sends nothing for so long, or too little. Not counted is the time in which nobody reads.
    #[must_use]
    pub fn patient(mut self, silence: Duration, slowest: Slowest) -> Self {
        if self.incoming.is_some() {
            self.patience =
                Some(Box::new(Patience { silence, slowest, pace: Pace::default(), alarm: Alarm::default() }));
        }
        self
    }
}

impl Patience {
    /// Nothing is there. Whether that is too long so; wakes the task when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.pace.wait();
        let due = self.pace.waiting_since().unwrap_or_else(Instant::now) + self.silence;
        self.alarm.is_over(cx, due.into())
    }

    fn has_moved(&mut self, bytes: u64) -> Result<(), RequestBodyError> {
        self.pace.moved(bytes);
        if self.pace.is_too_slow(self.slowest) { Err(RequestBodyError::Late) } else { Ok(()) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.incoming else { return Poll::Ready(None) };
        let polled = Pin::new(&mut *body).poll_frame(cx);
        if polled.is_pending() && this.patience.as_mut().is_some_and(|patience| patience.is_over(cx)) {
            return Poll::Ready(Some(Err(RequestBodyError::Late)));
        }
        let mut frame = match std::task::ready!(polled).transpose() {
            Ok(frame) => frame,
            Err(e) => return Poll::Ready(Some(Err(e.into()))),
        };
        let bytes = frame.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
        if let Some(late) = this.patience.as_mut().and_then(|patience| patience.has_moved(bytes).err()) {
            return Poll::Ready(Some(Err(late)));
        }
        if let Some(trailers) = frame.as_mut().and_then(Frame::trailers_mut) {
            trailers::keep_allowed(trailers);
            for name in &this.of_hop {
                trailers.remove(name);
            }
        }
        if let Some(left) = &mut this.left {
            match left.checked_sub(bytes) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(RequestBodyError::TooLarge))),
            }
        }
        if let Some(pieces) = &this.pieces {
            pieces.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
