//! Owns which fields may come behind a body, in either direction (RFC 9110 §6.5.1).
//! Never lets one through that is read before the body: whoever merges trailers into the head would take it for ours.

use http::header::{self, HeaderMap, HeaderName};

/// Framing, routing, credentials, controls and conditions of a request, what an answer means and how it is kept,
/// and what only we may say. `_` is read as `-`, as servers of the CGI kind do.
const NEVER: [&str; 40] = [
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "authorization",
    "cache-control",
    "cdn-loop",
    "clear-site-data",
    "connection",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-custom-domain",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-routing-strategy",
];
/// Beginnings of such names.
const NEVER_BEGINNING: [&str; 9] = [
    "access-control-",
    "content-",
    "cross-origin-",
    "if-",
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-libra-",
    "x-target-",
];
/// These are made to come last (RFC 9530).
const DIGESTS: [&str; 2] = ["content-digest", "repr-digest"];

/// Removes what may not come behind a body.
pub fn keep_allowed(trailers: &mut HeaderMap) {
    let found: Vec<HeaderName> = trailers.keys().filter(|name| !is_allowed(name)).cloned().collect();
    for name in found {
        trailers.remove(name);
    }
}

/// What `Trailer` may announce: what may come, and was not `named` as a matter of this hop. What is not announced,
/// hyper does not write over HTTP/1.
pub fn announced(head: &HeaderMap, named: &[HeaderName]) -> Option<String> {
    let lines = head.get_all(header::TRAILER).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let allowed: Vec<HeaderName> = names
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| is_allowed(name) && !named.contains(name))
        .collect();
    let allowed: Vec<&str> = allowed.iter().map(HeaderName::as_str).collect();
    (!allowed.is_empty()).then(|| allowed.join(", "))
}

fn is_allowed(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    DIGESTS.contains(&&*name)
        || (!NEVER.contains(&&*name) && !NEVER_BEGINNING.iter().any(|beginning| name.starts_with(beginning)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_is_read_before_a_body_never_comes_behind_it() {
        let mut trailers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "set-cookie",
            "connection",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "cdn-loop",
            "x-libra-version",
            "x-target-worker",
            "if-match",
            "content-type",
            "proxy-authorization",
            "access-control-allow-origin",
        ] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
        }
        for name in ["x-sum", "content-digest", "etag", "server-timing", "grpc-status"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("a"));
        }
        keep_allowed(&mut trailers);
        let mut left: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-digest", "etag", "grpc-status", "server-timing", "x-sum"]);
    }

    #[test]
    fn only_what_may_come_is_announced() {
        let told = |lines: &[&'static str], named: &[HeaderName]| {
            let mut head = HeaderMap::new();
            for line in lines {
                head.append(header::TRAILER, HeaderValue::from_static(line));
            }
            announced(&head, named)
        };
        let hop = [HeaderName::from_static("x-hop")];
        assert_eq!(told(&["X-Sum, Cookie , x-hop", "ETag"], &hop).as_deref(), Some("x-sum, etag"));
        assert!(told(&["Host, X_Forwarded_For"], &[]).is_none());
        assert!(told(&[], &hop).is_none());
    }
}
