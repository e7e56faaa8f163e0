//! Owns reading the host of a request, and which of two contradicting ones counts: none.
//! Never believes a forwarded host from a peer that is not configured as a proxy.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::{Uri, Version};
use ipnet::IpNet;

use crate::routing::{BadRequest, EdgeRefusal};

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
pub fn authority(head: &Parts, from_trusted: bool) -> Result<&str, EdgeRefusal> {
    // In HTTP/1 the guard has seen to it; HTTP/2 comes without one, and an origin is sent HTTP/1.
    if head.version == Version::HTTP_2 && !is_plain(&head.uri) {
        return Err(EdgeRefusal::Malformed(BadRequest::Target));
    }
    let host = only_value(&head.headers, &header::HOST)?;
    // RFC 9112 §3.2: in HTTP/1.1 a Host has to be there, also where the target or a proxy says it.
    if host.is_none() && head.version == Version::HTTP_11 {
        return Err(EdgeRefusal::InvalidHost);
    }
    if from_trusted && head.headers.contains_key(FORWARDED_HOST) {
        // Several proxies that each add a value leave no way to tell which one was ours.
        let forwarded = only_value(&head.headers, &FORWARDED_HOST)?.ok_or(EdgeRefusal::InvalidHost)?;
        return if forwarded.contains(',') { Err(EdgeRefusal::InvalidHost) } else { Ok(forwarded) };
    }
    let target = head.uri.authority().map(|authority| authority.as_str());
    match (target, host) {
        (Some(target), Some(host)) if !target.eq_ignore_ascii_case(host) => Err(EdgeRefusal::InvalidHost),
        (Some(target), _) => Ok(target),
        (None, Some(host)) if !host.is_empty() => Ok(host),
        (None, _) => Err(EdgeRefusal::InvalidHost),
    }
}

/// Whether every byte of the target may stand in a request line.
fn is_plain(uri: &Uri) -> bool {
    uri.path_and_query().is_none_or(|target| target.as_str().bytes().all(|byte| (0x21..0x7f).contains(&byte)))
}

fn only_value<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Result<Option<&'r str>, EdgeRefusal> {
    let mut values = headers.get_all(name).iter();
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

    fn asked(uri: &str, headers: &[(&str, &str)], from_trusted: bool) -> Result<String, EdgeRefusal> {
        let request = headers.iter().fold(http::Request::get(uri), |r, (n, v)| r.header(*n, *v));
        let (head, ()) = request.body(()).unwrap().into_parts();
        authority(&head, from_trusted).map(str::to_owned)
    }

    #[test]
    fn one_host_counts_and_contradictions_are_refused() {
        assert_eq!(asked("/", &[("host", "a.example:80")], false), Ok("a.example:80".to_owned()));
        for headers in
            [&[][..], &[("host", "a"), ("host", "b")], &[("host", "a"), ("host", "a")], &[("host", "")]]
        {
            assert_eq!(asked("/", headers, false), Err(EdgeRefusal::InvalidHost), "{headers:?}");
        }
        let absolute = |host| asked("http://a.example/x", &[("host", host)], false);
        assert_eq!(absolute("a.example"), Ok("a.example".to_owned()));
        assert_eq!(absolute("b.example"), Err(EdgeRefusal::InvalidHost));
        // The same target says it all where no Host is asked for.
        assert_eq!(asked("http://a.example/x", &[], false), Err(EdgeRefusal::InvalidHost));
        assert_eq!(asked("/x", &[("x-forwarded-host", "a.example")], true), Err(EdgeRefusal::InvalidHost));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let request = http::Request::get("http://a.example/x").version(version).body(()).unwrap();
            assert_eq!(authority(&request.into_parts().0, false), Ok("a.example"), "{version:?}");
        }
    }

    #[test]
    fn a_forwarded_host_counts_from_a_trusted_proxy_only() {
        let forwarded = &[("host", "inner"), ("x-forwarded-host", "outer")][..];
        assert_eq!(asked("/", forwarded, false), Ok("inner".to_owned()));
        assert_eq!(asked("/", forwarded, true), Ok("outer".to_owned()));
        let two = &[("host", "inner"), ("x-forwarded-host", "a, b")][..];
        assert_eq!(asked("/", two, true), Err(EdgeRefusal::InvalidHost));
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let trusted = TrustedProxies::parse(&["10.0.0.0/8".to_owned(), "::1".to_owned()]).unwrap();
        let contains = |peer: &str| trusted.contains(peer.parse().unwrap());
        assert!(contains("10.1.2.3") && contains("::ffff:10.1.2.3") && contains("::1"));
        assert!(!contains("192.0.2.1") && !contains("::2"));
        assert_eq!(TrustedProxies::parse(&["proxy".to_owned()]).unwrap_err().0, "proxy");
    }
}
