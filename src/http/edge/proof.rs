//! Owns what a signed probe is told of an answer: by which routes and from which version it was given.
//! Never tells anybody else.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::runtime::SiteVersion;

pub(super) const VERSION_TEXT: &str = "x-libra-version";
pub(super) const DIGEST_TEXT: &str = "x-libra-digest";
pub(super) const EPOCH_TEXT: &str = "x-libra-epoch";
const VERSION: HeaderName = HeaderName::from_static(VERSION_TEXT);
const DIGEST: HeaderName = HeaderName::from_static(DIGEST_TEXT);
const EPOCH: HeaderName = HeaderName::from_static(EPOCH_TEXT);

/// What only a signed probe learns.
pub(super) struct Proof {
    pub epoch: u64,
    pub version: Option<Arc<SiteVersion>>,
    pub digest: Option<[u8; 32]>,
}

impl Proof {
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(EPOCH, HeaderValue::from(self.epoch));
        let version = self.version.and_then(|version| HeaderValue::from_str(version.id()).ok());
        if let Some(version) = version {
            headers.insert(VERSION, version);
        }
        if let Some(digest) = self.digest.and_then(|digest| HeaderValue::from_str(&hex::encode(digest)).ok())
        {
            headers.insert(DIGEST, digest);
        }
    }
}
