//! Owns what is answered before any Worker is looked for: issuers' questions, and the way to HTTPS.
//! Never reads a certificate's key and never answers for a name that no order asked about.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Response, StatusCode};

use super::{Body, Connection, describe, tunnel};
use crate::domain::hostname::Hostname;
use crate::routing::{HostClass, HostRules};
use crate::tls::{CertificateTable, Challenges};

const CHALLENGES: &str = "/.well-known/acme-challenge/";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const HTTPS_PORT: u16 = 443;

/// What handshakes read, as far as requests need it.
#[derive(Debug, Default)]
pub struct Secure {
    pub challenges: Arc<Challenges>,
    /// `None`: nobody is sent to HTTPS.
    pub redirect: Option<ToHttps>,
}

#[derive(Debug)]
pub struct ToHttps {
    pub certificates: Arc<CertificateTable>,
    /// Where clients find HTTPS.
    pub port: u16,
}

/// An answer that no Worker gives.
#[derive(Debug)]
pub enum Early {
    KeyAuthorization(String),
    ToHttps(String),
    /// Of a WebSocket's handshake: few clients follow it, so that it is said in words too.
    ToWss(String),
}

/// A request and what is known of it.
pub struct Met<'r, 'h> {
    pub head: &'r Parts,
    pub connection: Connection,
    pub from_trusted: bool,
    pub authority: &'r str,
    pub class: &'r HostClass<'h>,
}

impl Secure {
    /// The answer to an issuer, or to who should have come by HTTPS.
    pub fn early(&self, met: &Met<'_, '_>, rules: &HostRules) -> Option<Early> {
        let path = met.head.uri.path();
        if let Some(token) = path.strip_prefix(CHALLENGES) {
            // Never sent to HTTPS: there may be no certificate yet, or one that has ended.
            let HostClass::Custom(host) = met.class else { return None };
            return self.challenges.http01(host, token).map(Early::KeyAuthorization);
        }
        let to = self.redirect.as_ref().filter(|_| path.starts_with('/') && met.came_by_http())?;
        let host: Cow<'_, str> = match met.class {
            HostClass::Platform => Hostname::parse(met.authority).ok()?.as_str().to_owned().into(),
            HostClass::Worker(label) => format!("{label}.{}", rules.base()).into(),
            HostClass::Custom(host) => Cow::Borrowed(host),
        };
        if !to.certificates.has(&host) {
            return None;
        }
        let port = if to.port == HTTPS_PORT { String::new() } else { format!(":{}", to.port) };
        let asked = met.head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if tunnel::asked_for(met.head) {
            return Some(Early::ToWss(format!("wss://{host}{port}{asked}")));
        }
        Some(Early::ToHttps(format!("https://{host}{port}{asked}")))
    }
}

impl Met<'_, '_> {
    /// A trusted proxy says how its client came; one that says nothing may speak HTTPS itself.
    fn came_by_http(&self) -> bool {
        if self.connection.is_tls {
            return false;
        }
        let said = self.head.headers.get(FORWARDED_PROTO).map(HeaderValue::as_bytes);
        !self.from_trusted || said.is_some_and(|proto| proto.eq_ignore_ascii_case(b"http"))
    }
}

impl Early {
    pub fn answer(self) -> Response<Body> {
        match self {
            Self::KeyAuthorization(text) => {
                let mut response = Response::new(Body::bytes(text.into()));
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                let headers = response.headers_mut();
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Self::ToHttps(address) => sent_to(&address, Body::empty()),
            Self::ToWss(address) => {
                let words = format!("WebSockets of this host are served by TLS: connect to {address}\n");
                let mut response = sent_to(&address, Body::bytes(words.into()));
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                response
            }
        }
    }
}

fn sent_to(address: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(address) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    // Kept by a browser, it would outlive the certificate.
    response.headers_mut().insert(header::CACHE_CONTROL, describe::revalidate());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ChallengeKind;
    use crate::tls::Outstanding;

    fn secure() -> Secure {
        let challenges = Arc::new(Challenges::default());
        challenges.replace(
            1,
            vec![Outstanding {
                hostname: "shop.example.com".into(),
                kind: ChallengeKind::Http01,
                token: "t".into(),
                key_authorization: "t.thumb".into(),
            }],
        );
        let certificates = Arc::new(CertificateTable::new("", Arc::clone(&challenges)));
        let made =
            crate::tls::test_certificate(&["*.libra.localhost", "shop.example.com", "libra.localhost"]);
        certificates.replace_files([Arc::new(made)]);
        Secure { challenges, redirect: Some(ToHttps { certificates, port: 443 }) }
    }

    /// What is answered: `From` says what a trusted proxy said, if there is one.
    fn early(secure: &Secure, url: &str, is_tls: bool, proxy: Option<&str>) -> Option<Early> {
        let rules = HostRules::new("libra.localhost", &[], &[]).unwrap();
        let mut request = http::Request::get(url);
        if let Some(proto) = proxy.filter(|proto| !proto.is_empty()) {
            request = request.header(FORWARDED_PROTO, proto);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let authority = head.uri.authority().unwrap().as_str();
        let class = rules.classify(authority).unwrap();
        let connection = Connection { peer: None, is_tls, takes_files: false };
        let from_trusted = proxy.is_some();
        secure.early(&Met { head: &head, connection, from_trusted, authority, class: &class }, &rules)
    }

    fn sent(url: &str, is_tls: bool, proxy: Option<&str>) -> Option<String> {
        match early(&secure(), url, is_tls, proxy)? {
            Early::ToHttps(address) | Early::ToWss(address) => Some(address),
            Early::KeyAuthorization(_) => None,
        }
    }

    #[test]
    fn who_comes_in_clear_is_sent_to_https_where_there_is_a_certificate() {
        for (url, to) in [
            ("http://Shop.Example.com:8080/a?b=c", "https://shop.example.com/a?b=c"),
            ("http://blog.libra.localhost/", "https://blog.libra.localhost/"),
            ("http://libra.localhost/docs", "https://libra.localhost/docs"),
            ("http://shop.example.com//evil.example/", "https://shop.example.com//evil.example/"),
        ] {
            assert_eq!(sent(url, false, None).as_deref(), Some(to), "{url}");
            assert_eq!(sent(url, true, None), None, "{url}");
        }
        for url in ["http://other.example.com/", "http://127.0.0.1/", "http://localhost/"] {
            assert_eq!(sent(url, false, None), None, "{url}");
        }
    }

    #[test]
    fn a_trusted_proxy_says_how_its_client_came() {
        let url = "http://shop.example.com/";
        assert!(sent(url, false, Some("http")).is_some());
        for said in ["https", ""] {
            assert_eq!(sent(url, false, Some(said)), None, "{said}");
        }
    }

    #[test]
    fn a_challenge_is_answered_on_its_host_by_either_way_and_its_path_is_sent_nowhere() {
        let secure = secure();
        for is_tls in [false, true] {
            let ask = |url: &str| early(&secure, url, is_tls, None);
            let answer = ask("http://shop.example.com/.well-known/acme-challenge/t");
            assert!(matches!(answer, Some(Early::KeyAuthorization(text)) if text == "t.thumb"));
            assert!(ask("http://shop.example.com/.well-known/acme-challenge/u").is_none());
            assert!(ask("http://libra.localhost/.well-known/acme-challenge/t").is_none());
        }
    }
}
