//! Owns the tables that requests are routed by, and their change while requests read them.
//! Never waits and never copies a table: each Worker and each host has a slot of its own, so a change costs the same
//! whether ten names are known or a million.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use papaya::HashMap;

use crate::domain::worker_name::looks_like_preview;
use crate::routing::host::{HostClass, HostRules};
use crate::routing::refusal::EdgeRefusal;
use crate::runtime::SiteVersion;
use crate::runtime::upstream::Upstream;

use hosts::Hosts;
use slots::Slots;

pub use slots::Slot;

mod hosts;
mod name;
mod slots;

/// One Worker and what it serves now. Immutable; a change puts another one into the Worker's slot.
#[derive(Debug, Clone)]
pub struct WorkerRoute {
    pub worker: Arc<str>,
    pub org_id: Box<str>,
    pub project_id: Box<str>,
    pub live: Live,
    /// The epoch of the change that made this route.
    pub epoch: u64,
}

/// What answers for a Worker.
#[derive(Debug, Clone)]
pub enum Live {
    /// The first deployment has not gone live yet.
    Nothing,
    Site(Arc<SiteVersion>),
    /// Two versions at once.
    Split(Arc<Split>),
    /// Origins that the operator registered.
    Upstream(Arc<Upstream>),
}

/// Two versions that share a Worker's clients.
#[derive(Debug)]
pub struct Split {
    pub live: Arc<SiteVersion>,
    pub other: Arc<SiteVersion>,
    /// Of a hundred clients, so many get `other`.
    pub percent: u8,
}

/// What a proved custom domain leads to. Domains that are pending or failed are not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomHost {
    Worker(Arc<str>),
    /// To another domain of the same project, such as `www` to the bare name.
    Redirect(Arc<str>),
    /// The project is switched off.
    Inactive,
}

/// A custom domain in the table, followed to where it leads.
#[derive(Debug, Clone)]
pub enum CustomDomain {
    Worker(Arc<WorkerRoute>),
    Redirect(Arc<str>),
    Inactive,
}

/// Whether a route took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Current,
    /// A newer one is in place already; this one was dropped.
    Outdated,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub target: Target,
    pub epoch: u64,
}

/// What was found behind a host.
#[derive(Debug, Clone)]
pub enum Target {
    Worker(Arc<WorkerRoute>),
    Preview(Arc<SiteVersion>),
    /// The host alone moves: scheme, path and query stay.
    Redirect(Arc<str>),
}

/// The tables as the requests of this process see them.
#[derive(Debug, Default)]
pub struct Tables {
    workers: Slots,
    previews: HashMap<Box<str>, Arc<SiteVersion>>,
    hosts: Hosts,
    /// Grows with every change of the routes, the same on every node.
    epoch: AtomicU64,
    /// Up to here the changes of custom domains are in the table.
    hosts_epoch: AtomicU64,
    workers_loaded: AtomicBool,
    hosts_loaded: AtomicBool,
    /// Both hold the table that an earlier run of this server kept, until the record is read.
    last_loaded: AtomicBool,
}

impl Tables {
    pub fn new() -> Tables {
        Tables::default()
    }

    /// Puts a Worker's route in place, for every thread at once. An older change never replaces a newer one,
    /// whoever sends it how late.
    pub fn publish_worker(&self, route: WorkerRoute) -> Published {
        self.workers.publish(route)
    }

    pub fn publish_preview(&self, label: &str, version: Arc<SiteVersion>) {
        self.previews.pin().insert(label.into(), version);
    }

    pub fn remove_preview(&self, label: &str) {
        self.previews.pin().remove(label);
    }

    /// Drops the Workers and previews that a whole reading of the record did not name: no domain reaches them any
    /// more, and what is open to an upstream's origins ends as after a switch.
    pub fn retain_workers(&self, worker: impl Fn(&str) -> bool, preview: impl Fn(&str) -> bool) {
        self.workers.retain(worker);
        self.previews.pin().retain(|label, _| preview(label));
    }

    /// The route of this moment, to build the next one from.
    pub fn worker(&self, name: &str) -> Option<Arc<WorkerRoute>> {
        self.workers.route(name)
    }

    pub fn has_preview(&self, label: &str) -> bool {
        self.previews.pin().contains_key(label)
    }

    pub fn preview(&self, label: &str) -> Option<Arc<SiteVersion>> {
        self.previews.pin().get(label).cloned()
    }

    /// Where a custom domain leads: the Worker's route of this moment, another domain, or nowhere.
    pub fn custom_domain(&self, host: &str) -> Option<CustomDomain> {
        self.hosts.get(host)
    }

    pub fn workers_loaded(&self) -> bool {
        self.workers_loaded.load(Ordering::Acquire)
    }

    /// What was published up to here makes this epoch. It never goes back.
    pub fn workers_are_at(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        self.workers_loaded.store(true, Ordering::Release);
    }

    /// Puts a custom domain in place. Where it leads to a Worker that the table does not know yet, it counts as
    /// inactive until that one is published.
    pub fn publish_host(&self, host: &str, to: &CustomHost) {
        self.hosts.publish(&self.workers, host, to);
    }

    pub fn remove_host(&self, host: &str) {
        self.hosts.remove(host);
    }

    /// A reading of the whole record begins: until its end, every domain that it names is published.
    pub fn hosts_reading_begins(&self) {
        self.hosts.begin_reading();
    }

    /// Drops the domains that the reading did not name, and answers how many.
    pub fn hosts_reading_ends(&self) -> usize {
        self.hosts.end_reading()
    }

    /// What was published up to here makes this epoch of the custom domains.
    pub fn hosts_are_at(&self, epoch: u64) {
        self.hosts_epoch.store(epoch, Ordering::Release);
        self.hosts_loaded.store(true, Ordering::Release);
    }

    /// What an earlier run kept is in place; what it has of epoch 0 gives way to whatever the record says.
    pub fn last_is_loaded(&self) {
        self.last_loaded.store(true, Ordering::Release);
    }

    /// Half of `/readyz`: both tables were loaded once.
    pub fn is_loaded(&self) -> bool {
        self.last_loaded.load(Ordering::Acquire) || self.is_of_the_record()
    }

    /// Both tables were read from the record since the start.
    pub fn is_of_the_record(&self) -> bool {
        self.workers_loaded.load(Ordering::Acquire) && self.hosts_loaded.load(Ordering::Acquire)
    }

    /// The epoch of the Worker table; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn hosts_epoch(&self) -> u64 {
        self.hosts_epoch.load(Ordering::Acquire)
    }

    /// Gives every custom domain with where it leads, in no order; stops at the first error.
    pub fn each_host<E>(&self, each: impl FnMut(&str, CustomHost) -> Result<(), E>) -> Result<(), E> {
        self.hosts.each(each)
    }

    /// How many Workers, previews and custom domains are known.
    pub fn counts(&self) -> Counts {
        Counts { workers: self.workers.len(), previews: self.previews.len(), hosts: self.hosts.len() }
    }

    pub fn resolve(&self, rules: &HostRules, host: &HostClass<'_>) -> Result<Resolved, EdgeRefusal> {
        match host {
            HostClass::Worker(label) => self.resolve_label(rules, label),
            HostClass::Custom(host) => self.resolve_custom(host),
            // Platform hosts have routes of their own; no Worker answers there.
            HostClass::Platform => Err(EdgeRefusal::WorkerNotFound),
        }
    }

    /// `label` is a Worker's name or a preview's label.
    pub fn resolve_label(&self, rules: &HostRules, label: &str) -> Result<Resolved, EdgeRefusal> {
        if !self.workers_loaded.load(Ordering::Acquire) && !self.last_loaded.load(Ordering::Acquire) {
            return Err(EdgeRefusal::TableNotLoaded);
        }
        // Read first: what is published after it may be newer than this epoch, never older.
        let epoch = self.epoch();
        if let Some(route) = self.workers.route(label) {
            return match route.live {
                Live::Nothing => Err(EdgeRefusal::WorkerNotFound),
                _ => Ok(Resolved { epoch: epoch.max(route.epoch), target: Target::Worker(route) }),
            };
        }
        // No Worker can have such a name, so a miss here is a preview that is gone.
        if looks_like_preview(label) {
            let version = self.previews.pin().get(label).cloned().ok_or(EdgeRefusal::DeploymentNotFound)?;
            return Ok(Resolved { target: Target::Preview(version), epoch });
        }
        Err(rules.unknown_worker(label))
    }

    fn resolve_custom(&self, host: &str) -> Result<Resolved, EdgeRefusal> {
        if !self.is_loaded() {
            return Err(EdgeRefusal::TableNotLoaded);
        }
        let epoch = self.epoch();
        match self.hosts.get(host) {
            None => Err(EdgeRefusal::CustomDomainNotFound),
            Some(CustomDomain::Inactive) => Err(EdgeRefusal::CustomDomainInvalid),
            Some(CustomDomain::Redirect(to)) => Ok(Resolved { target: Target::Redirect(to), epoch }),
            Some(CustomDomain::Worker(route)) => match route.live {
                Live::Nothing => Err(EdgeRefusal::CustomDomainInvalid),
                _ => Ok(Resolved { epoch: epoch.max(route.epoch), target: Target::Worker(route) }),
            },
        }
    }
}

/// Sizes of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub workers: usize,
    pub previews: usize,
    pub hosts: usize,
}

#[cfg(test)]
mod tests;
