//! The only writer of the Worker table: installs versions on this edge's disk, then publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::domain::Digest;
use crate::routing::{Tables, WorkerRoute, WorkerTable};
use crate::runtime::{PackSource, SiteVersion, VersionId};
use crate::store::routes::{LiveRow, RouteChanges, VersionRow};

/// A dead broker only delays a change by this.
const POLL: Duration = Duration::from_secs(1);

pub struct WorkerRegistry {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
    book: Book,
}

/// What is known of the routes: the table, and which Worker each version belongs to.
#[derive(Default, Clone)]
struct Book {
    epoch: i64,
    live: HashMap<Box<str>, Arc<WorkerRoute>>,
    previews: HashMap<Box<str>, Arc<SiteVersion>>,
    /// What could not be installed yet: tried again at every look. One broken version must not hold
    /// up the table for everybody else; who waits for it asks the front door itself.
    missing_versions: HashMap<String, VersionRow>,
    missing_live: HashMap<String, LiveRow>,
}

impl Book {
    /// Of a fresh actor: everything is read anew, and what is served stays served until then.
    fn serving(tables: &Tables) -> Self {
        let served = tables.workers();
        Self {
            live: served.as_ref().map(|t| t.live.clone()).unwrap_or_default(),
            previews: served.as_ref().map(|t| t.previews.clone()).unwrap_or_default(),
            ..Self::default()
        }
    }

    /// The epoch of which every live version is served here: laggards show in health.
    fn confirmed(&self) -> i64 {
        self.missing_live.values().map(|row| row.route_epoch - 1).min().unwrap_or(self.epoch)
    }
}

impl WorkerRegistry {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        let book = Book::serving(&parts.tables);
        Self { parts, owner, book }
    }
}

impl Actor for WorkerRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Refresh { at_least: 0 });
        ctx.run_interval(POLL, |_, ctx| ctx.notify(Refresh { at_least: 0 }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::WorkerRegistry)));
    }
}

child_actor!(WorkerRegistry);

/// Brings the table to at least this epoch; answers the epoch served.
#[derive(Debug, Message)]
#[rtype(result = "Result<i64, String>")]
pub struct Refresh {
    pub at_least: i64,
}

impl Handler<Refresh> for WorkerRegistry {
    type Result = AtomicResponse<Self, Result<i64, String>>;

    fn handle(&mut self, order: Refresh, _: &mut Self::Context) -> Self::Result {
        if order.at_least > 0 && self.book.epoch >= order.at_least {
            return AtomicResponse::new(Box::pin(actix::fut::ready(Ok(self.book.epoch))));
        }
        let parts = self.parts.clone();
        let book = self.book.clone();
        let work = async move { refresh(&parts, book).await };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |refreshed, this, _| {
            this.book = refreshed?;
            let epoch = this.book.epoch;
            if epoch >= order.at_least {
                Ok(epoch)
            } else {
                Err(format!("the routes are at epoch {epoch}, not yet at {}", order.at_least))
            }
        })))
    }
}

/// One reading of what changed, and another try at what could not be installed.
async fn refresh(parts: &ActorParts, mut book: Book) -> Result<Book, String> {
    let store = &parts.pipeline.control.store;
    let changes = store.route_changes(book.epoch).await.map_err(|e| {
        tracing::warn!(error = %e, "routes could not be read; the last table serves");
        e.to_string()
    })?;
    let retries = book.missing_versions.len() + book.missing_live.len();
    if changes.epoch != book.epoch || retries > 0 {
        apply(parts, &mut book, changes).await?;
        parts.tables.publish_workers(WorkerTable {
            epoch: u64::try_from(book.epoch).unwrap_or(0),
            live: book.live.clone(),
            previews: book.previews.clone(),
        });
    }
    let node = &parts.pipeline.node;
    if let Err(e) = store.edge_report(node, &parts.edge_address, book.confirmed()).await {
        tracing::warn!(error = %e, "this edge could not report itself");
    }
    Ok(book)
}

async fn apply(parts: &ActorParts, book: &mut Book, changes: RouteChanges) -> Result<(), String> {
    let (mut versions, mut live) =
        (std::mem::take(&mut book.missing_versions), std::mem::take(&mut book.missing_live));
    versions.extend(changes.versions.into_iter().map(|v| (v.id.clone(), v)));
    live.extend(changes.live.into_iter().map(|l| (l.worker_name.clone(), l)));
    let mut workers: HashMap<Box<str>, Arc<str>> =
        book.live.values().map(|r| (r.project_id.clone(), Arc::clone(&r.worker))).collect();
    workers.extend(live.values().map(|l| (l.project_id.as_str().into(), l.worker_name.as_str().into())));
    for (id, version) in versions {
        if version.retired_at.is_some() {
            book.previews.remove(version.preview_label.as_str());
            continue;
        }
        let owner = match workers.get(version.project_id.as_str()) {
            Some(worker) => Arc::clone(worker),
            // Nothing of this project is live yet: its project row names the Worker.
            None => match worker_of(parts, &version).await? {
                Some(worker) => worker.into(),
                None => continue,
            },
        };
        match load(parts, &version, &owner).await {
            Ok(site) => {
                book.previews.insert(version.preview_label.as_str().into(), site);
            }
            Err(_) => {
                book.missing_versions.insert(id, version);
            }
        }
    }
    for (worker, row) in live {
        let site = match &row.version_id {
            None => None,
            Some(id) => match live_site(parts, id, &worker).await {
                Ok(site) => Some(site),
                // What was live stays live until its successor can be served.
                Err(_) => {
                    book.missing_live.insert(worker, row);
                    continue;
                }
            },
        };
        let route = WorkerRoute {
            worker: worker.as_str().into(),
            org_id: row.org_id.as_str().into(),
            project_id: row.project_id.as_str().into(),
            live: site,
        };
        book.live.insert(worker.into(), Arc::new(route));
    }
    book.epoch = changes.epoch;
    Ok(())
}

async fn live_site(parts: &ActorParts, id: &str, owner: &str) -> Result<Arc<SiteVersion>, String> {
    let row = parts.pipeline.control.store.version_get(id).await.map_err(|e| e.to_string())?;
    let row = row.ok_or_else(|| format!("version {id} has no row"))?;
    load(parts, &row, owner).await
}

async fn worker_of(parts: &ActorParts, version: &VersionRow) -> Result<Option<String>, String> {
    let store = &parts.pipeline.control.store;
    let project = store.project_of_deployment(&version.org_id, &version.project_id).await;
    Ok(project.map_err(|e| e.to_string())?.map(|p| p.worker_name))
}

/// Opens a version from this edge's disk, fetching it from the blob store if it is not there.
async fn load(parts: &ActorParts, row: &VersionRow, owner: &str) -> Result<Arc<SiteVersion>, String> {
    let loaded = try_load(parts, row, owner).await;
    loaded
        .inspect_err(|e| tracing::warn!(version.id = %row.id, error = %e, "a version could not be installed"))
}

async fn try_load(parts: &ActorParts, row: &VersionRow, owner: &str) -> Result<Arc<SiteVersion>, String> {
    let versions = Arc::clone(&parts.pipeline.versions);
    let id = VersionId::parse(&row.id).map_err(|e| e.to_string())?;
    if !versions.contains(&id) {
        fetch(parts, row, &id).await?;
    }
    let owner = owner.to_owned();
    let created = u64::try_from(row.created_at / 1_000).unwrap_or(0);
    tokio::task::spawn_blocking(move || versions.open(&id, &owner, created))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}

async fn fetch(parts: &ActorParts, row: &VersionRow, id: &VersionId) -> Result<(), String> {
    let digest = |text: &str| Digest::parse(text).map_err(|e| e.to_string());
    let blobs = &parts.pipeline.control.blobs;
    let manifest = blobs.get(&row.org_id, &digest(&row.manifest_digest)?).await.map_err(|e| e.to_string())?;
    let folder = &parts.pipeline.scratch;
    tokio::fs::create_dir_all(folder).await.map_err(|e| e.to_string())?;
    let temporary = folder.join(format!("fetch-{}-{}", row.id, crate::domain::id::random()));
    let fetched = async {
        blobs
            .get_file(&row.org_id, &digest(&row.pack_digest)?, &temporary)
            .await
            .map_err(|e| e.to_string())?;
        let source = PackSource::Path(temporary.clone());
        parts.pipeline.versions.install(id, manifest, source).await.map_err(|e| e.to_string())
    }
    .await;
    // Installed or not, the copy has served its purpose.
    drop(tokio::fs::remove_file(&temporary).await);
    fetched
}
