//! Owns what is told of one request's way to its origin, for logs and counters.
//! Never decides anything.

use std::time::Instant;

use super::Failure;

/// How a request went.
#[derive(Debug, Default)]
pub struct Trace {
    /// The number of the origin that was asked last.
    pub origin: Option<usize>,
    /// Tries beyond the first.
    pub retries: u32,
    pub opened: u32,
    pub reused: u32,
    /// Why there was no answer.
    pub failure: Option<FailureKind>,
    /// Until the head of the answer, or the failure.
    pub took_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Unreachable,
    Timeout,
    Broken,
    Full,
    /// The client's own.
    Client,
}

impl Trace {
    pub(super) fn ended(&mut self, since: Instant, failure: Option<&Failure>) {
        self.took_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.failure = failure.map(|failure| match failure {
            Failure::Unreachable(_) => FailureKind::Unreachable,
            Failure::Timeout => FailureKind::Timeout,
            Failure::Broken(_) => FailureKind::Broken,
            Failure::Full => FailureKind::Full,
            Failure::Client | Failure::TooLarge => FailureKind::Client,
        });
    }
}
