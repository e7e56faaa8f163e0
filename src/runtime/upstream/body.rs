//! Owns the body of a request on its way from a client to an origin, and how far it has come.
//! Never holds more of it than the piece that is on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::pace::{Pace, Slowest};
use super::trailers;

/// What a client sends.
#[derive(Debug, Default)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    /// At most so many bytes more; a client that sends more is cut off.
    left: Option<u64>,
    progress: Option<Arc<Progress>>,
    /// Boxed: most requests have no body.
    patience: Option<Box<Patience>>,
}

/// How long its client is waited for.
#[derive(Debug)]
struct Patience {
    silence: Duration,
    slowest: Slowest,
    pace: Pace,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// How far a body has come, for whoever waits for its end.
#[derive(Debug, Default)]
pub struct Progress {
    moved: AtomicU64,
    ended: OnceLock<Instant>,
    /// Counts every piece of every body of one connection.
    connection: Option<Arc<AtomicU64>>,
}

impl Progress {
    pub fn of(connection: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { connection: Some(connection), ..Self::default() })
    }

    /// Pieces so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Since when all of it was taken.
    pub(super) fn ended(&self) -> Option<Instant> {
        self.ended.get().copied()
    }

    fn piece(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        if let Some(connection) = &self.connection {
            connection.fetch_add(1, Ordering::Relaxed);
        }
    }
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
        Self { incoming, left: None, progress: None, patience: None }
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

    #[must_use]
    pub fn followed(mut self, progress: impl FnOnce() -> Arc<Progress>) -> Self {
        if self.incoming.is_some() {
            self.progress = Some(progress());
        }
        self
    }

    /// Ends it when its client sends nothing for so long, or too little. Not counted is the time in which nobody reads.
    #[must_use]
    pub fn patient(mut self, silence: Duration, slowest: Slowest) -> Self {
        if self.incoming.is_some() {
            let patience = Patience { silence, slowest, pace: Pace::default(), alarm: None };
            self.patience = Some(Box::new(patience));
        }
        self
    }

    /// What tells how far it has come; `None` where there is nothing to send.
    pub(super) fn progress(&mut self) -> Option<Arc<Progress>> {
        self.incoming.as_ref()?;
        Some(Arc::clone(self.progress.get_or_insert_default()))
    }
}

impl Patience {
    /// Nothing is there. Whether that is too long so; wakes the task when it is.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.pace.wait();
        let due = self.pace.waiting_since().unwrap_or_else(Instant::now) + self.silence;
        loop {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.into())));
            if alarm.as_mut().poll(cx).is_pending() {
                return false;
            }
            if due <= Instant::now() {
                return true;
            }
            alarm.as_mut().reset(due.into());
        }
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
        }
        if let Some(left) = &mut this.left {
            match left.checked_sub(bytes) {
                Some(rest) => *left = rest,
                None => return Poll::Ready(Some(Err(RequestBodyError::TooLarge))),
            }
        }
        if let Some(progress) = &this.progress {
            progress.piece();
            if frame.is_none() || body.is_end_stream() {
                progress.ended.get_or_init(Instant::now);
            }
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
