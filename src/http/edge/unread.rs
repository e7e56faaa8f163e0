//! Owns what becomes of a request body that nobody reads: the connection ends with the answer.
//! Never drains: actix would read a dropped chunked body to its end, which a client can put off for ever.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::ConnectionType;
use actix_web::web::{Bytes, Payload};

/// An answer's body that keeps the request's body alive, unread. actix closes the connection after an answer whose
/// request body is alive and unfinished.
struct Holding {
    body: BoxBody,
    _unread: Payload,
}

/// The same answer, after which the connection is closed.
pub(super) fn close_after(mut response: HttpResponse, unread: Payload) -> HttpResponse {
    response.head_mut().set_connection_type(ConnectionType::Close);
    response.map_body(|_, body| BoxBody::new(Holding { body, _unread: unread }))
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(context)
    }
}
