//! Owns the two immutable tables that requests are routed by, and their exchange while requests read them.
//! Never waits: a reader takes the table of that moment, a writer puts the next one beside it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::domain::worker_name::looks_like_preview;
use crate::routing::host::{HostClass, HostRules};
use crate::routing::refusal::EdgeRefusal;
use crate::runtime::SiteVersion;

/// One Worker and what it serves now.
#[derive(Debug, Clone)]
pub struct WorkerRoute {
    pub worker: Arc<str>,
    pub org_id: Box<str>,
    pub project_id: Box<str>,
    /// `None` until the first deployment went live.
    pub live: Option<Arc<SiteVersion>>,
}

/// All Workers; written by `WorkerRegistry` alone.
#[derive(Debug, Default)]
pub struct WorkerTable {
    /// Grows with every change of the routes, the same on every node.
    pub epoch: u64,
    /// By Worker name.
    pub live: HashMap<Box<str>, Arc<WorkerRoute>>,
    /// By preview label, whole.
    pub previews: HashMap<Box<str>, Arc<SiteVersion>>,
}

/// What a proved custom domain leads to. Domains that are pending or failed are not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CustomHost {
    Worker(Arc<str>),
    /// The project is switched off.
    Inactive,
}

/// All custom domains; written by `DomainResolver` alone.
#[derive(Debug, Default)]
pub struct HostTable {
    pub epoch: u64,
    /// By host in its stored form.
    pub hosts: HashMap<Box<str>, CustomHost>,
}

/// Whether a table took its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Current,
    /// A newer epoch is in place already; this table was dropped.
    Outdated,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub version: Arc<SiteVersion>,
    pub epoch: u64,
}

/// Both tables as the requests of this process see them; empty until the first one was published.
#[derive(Debug, Default)]
pub struct Tables {
    workers: ArcSwapOption<WorkerTable>,
    hosts: ArcSwapOption<HostTable>,
}

impl Tables {
    pub fn new() -> Tables {
        Tables::default()
    }

    /// Puts a table in place. An older epoch never replaces a newer one, whoever sends it how late.
    pub fn publish_workers(&self, table: WorkerTable) -> Published {
        let epoch = table.epoch;
        publish(&self.workers, table, |current| current.epoch > epoch)
    }

    /// As [`Tables::publish_workers`], for custom domains.
    pub fn publish_hosts(&self, table: HostTable) -> Published {
        let epoch = table.epoch;
        publish(&self.hosts, table, |current| current.epoch > epoch)
    }

    /// The table of this moment, to build the next one from. `None` before the first.
    pub fn workers(&self) -> Option<Arc<WorkerTable>> {
        self.workers.load_full()
    }

    pub fn hosts(&self) -> Option<Arc<HostTable>> {
        self.hosts.load_full()
    }

    /// Half of `/readyz`: both tables were loaded once.
    pub fn is_loaded(&self) -> bool {
        self.workers.load().is_some() && self.hosts.load().is_some()
    }

    /// The epoch of the Worker table; 0 before the first.
    pub fn epoch(&self) -> u64 {
        self.workers.load().as_ref().map_or(0, |table| table.epoch)
    }

    pub fn resolve(&self, rules: &HostRules, host: &HostClass<'_>) -> Result<Resolved, EdgeRefusal> {
        match host {
            HostClass::Worker(label) => self.resolve_label(rules, label),
            HostClass::Custom(host) => self.resolve_custom(host),
            // Platform hosts have routes of their own; no Worker answers there.
            HostClass::Platform => Err(EdgeRefusal::WorkerNotFound),
        }
    }

    fn resolve_label(&self, rules: &HostRules, label: &str) -> Result<Resolved, EdgeRefusal> {
        let guard = self.workers.load();
        let table = guard.as_ref().ok_or(EdgeRefusal::TableNotLoaded)?;
        if let Some(route) = table.live.get(label) {
            let version = route.live.clone().ok_or(EdgeRefusal::WorkerNotFound)?;
            return Ok(Resolved { version, epoch: table.epoch });
        }
        // No Worker can have such a name, so a miss here is a preview that is gone.
        if looks_like_preview(label) {
            let version = table.previews.get(label).cloned().ok_or(EdgeRefusal::DeploymentNotFound)?;
            return Ok(Resolved { version, epoch: table.epoch });
        }
        Err(rules.unknown_worker(label))
    }

    fn resolve_custom(&self, host: &str) -> Result<Resolved, EdgeRefusal> {
        let hosts = self.hosts.load();
        let hosts = hosts.as_ref().ok_or(EdgeRefusal::TableNotLoaded)?;
        match hosts.hosts.get(host) {
            None => Err(EdgeRefusal::CustomDomainNotFound),
            Some(CustomHost::Inactive) => Err(EdgeRefusal::CustomDomainInvalid),
            Some(CustomHost::Worker(worker)) => {
                let workers = self.workers.load();
                let table = workers.as_ref().ok_or(EdgeRefusal::TableNotLoaded)?;
                let version = table.live.get(&**worker).and_then(|route| route.live.clone());
                let version = version.ok_or(EdgeRefusal::CustomDomainInvalid)?;
                Ok(Resolved { version, epoch: table.epoch })
            }
        }
    }
}

fn publish<T>(slot: &ArcSwapOption<T>, table: T, is_newer: impl Fn(&T) -> bool) -> Published {
    let next = Some(Arc::new(table));
    loop {
        let current = slot.load();
        if current.as_ref().is_some_and(|current| is_newer(current)) {
            return Published::Outdated;
        }
        // Ends: only a publish that took its place at this very moment sends us round again.
        let previous = slot.compare_and_swap(&*current, next.clone());
        let unchanged = match (previous.as_ref(), current.as_ref()) {
            (None, None) => true,
            (Some(previous), Some(current)) => Arc::ptr_eq(previous, current),
            _ => false,
        };
        if unchanged {
            return Published::Current;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Manifest, SiteVersion};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn version(id: &str) -> Arc<SiteVersion> {
        let manifest = Manifest { version: 1, files: vec![], pack_digest: "00".repeat(32), pack_size: 0 };
        Arc::new(SiteVersion::new(id, "blog".into(), "/nowhere".into(), 0, &manifest).unwrap())
    }

    fn table(epoch: u64, live: Option<Arc<SiteVersion>>) -> WorkerTable {
        let route = WorkerRoute { worker: "blog".into(), org_id: "o".into(), project_id: "p".into(), live };
        WorkerTable {
            epoch,
            live: HashMap::from([("blog".into(), Arc::new(route))]),
            previews: HashMap::from([("0123456789ab--blog".into(), version("preview"))]),
        }
    }

    fn rules() -> HostRules {
        HostRules::new("libra.localhost", &[], &[]).unwrap()
    }

    fn ask(tables: &Tables, host: &str) -> Result<String, EdgeRefusal> {
        let rules = rules();
        let resolved = tables.resolve(&rules, &rules.classify(host)?)?;
        Ok(resolved.version.id().to_owned())
    }

    #[test]
    fn hosts_lead_to_live_versions_previews_and_clear_refusals() {
        let tables = Tables::new();
        assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::TableNotLoaded));
        assert_eq!(ask(&tables, "www.example.com"), Err(EdgeRefusal::TableNotLoaded));
        tables.publish_workers(table(1, Some(version("one"))));
        let host = |name: &str, to| (name.into(), to);
        tables.publish_hosts(HostTable {
            epoch: 1,
            hosts: HashMap::from([
                host("www.example.com", CustomHost::Worker("blog".into())),
                host("off.example.com", CustomHost::Inactive),
                host("empty.example.com", CustomHost::Worker("nobody".into())),
            ]),
        });
        assert!(tables.is_loaded());
        assert_eq!(ask(&tables, "Blog.libra.localhost:3008"), Ok("one".to_owned()));
        assert_eq!(ask(&tables, "0123456789ab--blog.libra.localhost"), Ok("preview".to_owned()));
        assert_eq!(ask(&tables, "WWW.example.com"), Ok("one".to_owned()));
        assert_eq!(ask(&tables, "1123456789ab--blog.libra.localhost"), Err(EdgeRefusal::DeploymentNotFound));
        assert_eq!(ask(&tables, "shop.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
        assert_eq!(ask(&tables, "off.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
        assert_eq!(ask(&tables, "empty.example.com"), Err(EdgeRefusal::CustomDomainInvalid));
        assert_eq!(ask(&tables, "other.example.com"), Err(EdgeRefusal::CustomDomainNotFound));
        tables.publish_workers(table(2, None));
        assert_eq!(ask(&tables, "blog.libra.localhost"), Err(EdgeRefusal::WorkerNotFound));
    }

    #[test]
    fn an_older_epoch_never_replaces_a_newer_one() {
        let tables = Tables::new();
        assert_eq!(tables.publish_workers(table(7, Some(version("seven")))), Published::Current);
        assert_eq!(tables.publish_workers(table(6, Some(version("six")))), Published::Outdated);
        assert_eq!(ask(&tables, "blog.libra.localhost"), Ok("seven".to_owned()));
        assert_eq!(tables.publish_workers(table(7, Some(version("again")))), Published::Current);
        assert_eq!(tables.epoch(), 7);
    }

    #[test]
    fn ten_thousand_switches_fail_no_request_and_never_go_back() {
        let tables = Tables::new();
        let versions: Vec<_> = (0..100).map(|at| version(&format!("{at}"))).collect();
        tables.publish_workers(table(0, Some(versions[0].clone())));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (rules, mut last, mut reads) = (rules(), 0, 0u64);
                while !done.load(Ordering::Acquire) {
                    let class = rules.classify("blog.libra.localhost").unwrap();
                    let resolved = tables.resolve(&rules, &class).unwrap();
                    assert!(resolved.epoch >= last, "went back from {last} to {}", resolved.epoch);
                    assert_eq!(resolved.version.id(), (resolved.epoch % 100).to_string());
                    last = resolved.epoch;
                    reads += 1;
                }
                reads
            });
            for epoch in 1..=10_000u64 {
                tables.publish_workers(table(epoch, Some(versions[(epoch % 100) as usize].clone())));
            }
            done.store(true, Ordering::Release);
            assert!(reader.join().unwrap() > 0);
        });
        assert_eq!(tables.epoch(), 10_000);
    }
}
