//! Owns the bodies of requests and answers on their way through the edge.
//! Never holds a body whole that is not in memory already: what comes from a disk or an upstream is passed on as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::runtime::upstream::OriginBody;
pub use crate::runtime::upstream::RequestBody;

/// Why a body ended early. Its text goes into the log only.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

type Pieces = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>>>>;
type Frames = Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>;

/// What a client is sent. Served by one thread from its beginning to its end.
pub struct Body {
    kind: Kind,
    /// Told and dropped with the body, when the answer has been given whole or given up.
    watcher: Option<Box<dyn Watcher>>,
    given_bytes: u64,
    /// What the body had before its first piece was given, where that is known.
    exact_bytes: Option<u64>,
    end: End,
}

/// Who is told how much of a body was given.
pub trait Watcher {
    /// One piece was given.
    fn piece(&self);

    fn ended(&mut self, given_bytes: u64, is_whole: bool);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached,
    Failed,
}

enum Kind {
    Empty,
    Bytes(Bytes),
    /// So many bytes from a disk.
    Sized(u64, Pieces),
    Frames(Frames),
    Origin(OriginBody),
}

impl Body {
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    pub fn bytes(bytes: Bytes) -> Self {
        Self::of(Kind::Bytes(bytes))
    }

    /// `size` is what all pieces together have.
    pub fn sized(size: u64, pieces: impl Stream<Item = std::io::Result<Bytes>> + 'static) -> Self {
        Self::of(Kind::Sized(size, Box::pin(pieces)))
    }

    pub fn origin(body: OriginBody) -> Self {
        Self::of(Kind::Origin(body))
    }

    /// A body that somebody else makes, with its trailers.
    pub fn frames(frames: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self::of(Kind::Frames(Box::pin(frames)))
    }

    /// Keeps `watcher` until the answer has been given, and tells it then.
    #[must_use]
    pub fn watched(mut self, watcher: Box<dyn Watcher>) -> Self {
        self.exact_bytes = self.size_hint().exact();
        self.watcher = Some(watcher);
        self
    }

    fn of(kind: Kind) -> Self {
        Self { kind, watcher: None, given_bytes: 0, exact_bytes: None, end: End::Open }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(mut watcher) = self.watcher.take() {
            // Whoever knows the length does not ask for a piece beyond the last one.
            let is_whole = match self.end {
                End::Reached => true,
                End::Failed => false,
                End::Open => self.exact_bytes == Some(self.given_bytes) || self.is_end_stream(),
            };
            watcher.ended(self.given_bytes, is_whole);
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Body").field(&self.size_hint()).finish()
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = std::task::ready!(this.kind.poll(cx));
        match &polled {
            Some(Ok(frame)) => {
                this.given_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(watcher) = &this.watcher {
                    watcher.piece();
                }
            }
            Some(Err(_)) => this.end = End::Failed,
            None => this.end = End::Reached,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Bytes(bytes) => bytes.is_empty(),
            Kind::Sized(left, _) => *left == 0,
            Kind::Frames(frames) => frames.is_end_stream(),
            Kind::Origin(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Sized(left, _) => SizeHint::with_exact(*left),
            Kind::Frames(frames) => frames.size_hint(),
            Kind::Origin(body) => body.size_hint(),
        }
    }
}

impl Kind {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Sized(left, pieces) => match std::task::ready!(pieces.as_mut().poll_next(cx)) {
                None => Poll::Ready(None),
                Some(Ok(bytes)) => {
                    *left = left.saturating_sub(bytes.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Some(Err(e)) => Poll::Ready(Some(Err(e.into()))),
            },
            Kind::Frames(frames) => frames.as_mut().poll_frame(cx),
            Kind::Origin(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }
}
