//! Use cases that handlers, the command line and (later) publishers share.
//! Knows the rules, not how they are asked for: no HTTP, no actor, no SQL here.

pub mod bootstrap;
pub mod certificates;
pub mod credentials;
pub mod dead_letters;
pub mod deployments;
pub mod diff;
pub mod domain_claims;
pub mod domains;
pub mod error;
pub mod line;
pub mod live;
pub mod projects;
pub mod seal;
pub mod sources;
pub mod status;
pub mod templates;
pub mod upstreams;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::blobs::Blobs;
use crate::config::Settings;
use crate::dns::Dns;
use crate::store::Store;

pub use error::ControlError;

/// What every use case works with. Made once, in the composition root.
#[derive(Debug)]
pub struct Control {
    pub settings: Arc<Settings>,
    pub store: Store,
    pub blobs: Blobs,
    pub sealer: seal::Sealer,
    /// What handshakes read.
    pub tls: Arc<crate::tls::Tls>,
    /// Who is asked for certificates, the first one first; empty: nobody.
    pub issuers: Vec<crate::tls::acme::Issuer>,
    /// The scheme, base domain and port of every address we print.
    pub addresses: domains::Addresses,
    /// Pulled whenever a row may have become due: the sweep rings at once instead of at its next tick.
    pub doorbell: Notify,
    /// Where queued deployments stand.
    pub line: line::LineView,
    pub dns: Dns,
    /// Pulled whenever another set of custom domains may be served.
    pub hosts_changed: Notify,
    pub running: Running,
    /// Brings this server's table to a change; waits for nothing else.
    pub routes: live::Routes,
}

/// The deployments that run in this process, so that a cancel reaches them without waiting for
/// their next look at the database.
#[derive(Debug, Default)]
pub struct Running(Mutex<HashMap<String, CancellationToken>>);

/// The names (`<deployment>.<fence>`) of attempts that run here.
pub type Names = std::collections::HashSet<String>;

impl Running {
    /// Enters a running attempt; it leaves when the answer is dropped.
    #[must_use]
    pub fn enter(&self, deployment: &str, fence: i64, cancel: CancellationToken) -> RunningEntry<'_> {
        let name = format!("{deployment}.{fence}");
        self.lock().insert(name.clone(), cancel);
        RunningEntry { running: self, name }
    }

    /// Tells a deployment that runs here to stop. One that runs elsewhere finds out by itself.
    pub fn cancel(&self, deployment: &str) {
        for (name, token) in self.lock().iter() {
            if name.strip_prefix(deployment).is_some_and(|rest| rest.starts_with('.')) {
                token.cancel();
            }
        }
    }

    #[must_use]
    pub fn names(&self) -> Names {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, CancellationToken>> {
        // A map of tokens is never half-changed, so a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves the list of running deployments when dropped.
#[derive(Debug)]
pub struct RunningEntry<'a> {
    running: &'a Running,
    name: String,
}

impl Drop for RunningEntry<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.name);
    }
}
