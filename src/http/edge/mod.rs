//! Owns answering requests on hosts that are not the platform's: Workers, previews, custom domains. HOT.
//! Never names actors, store, queue or control, and writes no error by itself: refusals go to the function it was given.

pub mod conditional;
pub mod describe;
pub mod host;
pub mod negotiate;
pub mod range;
pub mod request_id;
mod site;
mod sliced;
#[cfg(test)]
mod tests;
mod unread;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Version};
use actix_web::{HttpRequest, HttpResponse, web};

use crate::routing::probe::{self, ProbeKey};
use crate::routing::{EdgeRefusal, HostClass, HostRules, Live, Resolved, Tables, Target};
use crate::runtime::{BodyCache, SiteVersion};

pub use host::{TrustedProxies, is_platform_host, is_worker_host};
pub use request_id::RequestId;

/// Makes the answer to a refused request; `http/problem.rs` has the one mapping.
/// The request id is in [`RequestId::of`], and the edge puts it on the answer.
pub type Refuse = fn(&HttpRequest, EdgeRefusal) -> HttpResponse;

const VERSION: HeaderName = HeaderName::from_static("x-libra-version");
const DIGEST: HeaderName = HeaderName::from_static("x-libra-digest");
const EPOCH: HeaderName = HeaderName::from_static("x-libra-epoch");

/// What a request needs, made once at start.
#[derive(Debug, Clone)]
pub struct EdgeState {
    pub tables: Arc<Tables>,
    pub rules: Arc<HostRules>,
    pub cache: Arc<BodyCache>,
    pub probe_key: ProbeKey,
    pub trusted_proxies: Arc<TrustedProxies>,
    pub limits: Limits,
    pub refuse: Refuse,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the request line and all headers.
    pub header_block_bytes: usize,
}

/// Answers a request. Every answer carries `X-Request-Id` and `X-Content-Type-Options: nosniff`.
/// `payload` is the request's body, which a static site leaves unread.
pub async fn serve(req: &HttpRequest, payload: web::Payload, state: &EdgeState) -> HttpResponse {
    let head = req.head();
    let (mut response, proof) = match route(head, state) {
        Ok(route) => {
            let (result, digest) = site::answer(req, state, &route.version).await;
            let response = result.unwrap_or_else(|refusal| refuse(req, state, refusal));
            let (epoch, version) = (route.epoch, Some(route.version));
            (response, route.is_probe.then_some(Proof { epoch, version, digest }))
        }
        Err(Refused { refusal, is_probe }) => (
            refuse(req, state, refusal),
            is_probe.then_some(Proof { epoch: state.tables.epoch(), version: None, digest: None }),
        ),
    };
    if carries_body(head) {
        response = unread::close_after(response, payload);
    }
    let id = RequestId::of(req).into_value();
    let headers = response.headers_mut();
    headers.insert(request_id::NAME, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(proof) = proof {
        proof.write(headers);
    }
    response
}

struct Route {
    version: Arc<SiteVersion>,
    epoch: u64,
    is_probe: bool,
}

struct Refused {
    refusal: EdgeRefusal,
    is_probe: bool,
}

/// What only a signed probe learns.
struct Proof {
    epoch: u64,
    version: Option<Arc<SiteVersion>>,
    digest: Option<[u8; 32]>,
}

fn route(head: &RequestHead, state: &EdgeState) -> Result<Route, Refused> {
    let unsigned = |refusal| Refused { refusal, is_probe: false };
    if header_block_bytes(head) > state.limits.header_block_bytes {
        let limit_bytes = state.limits.header_block_bytes;
        return Err(unsigned(EdgeRefusal::HeaderTooLarge { limit_bytes }));
    }
    let authority = host::authority(head, &state.trusted_proxies).map_err(unsigned)?;
    let class = state.rules.classify(authority).map_err(unsigned)?;
    let is_probe = is_probe(head, state, &class);
    match state.tables.resolve(&state.rules, &class) {
        Ok(Resolved { target, epoch }) => match version(target) {
            Some(version) => Ok(Route { version, epoch, is_probe }),
            None => Err(Refused { refusal: EdgeRefusal::WorkerNotFound, is_probe }),
        },
        Err(refusal) => Err(Refused { refusal, is_probe }),
    }
}

fn version(target: Target) -> Option<Arc<SiteVersion>> {
    match target {
        Target::Preview(version) => Some(version),
        Target::Worker(route) => match &route.live {
            Live::Site(version) => Some(Arc::clone(version)),
            Live::Split(split) => Some(Arc::clone(&split.live)),
            Live::Nothing => None,
        },
        Target::Redirect(_) => None,
    }
}

fn is_probe(head: &RequestHead, state: &EdgeState, class: &HostClass<'_>) -> bool {
    let Some(value) = head.headers().get(probe::HEADER).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let host = match class {
        HostClass::Platform => return false,
        HostClass::Worker(label) => format!("{label}.{}", state.rules.base()),
        HostClass::Custom(host) => host.to_string(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    probe::verify(&state.probe_key, value, &host, head.uri.path(), now)
}

fn refuse(req: &HttpRequest, state: &EdgeState, refusal: EdgeRefusal) -> HttpResponse {
    let is_ambiguous = refusal == EdgeRefusal::InvalidHost;
    let is_method = refusal == EdgeRefusal::MethodNotAllowed;
    RequestId::remember(req);
    let mut response = (state.refuse)(req, refusal);
    if is_method {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if is_ambiguous {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response
}

impl Proof {
    fn write(self, headers: &mut actix_web::http::header::HeaderMap) {
        headers.insert(EPOCH, HeaderValue::from(self.epoch));
        let version = self.version.and_then(|version| HeaderValue::from_str(version.id()).ok());
        if let Some(version) = version {
            headers.insert(VERSION, version);
        }
        if let Some(digest) = self.digest.and_then(|digest| HeaderValue::from_str(&hex::encode(digest)).ok())
        {
            headers.insert(DIGEST, digest);
        }
    }
}

fn header_block_bytes(head: &RequestHead) -> usize {
    // What HTTP/1 writes around a name and a value: ": " and the line end.
    const AROUND: usize = 4;
    let uri = head.uri.path_and_query().map_or(0, |text| text.as_str().len());
    head.headers().iter().fold(uri, |sum, (name, value)| sum + name.as_str().len() + value.len() + AROUND)
}

fn carries_body(head: &RequestHead) -> bool {
    // HTTP/2 ends one stream and keeps the connection.
    head.version < Version::HTTP_2
        && (head.headers().contains_key(header::TRANSFER_ENCODING)
            || head.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0"))
}
