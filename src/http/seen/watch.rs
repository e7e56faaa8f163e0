//! Owns watching one request from its head to the last byte of its answer, or to where it was given up.
//! Never holds anything back: what it keeps are counts of references and numbers.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use super::Seen;
use super::counters::Kind;
use crate::http::edge::facts::{Facts, RefusalCode};
use crate::http::edge::{Connection, TrustedProxies, client, request_id};
use crate::routing::BadRequest;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// A request that is being answered. Dropped, it is counted and its line is written.
#[derive(Debug)]
pub struct Watch {
    seen: Rc<Seen>,
    started: Instant,
    pub(super) at: SystemTime,
    pub(super) client: Option<IpAddr>,
    pub(super) is_tls: bool,
    pub(super) version: Version,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) host: Option<HeaderValue>,
    pub facts: Facts,
    pub(super) id: Option<HeaderValue>,
    pub(super) code: Option<&'static str>,
    /// 0 until there is an answer.
    pub(super) status: u16,
    pub(super) sent_bytes: u64,
    is_whole: bool,
}

impl Watch {
    pub fn begin<B>(
        seen: &Rc<Seen>,
        request: &Request<B>,
        connection: Connection,
        trusted: &TrustedProxies,
        bad: Option<BadRequest>,
    ) -> Self {
        if let Some(bad) = bad {
            seen.counters.bad_request(bad);
        }
        let headers = request.headers();
        let peer = connection.peer.map(|peer| peer.ip());
        let from_trusted = peer.is_some_and(|peer| trusted.contains(peer));
        let lines = || headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
        let forwarded_host = headers.get(FORWARDED_HOST).filter(|_| from_trusted);
        Self {
            seen: Rc::clone(seen),
            started: Instant::now(),
            at: SystemTime::now(),
            client: peer.map(|peer| client::client(peer, lines(), trusted)),
            is_tls: connection.is_tls,
            version: request.version(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: forwarded_host.or_else(|| headers.get(header::HOST)).cloned(),
            facts: Facts::default(),
            id: None,
            code: None,
            status: 0,
            sent_bytes: 0,
            is_whole: false,
        }
    }

    /// The head of the answer is there.
    pub fn answered<B>(&mut self, response: &Response<B>) {
        self.status = response.status().as_u16();
        self.code = response.extensions().get::<RefusalCode>().map(|code| code.0);
        self.id = response.headers().get(request_id::NAME).cloned();
        // These have no body, whatever their length says.
        self.is_whole = self.method == Method::HEAD
            || response.status().is_informational()
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    }

    /// The body is over, or nobody takes it any more.
    pub fn ended(&mut self, sent_bytes: u64, is_whole: bool) {
        self.sent_bytes = sent_bytes;
        self.is_whole |= is_whole;
    }

    pub(super) fn is_aborted(&self) -> bool {
        !self.is_whole
    }

    fn kind(&self) -> Kind {
        if self.code.is_some() {
            Kind::Refused
        } else if self.facts.is_redirect {
            Kind::Redirect
        } else if self.facts.upstream.is_some() {
            Kind::Upstream
        } else if self.facts.version.is_some() {
            Kind::Site
        } else if self.facts.is_platform {
            Kind::Platform
        } else {
            Kind::Refused
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let took_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let counters = &self.seen.counters;
        counters.request(self.kind(), self.status, took_us, self.sent_bytes);
        if let Some(code) = self.code {
            counters.refused(code);
        }
        if self.facts.upstream.is_some() {
            counters.forwarded(&self.facts.trace);
        }
        self.seen.write(self, took_us);
    }
}
