//! Owns the tables that requests are routed by, and their change while requests read them.
//! Never waits and never copies a table: each Worker and each host has a slot of its own, so a change costs the same
//! whether ten names are known or a million.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use papaya::HashMap;

use crate::domain::worker_name::looks_like_preview;
use crate::routing::host::{HostClass, HostRules};
use crate::routing::refusal::EdgeRefusal;
use crate::runtime::SiteVersion;
use crate::runtime::upstream::Upstream;

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

/// The place of one Worker. Custom domains point at it, so that a switch needs no second change.
#[derive(Debug)]
pub struct Slot(ArcSwap<WorkerRoute>);

impl Slot {
    /// What the Worker serves at this moment.
    pub fn route(&self) -> Arc<WorkerRoute> {
        self.0.load_full()
    }
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

#[derive(Debug)]
enum CustomEntry {
    /// The Worker is known: its slot.
    Slot(Arc<Slot>),
    Redirect(Arc<str>),
    /// The project is switched off, or has no Worker in the table yet.
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
    workers: HashMap<Box<str>, Arc<Slot>>,
    previews: HashMap<Box<str>, Arc<SiteVersion>>,
    hosts: HashMap<Box<str>, CustomEntry>,
    /// Grows with every change of the routes, the same on every node.
    epoch: AtomicU64,
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
        let (name, epoch, route) = (Arc::clone(&route.worker), route.epoch, Arc::new(route));
        let workers = self.workers.pin();
        let fresh = || Arc::new(Slot(ArcSwap::from(Arc::clone(&route))));
        let slot = workers.get_or_insert_with((&*name).into(), fresh);
        // An insertion that was ours has put the route in place already; doing it again changes nothing.
        let previous = slot
            .0
            .rcu(|current| if current.epoch > epoch { Arc::clone(current) } else { Arc::clone(&route) });
        if previous.epoch > epoch { Published::Outdated } else { Published::Current }
    }

    pub fn publish_preview(&self, label: &str, version: Arc<SiteVersion>) {
        self.previews.pin().insert(label.into(), version);
    }

    pub fn remove_preview(&self, label: &str) {
        self.previews.pin().remove(label);
    }

    /// Drops the Workers and previews that a whole reading of the record did not name.
    pub fn retain_workers(&self, worker: impl Fn(&str) -> bool, preview: impl Fn(&str) -> bool) {
        self.workers.pin().retain(|name, _| worker(name));
        self.previews.pin().retain(|label, _| preview(label));
    }

    /// The route of this moment, to build the next one from.
    pub fn worker(&self, name: &str) -> Option<Arc<WorkerRoute>> {
        self.workers.pin().get(name).map(|slot| slot.route())
    }

    pub fn has_preview(&self, label: &str) -> bool {
        self.previews.pin().contains_key(label)
    }

    pub fn preview(&self, label: &str) -> Option<Arc<SiteVersion>> {
        self.previews.pin().get(label).cloned()
    }

    /// Where a custom domain leads: the Worker's route of this moment, another domain, or nowhere.
    pub fn custom_domain(&self, host: &str) -> Option<CustomDomain> {
        Some(match self.hosts.pin().get(host)? {
            CustomEntry::Slot(slot) => CustomDomain::Worker(slot.route()),
            CustomEntry::Redirect(to) => CustomDomain::Redirect(Arc::clone(to)),
            CustomEntry::Inactive => CustomDomain::Inactive,
        })
    }

    pub fn workers_loaded(&self) -> bool {
        self.workers_loaded.load(Ordering::Acquire)
    }

    /// What was published up to here makes this epoch. It never goes back.
    pub fn workers_are_at(&self, epoch: u64) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
        self.workers_loaded.store(true, Ordering::Release);
    }

    /// Puts a custom domain in place; false where it leads to a Worker that the table does not know yet. It counts as
    /// inactive then, until it is published again.
    pub fn publish_host(&self, host: &str, to: &CustomHost) -> bool {
        let (entry, is_placed) = match to {
            CustomHost::Worker(worker) => match self.workers.pin().get(&**worker) {
                Some(slot) => (CustomEntry::Slot(Arc::clone(slot)), true),
                None => (CustomEntry::Inactive, false),
            },
            CustomHost::Redirect(target) => (CustomEntry::Redirect(Arc::clone(target)), true),
            CustomHost::Inactive => (CustomEntry::Inactive, true),
        };
        self.hosts.pin().insert(host.into(), entry);
        is_placed
    }

    pub fn remove_host(&self, host: &str) {
        self.hosts.pin().remove(host);
    }

    /// Drops the domains that a whole reading of the record did not name.
    pub fn retain_hosts(&self, host: impl Fn(&str) -> bool) {
        self.hosts.pin().retain(|name, _| host(name));
    }

    pub fn hosts_are_loaded(&self) {
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
        if let Some(slot) = self.workers.pin().get(label) {
            let route = slot.route();
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
        let hosts = self.hosts.pin();
        match hosts.get(host) {
            None => Err(EdgeRefusal::CustomDomainNotFound),
            Some(CustomEntry::Inactive) => Err(EdgeRefusal::CustomDomainInvalid),
            Some(CustomEntry::Redirect(to)) => {
                Ok(Resolved { target: Target::Redirect(Arc::clone(to)), epoch })
            }
            Some(CustomEntry::Slot(slot)) => {
                let route = slot.route();
                match route.live {
                    Live::Nothing => Err(EdgeRefusal::CustomDomainInvalid),
                    _ => Ok(Resolved { epoch: epoch.max(route.epoch), target: Target::Worker(route) }),
                }
            }
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
