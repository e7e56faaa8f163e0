//! Owns the answer to a request that the edge refuses: whether the connection goes on behind it, and for whom it reads.
//! Never decides why: that is the caller's.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Response, Version};

use super::{Body, EdgeState, Facts, RequestId};
use crate::routing::EdgeRefusal;

pub(super) fn refuse(
    head: &Parts,
    id: &RequestId,
    state: &EdgeState,
    facts: &Facts,
    refusal: EdgeRefusal,
) -> Response<Body> {
    // The connection can't be trusted to be in step with us any more, or holds a body that nobody reads.
    let ends = matches!(
        refusal,
        EdgeRefusal::InvalidHost
            | EdgeRefusal::Malformed(_)
            | EdgeRefusal::MethodRefused
            | EdgeRefusal::BodyTooLarge { .. }
            | EdgeRefusal::DispatchFailed
    );
    let allow = matches!(refusal, EdgeRefusal::MethodNotAllowed).then_some("GET, HEAD");
    let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let wants_page = !facts.is_platform_host && accept.contains("text/html");
    let mut response = (state.refuse)(id, wants_page, refusal).map(Body::bytes);
    let headers = response.headers_mut();
    if let Some(allow) = allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if ends && head.version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    // Whatever became of it, also where an origin was to answer.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
