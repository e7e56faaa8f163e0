//! Owns the body of a request on its way from a client to an origin.
//! Never holds more of it than the piece that is on its way.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// What a client sends.
#[derive(Debug, Default)]
pub enum RequestBody {
    #[default]
    Empty,
    Incoming(hyper::body::Incoming),
    /// At most so many bytes more; a client that sends more is cut off.
    Limited(hyper::body::Incoming, u64),
}

/// Why a client's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    #[error("the client's body ended early")]
    Client(#[from] hyper::Error),
    #[error("the client's body is larger than it may be")]
    TooLarge,
}

impl From<hyper::body::Incoming> for RequestBody {
    fn from(body: hyper::body::Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::Incoming(body) }
    }
}

impl RequestBody {
    /// Whether the client sends nothing.
    pub fn is_empty(&self) -> bool {
        self.is_end_stream()
    }

    #[must_use]
    pub fn limited(self, bytes: u64) -> Self {
        match self {
            Self::Incoming(body) | Self::Limited(body, _) => Self::Limited(body, bytes),
            Self::Empty => Self::Empty,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Incoming(body) => Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| Ok(frame?))),
            Self::Limited(body, left) => {
                let frame = std::task::ready!(Pin::new(body).poll_frame(cx)?);
                let bytes = frame.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
                match left.checked_sub(bytes) {
                    Some(rest) => *left = rest,
                    None => return Poll::Ready(Some(Err(RequestBodyError::TooLarge))),
                }
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(body) | Self::Limited(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(body) | Self::Limited(body, _) => body.size_hint(),
        }
    }
}
