//! Owns asking the control surface, which is an actix-web application in this process, one instance a thread.
//! Never opens a socket for it: what hyper has read becomes actix's request, what actix answers becomes hyper's.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use actix_http::error::PayloadError;
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, Uri, Version};
use actix_web::web::ServiceConfig;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::http::edge::body::BodyError;
use crate::http::edge::{Body, Connection, RequestBody, RequestId, request_id};
use crate::runtime::upstream::RequestBodyError;

/// Puts the routes in place; called once for each thread.
pub type Configure = Arc<dyn Fn(&mut ServiceConfig) + Send + Sync>;

/// Routes that may come later than the first request: Workers are served before the parts of the control
/// surface are there.
#[derive(Clone, Default)]
pub struct Late(Arc<OnceLock<Configure>>);

impl Late {
    /// The routes are there. Only the first call counts.
    pub fn set(&self, configure: Configure) {
        drop(self.0.set(configure));
    }

    pub(super) fn get(&self) -> Option<&Configure> {
        self.0.get()
    }
}

impl<F: Fn(&mut ServiceConfig) + Send + Sync + 'static> From<Arc<F>> for Late {
    fn from(configure: Arc<F>) -> Self {
        Self(Arc::new(OnceLock::from(configure as Configure)))
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<ServiceResponse<BoxBody>, actix_web::Error>>>>;

/// The application of one thread.
pub struct ControlSurface {
    service: Box<dyn Fn(actix_http::Request) -> Answered>,
}

impl ControlSurface {
    /// # Errors
    /// If the application can't be made; actix does not say why.
    pub async fn make(configure: Configure) -> Result<Self, ()> {
        let app = actix_web::App::new().configure(move |config| configure(config));
        let service = Rc::new(app.into_factory().new_service(AppConfig::default()).await?);
        Ok(Self {
            service: Box::new(move |request| {
                let service = Rc::clone(&service);
                Box::pin(async move { service.call(request).await })
            }),
        })
    }

    pub async fn call(
        &self,
        request: http::Request<RequestBody>,
        id: &RequestId,
        connection: Connection,
    ) -> http::Response<Body> {
        let answered = (self.service)(asked(request, id, connection)).await;
        match answered {
            Ok(response) => answer(response.into_parts().1),
            Err(e) => answer(e.error_response().map_into_boxed_body()),
        }
    }
}

fn asked(request: http::Request<RequestBody>, id: &RequestId, connection: Connection) -> actix_http::Request {
    let (head, body) = request.into_parts();
    let payload: actix_http::Payload = match body.is_empty() {
        true => actix_http::Payload::None,
        false => actix_http::Payload::Stream { payload: Box::pin(Pieces(body)) },
    };
    let mut request = actix_http::Request::with_payload(payload);
    let asked = request.head_mut();
    // Both libraries keep to the same grammar, so nothing is lost on the way.
    asked.method = Method::from_bytes(head.method.as_str().as_bytes()).unwrap_or_default();
    asked.uri = head
        .uri
        .path_and_query()
        .and_then(|target| Uri::try_from(target.as_str()).ok())
        .unwrap_or_else(|| Uri::from_static("*"));
    asked.version = match head.version {
        http::Version::HTTP_10 => Version::HTTP_10,
        http::Version::HTTP_2 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    asked.peer_addr = connection.peer;
    let fields = head.headers.iter().filter(|(name, _)| **name != request_id::NAME);
    for (name, value) in fields.map(|(n, v)| (n.as_str(), v.as_bytes())).chain([id_field(id)]) {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value)) {
            asked.headers.append(name, value);
        }
    }
    request
}

fn id_field(id: &RequestId) -> (&str, &[u8]) {
    (request_id::NAME_TEXT, id.as_str().as_bytes())
}

fn answer(response: actix_web::HttpResponse) -> http::Response<Body> {
    let (response, body) = response.into_parts();
    let status = http::StatusCode::from_u16(response.status().as_u16());
    let mut answer = http::Response::new(match body.size() {
        BodySize::None => Body::empty(),
        _ => Body::frames(ControlBody(body)),
    });
    *answer.status_mut() = status.unwrap_or_default();
    for (name, value) in response.headers() {
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        if let (Ok(name), Ok(value)) = (name, http::HeaderValue::from_bytes(value.as_bytes())) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

/// The request's body as actix wants it.
struct Pieces(RequestBody);

impl futures_util::Stream for Pieces {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return match std::task::ready!(Pin::new(&mut self.0).poll_frame(cx)) {
                None => Poll::Ready(None),
                Some(Err(RequestBodyError::Late)) => {
                    Poll::Ready(Some(Err(PayloadError::Io(std::io::ErrorKind::TimedOut.into()))))
                }
                Some(Err(_)) => Poll::Ready(Some(Err(PayloadError::Incomplete(None)))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => Poll::Ready(Some(Ok(bytes))),
                    // Trailers: no handler asks for any.
                    Err(_) => continue,
                },
            };
        }
    }
}

/// actix's body as hyper wants it.
struct ControlBody(BoxBody);

impl HttpBody for ControlBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = std::task::ready!(Pin::new(&mut self.0).poll_next(cx));
        Poll::Ready(next.map(|piece| piece.map(Frame::data).map_err(|e| e.to_string().into())))
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.size() {
            BodySize::None => SizeHint::with_exact(0),
            BodySize::Sized(bytes) => SizeHint::with_exact(bytes),
            BodySize::Stream => SizeHint::default(),
        }
    }
}
