//! Owns what becomes known of a request on its way, for the access log and the counters.
//! Never changes what a request gets.

use std::sync::Arc;

use super::dispatch::Strategy;
use crate::runtime::SiteVersion;
use crate::runtime::upstream::{Trace, Upstream};

/// What a request turned out to be. Nothing in it costs more than a count of references.
#[derive(Debug, Default)]
pub struct Facts {
    pub strategy: Option<Strategy>,
    pub is_platform: bool,
    /// The host is the platform's own, where programs read what is refused.
    pub is_platform_host: bool,
    /// A custom domain led to another one.
    pub is_redirect: bool,
    pub worker: Option<Arc<str>>,
    pub version: Option<Arc<SiteVersion>>,
    /// Of the routes that it was resolved by; 0 where it was not.
    pub epoch: u64,
    pub upstream: Option<Arc<Upstream>>,
    pub trace: Trace,
}

/// Rides on the answer to a refused request.
#[derive(Debug, Clone, Copy)]
pub struct RefusalCode(pub &'static str);
