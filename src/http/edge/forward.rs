//! Owns passing a request on to an HTTP origin and its answer back: which headers go along, in both directions.
//! Never lets a client say for us who it is or where it came from, and never passes on what was meant for this hop alone
//! (RFC 9110 §7.6.1).

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;

use super::body::{Body, RequestBody};
use super::dispatch::Strategy;
use super::{Connection, EdgeState, Facts, RequestId, client, isolate, request_id, tunnel};
use crate::routing::EdgeRefusal;
use crate::runtime::upstream::{self, Failure, Upstream, trailers};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const ROUTING_STRATEGY: HeaderName = HeaderName::from_static("x-routing-strategy");
const TARGET_WORKER: HeaderName = HeaderName::from_static("x-target-worker");
const CUSTOM_DOMAIN: HeaderName = HeaderName::from_static("x-custom-domain");
/// RFC 8586: who has passed a request on before.
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A request on its way to an origin.
pub(super) struct Forwarding {
    pub upstream: Arc<Upstream>,
    pub worker: Arc<str>,
    /// What the Worker sees.
    pub target: PathAndQuery,
    /// The host that the client meant.
    pub authority: HeaderValue,
    pub strategy: Strategy,
    pub from_trusted: bool,
    pub connection: Connection,
}

impl Forwarding {
    pub async fn send(
        self,
        mut head: Parts,
        body: RequestBody,
        id: &RequestId,
        state: &EdgeState,
        facts: &mut Facts,
    ) -> Result<Response<Body>, EdgeRefusal> {
        facts.upstream = Some(Arc::clone(&self.upstream));
        if head.headers.get_all(CDN_LOOP).iter().any(|passed| passed == state.loop_mark) {
            return Err(EdgeRefusal::Loop);
        }
        let limit_bytes = state.limits.body_bytes;
        // What says its size is refused before the origin hears of it; what does not is cut off at the limit.
        if http_body::Body::size_hint(&body).exact().is_some_and(|bytes| bytes > limit_bytes) {
            return Err(EdgeRefusal::BodyTooLarge { limit_bytes });
        }
        let switch = tunnel::asked_for(&head).then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        let mut headers = std::mem::take(&mut head.headers);
        let takes_trailers = takes_trailers(&headers);
        strip_hop(&mut headers);
        self.sign(&mut headers, &head.uri, id, &state.loop_mark);
        if takes_trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if !body.is_empty() && http_body::Body::size_hint(&body).exact().is_none() {
            // Said, or a GET's body would be taken for none.
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        join_cookies(&mut headers);
        let mut request = Request::new(body.limited(limit_bytes));
        *request.method_mut() = head.method;
        *request.uri_mut() = Uri::from(self.target.clone());
        *request.headers_mut() = headers;
        let trace = &mut facts.trace;
        let mut response = match switch {
            Some(client) => {
                tunnel::offer(request.headers_mut());
                let (response, switching) = upstream::upgrade(&self.upstream, request, trace)
                    .await
                    .map_err(|e| refusal(&e, &self, limit_bytes))?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let ending = tunnel::Ending {
                        stopping: state.stopping.clone(),
                        retired: self.upstream.retired().clone(),
                        drain: self.upstream.drain(),
                        jitter: state.limits.socket_jitter,
                    };
                    let mut response = response;
                    self.restrain(response.headers_mut(), state);
                    return Ok(tunnel::open(response, client, switching, ending));
                }
                // The origin declined: its answer is an ordinary one, on a connection that ends with it.
                let idle = self.upstream.idle_timeout();
                response.map(|incoming| Body::frames(tunnel::Declined::new(incoming, switching, idle)))
            }
            None => {
                let sent = upstream::send(&self.upstream, request, trace).await;
                sent.map_err(|e| refusal(&e, &self, limit_bytes))?.response.map(Body::origin)
            }
        };
        strip_hop(response.headers_mut());
        self.restrain(response.headers_mut(), state);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// What we say of the request, and nobody else.
    fn sign(&self, headers: &mut HeaderMap, uri: &Uri, id: &RequestId, mark: &HeaderValue) {
        let before = self.from_trusted.then(|| forwarded_before(headers)).flatten();
        strip_ours(headers);
        if self.strategy.is_on_platform_origin() {
            isolate::strip_credentials(headers);
        }
        let proto = if self.connection.is_tls { "https" } else { "http" };
        let proto_before = before.as_ref().and_then(|before| before.proto.clone());
        let peer = self.connection.peer.map(|peer| peer.ip().to_canonical());
        if let Some(peer) = peer {
            let peer = peer.to_string();
            let chain = match before.and_then(|before| before.chain) {
                Some(chain) => format!("{chain}, {peer}"),
                None => peer,
            };
            let node = chain.rsplit(", ").next().unwrap_or_default();
            let node = if node.contains(':') { format!("\"[{node}]\"") } else { node.to_owned() };
            let host = self.authority.to_str().unwrap_or_default();
            put(headers, header::FORWARDED, &format!("for={node};host=\"{host}\";proto={proto}"));
            put(headers, FORWARDED_FOR, &chain);
        }
        headers.append(CDN_LOOP, mark.clone());
        headers.insert(FORWARDED_PROTO, proto_before.unwrap_or(HeaderValue::from_static(proto)));
        headers.insert(FORWARDED_HOST, self.authority.clone());
        headers.insert(header::HOST, self.authority.clone());
        headers.insert(request_id::NAME, id.clone().into_value());
        match self.strategy {
            Strategy::Subdomain => {}
            Strategy::CustomDomain => {
                headers.insert(CUSTOM_DOMAIN, HeaderValue::from_static("true"));
            }
            Strategy::Path | Strategy::Query => {
                let host = self.authority.to_str().unwrap_or_default();
                let asked = uri.path_and_query().map_or("/", PathAndQuery::as_str);
                put(headers, ORIGINAL_URL, &format!("{proto}://{host}{asked}"));
                headers.insert(ROUTING_STRATEGY, HeaderValue::from_static(self.strategy.as_str()));
                put(headers, TARGET_WORKER, &self.worker);
            }
        }
    }

    /// What an origin may not say to the browser.
    fn restrain(&self, headers: &mut HeaderMap, state: &EdgeState) {
        for name in [super::VERSION, super::DIGEST, super::EPOCH] {
            headers.remove(name);
        }
        match self.strategy {
            Strategy::Subdomain => isolate::keep_to_own_host(headers, state.rules.base()),
            Strategy::CustomDomain => {}
            Strategy::Path | Strategy::Query => isolate::seal(headers),
        }
    }
}

/// What a trusted proxy said of the request.
struct Before {
    chain: Option<String>,
    proto: Option<HeaderValue>,
}

fn forwarded_before(headers: &HeaderMap) -> Option<Before> {
    let lines: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
    let chain = Some(client::chain(lines.into_iter())).filter(|chain| !chain.is_empty());
    let proto = headers.get(FORWARDED_PROTO).filter(|value| matches!(value.as_bytes(), b"http" | b"https"));
    Some(Before { chain, proto: proto.cloned() })
}

/// Headers that say what only we know. Servers of the CGI kind read `_` as `-`, so such spellings are ours too.
fn strip_ours(headers: &mut HeaderMap) {
    const OURS: [&str; 9] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "x-original-url",
        "x-routing-strategy",
        "x-target-worker",
        "x-custom-domain",
        "x-request-id",
    ];
    let is_ours = |name: &HeaderName| {
        let name = name.as_str();
        let is_like = |ours: &&str| {
            name.len() == ours.len()
                && name.bytes().zip(ours.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
        };
        matches!(name.as_bytes().first(), Some(b'x' | b'f')) && OURS.iter().any(is_like)
            || name == crate::routing::probe::HEADER
    };
    let found: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// Removes what is meant for this hop alone, also what `Connection` names.
fn strip_hop(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    if headers.contains_key(header::CONNECTION) {
        named = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            // Who names the host as a matter of this hop does not get to drop it.
            .filter(|name| *name != header::HOST)
            .collect::<Vec<HeaderName>>();
        for name in &named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::PROXY_AUTHORIZATION,
        header::PROXY_AUTHENTICATE,
        header::EXPECT,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    trailers::announce_allowed(headers, &named);
}

/// HTTP/2 clients send a cookie in crumbs, HTTP/1 servers read one line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(header::COOKIE).iter();
    if lines.next().is_some() && lines.next().is_some() {
        let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TE).iter();
    lines.any(|line| {
        let mut codings = line.as_bytes().split(|byte| *byte == b',');
        codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn refusal(failure: &Failure, forwarding: &Forwarding, limit_bytes: u64) -> EdgeRefusal {
    let refusal = match failure {
        Failure::Full => EdgeRefusal::WorkerBusy,
        Failure::Timeout => EdgeRefusal::WorkerTimeout,
        Failure::TooLarge => EdgeRefusal::BodyTooLarge { limit_bytes },
        Failure::Client => EdgeRefusal::ClientSilent,
        Failure::Unreachable(_) | Failure::Broken(_) => EdgeRefusal::WorkerUnreachable,
    };
    tracing::debug!(worker = %forwarding.worker, error = %crate::domain::cause::chain(failure), "an origin gave no answer");
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn left(map: &HeaderMap) -> Vec<String> {
        let mut left: Vec<String> =
            map.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        left
    }

    #[test]
    fn what_is_meant_for_one_hop_goes_no_further() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Secret , host"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
            ("x-secret", "1"),
            ("trailer", "X-Sum, X-Secret, Cookie"),
            ("host", "a"),
            ("cookie", "a=b"),
        ]);
        strip_hop(&mut map);
        assert_eq!(left(&map), ["cookie: a=b", "host: a", "trailer: x-sum"]);
    }

    #[test]
    fn what_only_we_know_no_client_can_say() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-forwarded_proto", "https"),
            ("x-forwarded-host", "other"),
            ("forwarded", "for=1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-routing-strategy", "path"),
            ("x-target-worker", "other"),
            ("x-custom-domain", "true"),
            ("x_custom_domain", "true"),
            ("x-request-id", "a"),
            ("x-custom-domains", "kept"),
            ("x-kept", "1"),
        ]);
        strip_ours(&mut map);
        assert_eq!(left(&map), ["x-custom-domains: kept", "x-kept: 1"]);
    }
}
