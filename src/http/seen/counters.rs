//! Owns the numbers of one serving thread. Only that thread adds to them; who reads them sees a moment ago.
//! Never has a number for each Worker, host or client: their count has no bound.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::routing::BadRequest;
use crate::runtime::upstream::{FailureKind, Trace};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Site,
    Upstream,
    Platform,
    Redirect,
    Refused,
}

pub const KINDS: [&str; 5] = ["site", "upstream", "platform", "redirect", "refused"];
/// By the first digit of the status; the first: the client left before there was one.
pub const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
pub const PROTOCOLS: [&str; 2] = ["http1", "http2"];
pub const FAILURES: [&str; 5] = ["unreachable", "timeout", "broken", "full", "client"];
pub const REASONS: [&str; 8] =
    ["line_end", "folding", "field", "request_line", "target", "length", "transfer_encoding", "too_large"];
/// Every code that the edge refuses with; the last counts those that this list does not know.
pub const CODES: [&str; 18] = [
    "INVALID_REQUEST",
    "INVALID_WORKER_NAME",
    "RESERVED_SUBDOMAIN",
    "WORKER_NOT_FOUND",
    "DEPLOYMENT_NOT_FOUND",
    "CUSTOM_DOMAIN_NOT_FOUND",
    "FORBIDDEN",
    "DATABASE_ERROR",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "REQUEST_TOO_LARGE",
    "MISSING_WORKER_NAME",
    "RATE_LIMITED",
    "OVERLOADED",
    "WORKER_FETCH_FAILED",
    "WORKER_TIMEOUT",
    "DISPATCH_FAILED",
    "OTHER",
];
/// Upper bounds of the durations' buckets, in µs.
pub const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// One number.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// No other thread adds, so this needs no exchange with one.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    fn less(&self) {
        self.0.store(self.0.load(Relaxed).saturating_sub(1), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The numbers; on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    pub requests: [[Count; CLASSES.len()]; KINDS.len()],
    /// One more than bounds: what took longer.
    pub durations: [[Count; BOUNDS_US.len() + 1]; KINDS.len()],
    pub duration_us: [Count; KINDS.len()],
    pub sent_bytes: [Count; KINDS.len()],
    pub connections: [Count; PROTOCOLS.len()],
    pub in_hand: Count,
    pub bad_requests: [Count; REASONS.len()],
    pub refusals: [Count; CODES.len()],
    pub failures: [Count; FAILURES.len()],
    pub retries: Count,
    pub opened: Count,
    pub reused: Count,
    /// Lines of the access log that were not written, there being too many of their sort.
    pub omitted: Count,
}

impl Counters {
    pub fn connection_opened(&self, protocol: Protocol) {
        self.connections[protocol as usize].add(1);
    }

    pub fn connection_closed(&self, protocol: Protocol) {
        self.connections[protocol as usize].less();
    }

    pub fn taken_in_hand(&self) {
        self.in_hand.add(1);
    }

    pub fn given(&self) {
        self.in_hand.less();
    }

    pub fn bad_request(&self, what: BadRequest) {
        let reason = match what {
            BadRequest::LineEnd => 0,
            BadRequest::Folding => 1,
            BadRequest::Field => 2,
            BadRequest::RequestLine => 3,
            BadRequest::Target => 4,
            BadRequest::Length => 5,
            BadRequest::TransferEncoding => 6,
            BadRequest::TooLarge { .. } => 7,
        };
        self.bad_requests[reason].add(1);
    }

    pub fn refused(&self, code: &str) {
        let at = CODES.iter().position(|known| *known == code).unwrap_or(CODES.len() - 1);
        self.refusals[at].add(1);
    }

    pub fn request(&self, kind: Kind, status: u16, took_us: u64, sent_bytes: u64) {
        let class = usize::from(status / 100).min(CLASSES.len() - 1);
        self.requests[kind as usize][class].add(1);
        let bucket = BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BOUNDS_US.len());
        self.durations[kind as usize][bucket].add(1);
        self.duration_us[kind as usize].add(took_us);
        self.sent_bytes[kind as usize].add(sent_bytes);
    }

    pub fn forwarded(&self, trace: &Trace) {
        self.retries.add(trace.retries.into());
        self.opened.add(trace.opened.into());
        self.reused.add(trace.reused.into());
        if let Some(failure) = trace.failure {
            let at = match failure {
                FailureKind::Unreachable => 0,
                FailureKind::Timeout => 1,
                FailureKind::Broken => 2,
                FailureKind::Full => 3,
                FailureKind::Client => 4,
            };
            self.failures[at].add(1);
        }
    }
}
