//! Owns which lines of a request go on to an origin, and what we say of it ourselves.
//! Never lets a client say for us who it is or where it came from, and never passes on what was meant for this hop alone
//! (RFC 9110 §7.6.1). Written straight into what is sent: a table of headers between the two would cost more than all
//! the rest.

use std::io::Write;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Uri, Version, request};

use super::client;
use super::dispatch::Strategy;
use super::forward::Forwarding;
use super::request_id::{self, RequestId};
use crate::routing::probe;
use crate::runtime::upstream::trailers;

/// Those that we set have it, and so has what we do not know.
const OUR_BEGINNING: &str = "x-forwarded-";
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// RFC 8586: who has passed a request on before.
const CDN_LOOP: &str = "cdn-loop";

/// What `Connection` says is of this hop alone.
#[derive(Debug, Default)]
pub(super) struct Named(Vec<HeaderName>);

impl Named {
    pub fn of(headers: &HeaderMap) -> Named {
        if !headers.contains_key(header::CONNECTION) {
            return Named::default();
        }
        let lines = headers.get_all(header::CONNECTION).iter();
        let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        let names = names.map(<[u8]>::trim_ascii).filter(|name| !is_usual(name));
        Named(names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect())
    }

    pub fn names(&self) -> &[HeaderName] {
        &self.0
    }

    /// Whether a line of this name goes no further.
    pub fn ends(&self, name: &HeaderName) -> bool {
        is_of_hop(name) || self.0.contains(name)
    }
}

/// The words that are no names of lines, or of lines that end here anyway.
fn is_usual(word: &[u8]) -> bool {
    [&b"keep-alive"[..], b"close", b"upgrade", b"te"].iter().any(|usual| word.eq_ignore_ascii_case(usual))
}

fn is_of_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "expect"
            | "http2-settings"
    )
}

/// What says only what we know, or what nobody in front of us was believed to know (`x-forwarded-port`, `x-real-ip`).
/// Servers of the CGI kind read `_` as `-`, so such spellings are ours too.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 7] = [
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "x-routing-strategy",
        "x-target-worker",
        "x-custom-domain",
        request_id::NAME_TEXT,
    ];
    let begins = |ours: &str| {
        name.len() >= ours.len()
            && name.bytes().zip(ours.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    matches!(name.as_bytes().first(), Some(b'x' | b'f'))
        && (begins(OUR_BEGINNING)
            || OURS.iter().any(|ours| name.len() == ours.len() && begins(ours))
            || probe::HEADER == name)
}

fn line(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

/// Writes what the client said and the origin may hear. Host and the lines about the body are the sender's.
pub(super) fn pass(to: &mut Vec<u8>, headers: &HeaderMap, named: &Named, strategy: Strategy) {
    for (name, value) in headers {
        let is_left_out = *name == header::HOST
            || *name == header::CONTENT_LENGTH
            || *name == header::COOKIE
            || *name == header::TRAILER
            // The browser's credentials are the platform's there.
            || (*name == header::AUTHORIZATION && strategy.is_on_platform_origin())
            || named.ends(name)
            || is_ours(name.as_str());
        if !is_left_out {
            line(to, name.as_str(), value.as_bytes());
        }
    }
    if !strategy.is_on_platform_origin() && !named.ends(&header::COOKIE) {
        // HTTP/2 clients send a cookie in crumbs, HTTP/1 servers read one line (RFC 9113 §8.2.3).
        let mut crumbs = headers.get_all(header::COOKIE).iter();
        if let Some(first) = crumbs.next() {
            to.extend_from_slice(b"cookie: ");
            to.extend_from_slice(first.as_bytes());
            for crumb in crumbs {
                to.extend_from_slice(b"; ");
                to.extend_from_slice(crumb.as_bytes());
            }
            to.extend_from_slice(b"\r\n");
        }
    }
    if headers.contains_key(header::TRAILER)
        && !named.ends(&header::TRAILER)
        && let Some(announced) = trailers::announced(headers, named.names())
    {
        line(to, "trailer", announced.as_bytes());
    }
    if takes_trailers(headers) {
        line(to, "te", b"trailers");
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::TE).iter();
    lines.any(|line| {
        let mut codings = line.as_bytes().split(|byte| *byte == b',');
        codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// Writes what we say of the request, and nobody else.
pub(super) fn sign(
    to: &mut Vec<u8>,
    about: &Forwarding,
    head: &request::Parts,
    id: &RequestId,
    mark: &HeaderValue,
) {
    let before = if about.from_trusted { Before::of(&head.headers) } else { Before::default() };
    let proto = if about.connection.is_tls { "https" } else { "http" };
    let host = about.authority.as_bytes();
    if let Some(peer) = about.connection.peer.map(|peer| peer.ip().to_canonical()) {
        to.extend_from_slice(if peer.is_ipv6() { &b"forwarded: for=\"["[..] } else { b"forwarded: for=" });
        let start = to.len();
        // A vector takes whatever it is given.
        let _never_fails = write!(to, "{peer}");
        let text = start..to.len();
        to.extend_from_slice(if peer.is_ipv6() { &b"]\";host=\""[..] } else { b";host=\"" });
        to.extend_from_slice(host);
        let _never_fails = write!(to, "\";proto={proto}\r\n{FORWARDED_FOR}: ");
        if let Some(chain) = before.chain {
            let _never_fails = write!(to, "{chain}, ");
        }
        to.extend_from_within(text);
        to.extend_from_slice(b"\r\n");
    }
    line(to, CDN_LOOP, mark.as_bytes());
    // Behind the client's own, so that each hop stands after the one before it (RFC 9110 §7.6.3).
    line(to, "via", via(head.version));
    line(to, FORWARDED_PROTO, before.proto.map_or(proto.as_bytes(), HeaderValue::as_bytes));
    line(to, "x-forwarded-host", host);
    line(to, request_id::NAME_TEXT, id.as_bytes());
    match about.strategy {
        Strategy::Subdomain => {}
        Strategy::CustomDomain => line(to, "x-custom-domain", b"true"),
        Strategy::Path | Strategy::Query => {
            to.extend_from_slice(b"x-original-url: ");
            to.extend_from_slice(proto.as_bytes());
            to.extend_from_slice(b"://");
            to.extend_from_slice(host);
            to.extend_from_slice(asked(&head.uri));
            to.extend_from_slice(b"\r\n");
            line(to, "x-routing-strategy", about.strategy.as_str().as_bytes());
            line(to, "x-target-worker", about.worker.as_bytes());
        }
    }
}

/// By what the request came to us.
fn via(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_2 => b"2.0 libra",
        Version::HTTP_10 => b"1.0 libra",
        _ => b"1.1 libra",
    }
}

/// Whether this process has passed the request on before. Each line is a list (RFC 8586 §2), whose writers may put
/// blanks as they like.
pub(super) fn has_passed(headers: &HeaderMap, mark: &HeaderValue) -> bool {
    let mut lines = headers.get_all(CDN_LOOP).iter();
    lines.any(|line| {
        let mut entries = line.as_bytes().split(|byte| *byte == b',');
        entries.any(|entry| words(entry).eq(words(mark.as_bytes())))
    })
}

fn words(entry: &[u8]) -> impl Iterator<Item = &[u8]> {
    entry.split(|byte| *byte == b';').map(<[u8]>::trim_ascii)
}

fn asked(uri: &Uri) -> &[u8] {
    uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes()
}

/// What a trusted proxy said of the request.
#[derive(Debug, Default)]
struct Before<'h> {
    chain: Option<String>,
    proto: Option<&'h HeaderValue>,
}

impl Before<'_> {
    fn of(headers: &HeaderMap) -> Before<'_> {
        let lines = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let chain = Some(client::chain(lines)).filter(|chain| !chain.is_empty());
        let proto =
            headers.get(FORWARDED_PROTO).filter(|value| matches!(value.as_bytes(), b"http" | b"https"));
        Before { chain, proto }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(fields: &[(&'static str, &'static str)], strategy: Strategy) -> Vec<String> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        let mut head = Vec::new();
        pass(&mut head, &map, &Named::of(&map), strategy);
        let mut lines: Vec<String> = String::from_utf8(head).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_is_meant_for_one_hop_goes_no_further() {
        let fields = [
            ("connection", "keep-alive, X-Secret , host"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "gzip, Trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
            ("x-secret", "1"),
            ("trailer", "X-Sum, X-Secret, Cookie"),
            ("host", "a"),
            ("content-length", "5"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("authorization", "Bearer x"),
        ];
        let lines = passed(&fields, Strategy::Subdomain);
        assert_eq!(lines, ["authorization: Bearer x", "cookie: a=b; c=d", "te: trailers", "trailer: x-sum"]);
        assert_eq!(passed(&fields, Strategy::Path), ["te: trailers", "trailer: x-sum"]);
    }

    #[test]
    fn who_passed_a_request_on_is_found_in_any_list() {
        let mark = HeaderValue::from_static("libra; id=a1");
        let passed = |lines: &[&'static str]| {
            let mut map = HeaderMap::new();
            for line in lines {
                map.append(CDN_LOOP, HeaderValue::from_static(line));
            }
            has_passed(&map, &mark)
        };
        assert!(passed(&["libra; id=a1"]) && passed(&["other; x=y, libra; id=a1, third"]));
        assert!(passed(&["other", "one,libra;id=a1"]));
        assert!(!passed(&[]) && !passed(&["libra"]) && !passed(&["libra; id=a1; b=c", "libra; id=a2"]));
    }

    #[test]
    fn what_only_we_know_no_client_can_say() {
        let fields = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-forwarded_proto", "https"),
            ("x-forwarded-host", "other"),
            ("x-forwarded-port", "443"),
            ("x_forwarded-ssl", "on"),
            ("x-forwarded_prefix", "/admin"),
            ("x-forwarded-client-cert", "By=..."),
            ("x-real-ip", "1.1.1.1"),
            ("x_real_ip", "1.1.1.1"),
            ("forwarded", "for=1.1.1.1"),
            ("x-original-url", "/admin"),
            ("x-routing-strategy", "path"),
            ("x-target-worker", "other"),
            ("x-custom-domain", "true"),
            ("x_custom_domain", "true"),
            ("x-request-id", "a"),
            ("x-libra-probe", "a"),
            ("x-custom-domains", "kept"),
            ("x-kept", "1"),
            ("x-forwarder", "kept"),
            ("x-real-ips", "kept"),
        ];
        let kept = ["x-custom-domains: kept", "x-forwarder: kept", "x-kept: 1", "x-real-ips: kept"];
        assert_eq!(passed(&fields, Strategy::Subdomain), kept);
    }
}
