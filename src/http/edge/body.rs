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
    /// Dropped with the body, when the answer has been given whole or given up.
    held: Option<Box<dyn std::any::Any>>,
}

enum Kind {
    Empty,
    Bytes(Bytes),
    /// So many bytes from a disk.
    Sized(u64, Pieces),
    Frames(Frames),
    /// Boxed: every answer of a site would be moved at its size too.
    Origin(Box<OriginBody>),
}

impl Body {
    pub fn empty() -> Self {
        Self { kind: Kind::Empty, held: None }
    }

    pub fn bytes(bytes: Bytes) -> Self {
        Self { kind: Kind::Bytes(bytes), held: None }
    }

    /// `size` is what all pieces together have.
    pub fn sized(size: u64, pieces: impl Stream<Item = std::io::Result<Bytes>> + 'static) -> Self {
        Self { kind: Kind::Sized(size, Box::pin(pieces)), held: None }
    }

    pub fn origin(body: OriginBody) -> Self {
        Self { kind: Kind::Origin(Box::new(body)), held: None }
    }

    /// A body that somebody else makes, with its trailers.
    pub fn frames(frames: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Self { kind: Kind::Frames(Box::pin(frames)), held: None }
    }

    /// Keeps `guard` until the answer has been given.
    pub fn holding(mut self, guard: impl std::any::Any) -> Self {
        self.held = Some(match self.held.take() {
            None => Box::new(guard),
            Some(other) => Box::new((other, guard)),
        });
        self
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
        match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
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
            Kind::Origin(body) => Pin::new(&mut **body).poll_frame(cx).map_err(Into::into),
        }
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
