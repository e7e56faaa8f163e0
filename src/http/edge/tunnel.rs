//! Owns WebSockets: two connections that speak past us once client and origin have agreed (RFC 6455 §4).
//! Never offers an origin another protocol than that: `Upgrade: h2c` would be a way around everything we check.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::body::{Body, BodyError};
use crate::runtime::upstream::Switching;

/// Whether the client asks for a WebSocket.
pub(super) fn asked_for(head: &Parts) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && names(&head.headers, &header::UPGRADE, b"websocket")
        && names(&head.headers, &header::CONNECTION, b"upgrade")
}

/// Puts back what was stripped as a matter of one hop.
pub(super) fn offer(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
}

/// Joins the two sides. The tunnel ends with either of them, and with silence, which the client's connection measures.
pub(super) fn open(response: Response<Incoming>, client: OnUpgrade, switching: Switching) -> Response<Body> {
    let (mut head, _) = response.into_parts();
    let origin = head.extensions.remove::<OnUpgrade>();
    let (ended, ending) = tokio::sync::oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let _held = (switching, ended);
        let Some(origin) = origin else { return };
        let (Ok(client), Ok(origin)) = tokio::join!(client, origin) else { return };
        let (mut client, mut origin) = (TokioIo::new(client), TokioIo::new(origin));
        if let Err(e) = tokio::io::copy_bidirectional(&mut client, &mut origin).await {
            tracing::trace!(error = %e, "a tunnel ended early");
        }
    });
    let mut response = Response::from_parts(head, Body::empty());
    response.extensions_mut().insert(Tunnel(std::sync::Arc::new(std::sync::Mutex::new(Some(ending)))));
    response
}

/// Tells the connection when its tunnel has ended: until then it has its place.
#[derive(Debug, Clone)]
pub struct Tunnel(std::sync::Arc<std::sync::Mutex<Option<tokio::sync::oneshot::Receiver<()>>>>);

impl Tunnel {
    /// `None` where somebody waits already.
    pub fn end(&self) -> Option<tokio::sync::oneshot::Receiver<()>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

fn names(headers: &HeaderMap, name: &header::HeaderName, word: &[u8]) -> bool {
    let mut words = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    words.any(|named| named.trim_ascii().eq_ignore_ascii_case(word))
}

/// The answer of an origin that did not want a WebSocket.
pub(super) struct Declined {
    incoming: Incoming,
    _switching: Switching,
}

impl Declined {
    pub fn new(incoming: Incoming, switching: Switching) -> Self {
        Self { incoming, _switching: switching }
    }
}

impl HttpBody for Declined {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
