//! Owns the bodies of requests and answers on their way through the edge.
//! Never holds a body whole that is not in memory already: what comes from a disk or an upstream is passed on as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::file_body::{FileBody, FilePieces};
use crate::runtime::upstream::OriginBody;
pub use crate::runtime::upstream::RequestBody;
use crate::runtime::{BodyCache, FilePart};

/// Why a body ended early. Its text goes into the log only.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

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
    /// So many bytes, of which none is sent: an answer to HEAD.
    Unsent(u64),
    Frames(Frames),
    Origin(OriginBody),
    /// Boxed: most answers are small, and would be moved at its size too.
    File(Box<FileBody>),
}

impl Body {
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    pub fn bytes(bytes: Bytes) -> Self {
        Self::of(Kind::Bytes(bytes))
    }

    /// What an answer to HEAD says of the body that GET would give.
    pub fn unsent(size: u64) -> Self {
        Self::of(Kind::Unsent(size))
    }

    /// A part of a file, read when it is sent.
    pub fn file(part: FilePart, cache: Arc<BodyCache>) -> Self {
        Self::of(Kind::File(Box::new(FileBody::new(part, cache))))
    }

    /// The connection can send files by itself.
    #[must_use]
    pub fn send_by(mut self, pieces: &FilePieces) -> Self {
        if let Kind::File(body) = &mut self.kind {
            body.send_by(pieces);
        }
        self
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
            Kind::Unsent(size) => *size == 0,
            Kind::Frames(frames) => frames.is_end_stream(),
            Kind::Origin(body) => body.is_end_stream(),
            Kind::File(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Unsent(size) => SizeHint::with_exact(*size),
            Kind::Frames(frames) => frames.size_hint(),
            Kind::Origin(body) => body.size_hint(),
            Kind::File(body) => SizeHint::with_exact(body.left()),
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
            Kind::Unsent(_) => Poll::Ready(None),
            Kind::Frames(frames) => frames.as_mut().poll_frame(cx),
            Kind::Origin(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::File(body) => body.poll_piece(cx).map_ok(Frame::data).map_err(Into::into),
        }
    }
}
