//! Owns reading the host of a request, and which of two contradicting ones counts: none.
//! Never believes a forwarded host from a peer that is not configured as a proxy.

use std::net::IpAddr;

use actix_web::dev::RequestHead;
use actix_web::guard::GuardContext;
use actix_web::http::header::{self, HeaderName};
use actix_web::web::Data;
use ipnet::IpNet;

use crate::http::edge::EdgeState;
use crate::routing::{EdgeRefusal, HostClass};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The peers whose `X-Forwarded-*` headers count.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither an IP address nor a network such as 10.0.0.0/8")]
pub struct TrustedProxyError(pub String);

impl TrustedProxies {
    /// Each entry is an address or a network in CIDR form.
    pub fn parse(entries: &[String]) -> Result<TrustedProxies, TrustedProxyError> {
        let network = |entry: &String| {
            let address = entry.parse::<IpAddr>().map(IpNet::from);
            address.or_else(|_| entry.parse::<IpNet>()).map_err(|_| TrustedProxyError(entry.clone()))
        };
        entries.iter().map(network).collect::<Result<_, _>>().map(TrustedProxies)
    }

    pub fn contains(&self, peer: IpAddr) -> bool {
        // A dual-stack listener shows IPv4 peers as ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

/// The authority that the client meant: exactly one, from the request target, from `Host`, or from a trusted proxy.
pub fn authority<'r>(head: &'r RequestHead, trusted: &TrustedProxies) -> Result<&'r str, EdgeRefusal> {
    let headers = head.headers();
    if headers.contains_key(FORWARDED_HOST) && head.peer_addr.is_some_and(|peer| trusted.contains(peer.ip()))
    {
        // Several proxies that each add a value leave no way to tell which one was ours.
        let forwarded = only_value(head, &FORWARDED_HOST)?.ok_or(EdgeRefusal::InvalidHost)?;
        return if forwarded.contains(',') { Err(EdgeRefusal::InvalidHost) } else { Ok(forwarded) };
    }
    let host = only_value(head, &header::HOST)?;
    let target = head.uri.authority().map(|authority| authority.as_str());
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(EdgeRefusal::InvalidHost),
        (Some(target), _) => Ok(target),
        (None, Some(host)) if !host.is_empty() => Ok(host),
        (None, _) => Err(EdgeRefusal::InvalidHost),
    }
}

/// Guard of the routes that exist on platform hosts only. Needs `Data<EdgeState>` in the app.
pub fn is_platform_host(context: &GuardContext<'_>) -> bool {
    let Some(state) = context.app_data::<Data<EdgeState>>() else { return false };
    let class = authority(context.head(), &state.trusted_proxies).and_then(|host| state.rules.classify(host));
    matches!(class, Ok(HostClass::Platform))
}

/// Guard of the edge: every other host, also a missing or malformed one, which the edge refuses.
pub fn is_worker_host(context: &GuardContext<'_>) -> bool {
    !is_platform_host(context)
}

fn only_value<'r>(head: &'r RequestHead, name: &HeaderName) -> Result<Option<&'r str>, EdgeRefusal> {
    let mut values = head.headers().get_all(name);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(EdgeRefusal::InvalidHost);
    }
    // Not `to_str`, which refuses the internationalized names that some clients send as they are.
    std::str::from_utf8(value.as_bytes()).map(|text| Some(text.trim())).map_err(|_| EdgeRefusal::InvalidHost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    fn asked(req: TestRequest) -> Result<String, EdgeRefusal> {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned(), "::1".to_owned()]).unwrap();
        let req = req.to_http_request();
        authority(req.head(), &trusted).map(str::to_owned)
    }

    fn with(headers: &[(&'static str, &'static str)]) -> TestRequest {
        headers.iter().fold(TestRequest::default(), |req, header| req.append_header(*header))
    }

    #[test]
    fn one_host_counts_and_contradictions_are_refused() {
        assert_eq!(asked(with(&[("host", "a.example:80")])), Ok("a.example:80".to_owned()));
        for headers in
            [&[][..], &[("host", "a"), ("host", "b")], &[("host", "a"), ("host", "a")], &[("host", "")]]
        {
            assert_eq!(asked(with(headers)), Err(EdgeRefusal::InvalidHost), "{headers:?}");
        }
        let absolute = |host| with(&[("host", host)]).uri("http://a.example/x");
        assert_eq!(asked(absolute("a.example")), Ok("a.example".to_owned()));
        assert_eq!(asked(absolute("b.example")), Err(EdgeRefusal::InvalidHost));
    }

    #[test]
    fn a_forwarded_host_counts_from_a_trusted_proxy_only() {
        let forwarded = || with(&[("host", "inner"), ("x-forwarded-host", "outer")]);
        let peer = |text: &str| text.parse().unwrap();
        assert_eq!(asked(forwarded()), Ok("inner".to_owned()));
        assert_eq!(asked(forwarded().peer_addr(peer("192.0.2.1:9"))), Ok("inner".to_owned()));
        assert_eq!(asked(forwarded().peer_addr(peer("10.1.2.3:9"))), Ok("outer".to_owned()));
        assert_eq!(asked(forwarded().peer_addr(peer("[::ffff:10.1.2.3]:9"))), Ok("outer".to_owned()));
        let two = with(&[("host", "inner"), ("x-forwarded-host", "a, b")]).peer_addr(peer("[::1]:9"));
        assert_eq!(asked(two), Err(EdgeRefusal::InvalidHost));
        assert_eq!(TrustedProxies::parse(&["proxy".to_owned()]).unwrap_err().0, "proxy");
    }
}
