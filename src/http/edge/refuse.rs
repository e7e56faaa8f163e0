//! Owns the answer to a request that the edge refuses: whether the connection goes on behind it, and for whom it reads.
//! Never decides why: that is the caller's.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, Version};

use super::{Body, EdgeState, RequestId};
use crate::routing::EdgeRefusal;

pub(super) fn refuse(
    head: &Parts,
    id: &RequestId,
    state: &EdgeState,
    refusal: EdgeRefusal,
) -> Response<Body> {
    refusal_answer(head.headers.get(header::ACCEPT), head.version, id, state, refusal)
}

pub(super) fn refusal_answer(
    accept: Option<&HeaderValue>,
    version: Version,
    id: &RequestId,
    state: &EdgeState,
    refusal: EdgeRefusal,
) -> Response<Body> {
    // The connection can't be trusted to be in step with us any more, or holds a body that nobody reads.
    let ends = matches!(
        refusal,
        EdgeRefusal::InvalidHost
            | EdgeRefusal::Malformed(_)
            | EdgeRefusal::MethodRefused
            | EdgeRefusal::BodyTooLarge { .. }
    );
    let allow = matches!(refusal, EdgeRefusal::MethodNotAllowed).then_some("GET, HEAD");
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut response = (state.refuse)(id, accept.contains("text/html"), refusal).map(Body::bytes);
    let headers = response.headers_mut();
    if let Some(allow) = allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if ends && version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
