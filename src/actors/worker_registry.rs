//! The only writer of the Worker table: installs versions on this edge's disk, then publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::domain::Digest;
use crate::routing::{WorkerRoute, WorkerTable};
use crate::runtime::{PackSource, SiteVersion, VersionId};
use crate::store::routes::{RouteChanges, VersionRow};

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
}

impl WorkerRegistry {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts, owner, book: Book::default() }
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
            let (book, whole) = refreshed?;
            this.book = book;
            let epoch = this.book.epoch;
            match whole {
                Ok(()) if epoch >= order.at_least => Ok(epoch),
                Ok(()) => Err(format!("the routes are at epoch {epoch}, not yet at {}", order.at_least)),
                Err(e) => Err(e),
            }
        })))
    }
}

/// One reading of what changed. The second answer tells of a version that could not be installed:
/// the rest is served meanwhile, under the old epoch, so that the next reading tries again.
async fn refresh(parts: &ActorParts, mut book: Book) -> Result<(Book, Result<(), String>), String> {
    let store = &parts.pipeline.control.store;
    let first = parts.tables.workers().is_none() || book.epoch == 0;
    let changes = store.route_changes(book.epoch).await.map_err(|e| {
        tracing::warn!(error = %e, "routes could not be read; the last table serves");
        e.to_string()
    })?;
    let changed = first || changes.epoch != book.epoch;
    let whole = if changed { apply(parts, &mut book, changes).await } else { Ok(()) };
    if changed {
        parts.tables.publish_workers(WorkerTable {
            epoch: u64::try_from(book.epoch).unwrap_or(0),
            live: book.live.clone(),
            previews: book.previews.clone(),
        });
    }
    let node = &parts.pipeline.node;
    if let Err(e) = store.edge_report(node, &parts.edge_address, book.epoch).await {
        tracing::warn!(error = %e, "this edge could not report itself");
    }
    Ok((book, whole))
}

async fn apply(parts: &ActorParts, book: &mut Book, changes: RouteChanges) -> Result<(), String> {
    let mut whole = Ok(());
    let mut workers: HashMap<&str, &str> =
        changes.live.iter().map(|l| (l.project_id.as_str(), l.worker_name.as_str())).collect();
    let known: Vec<(Box<str>, Arc<str>)> =
        book.live.values().map(|r| (r.project_id.clone(), Arc::clone(&r.worker))).collect();
    for (project, worker) in &known {
        workers.entry(project).or_insert(worker);
    }
    for version in &changes.versions {
        if version.retired_at.is_some() {
            book.previews.remove(version.preview_label.as_str());
            continue;
        }
        let owner = match workers.get(version.project_id.as_str()) {
            Some(worker) => (*worker).to_owned(),
            // Nothing of this project is live yet: its project row names the Worker.
            None => match worker_of(parts, version).await {
                Some(worker) => worker,
                None => continue,
            },
        };
        match load(parts, version, &owner).await {
            Ok(site) => {
                book.previews.insert(version.preview_label.as_str().into(), site);
            }
            Err(e) => whole = Err(e),
        }
    }
    for row in &changes.live {
        let site = match &row.version_id {
            None => None,
            Some(id) => match live_site(parts, id, &row.worker_name).await {
                Ok(site) => Some(site),
                Err(e) => {
                    // What was live stays live until its successor can be served.
                    whole = Err(e);
                    continue;
                }
            },
        };
        let route = WorkerRoute {
            worker: row.worker_name.as_str().into(),
            org_id: row.org_id.as_str().into(),
            project_id: row.project_id.as_str().into(),
            live: site,
        };
        book.live.insert(row.worker_name.as_str().into(), Arc::new(route));
    }
    if whole.is_ok() {
        book.epoch = changes.epoch;
    }
    whole
}

async fn live_site(parts: &ActorParts, id: &str, owner: &str) -> Result<Arc<SiteVersion>, String> {
    let row = parts.pipeline.control.store.version_get(id).await.map_err(|e| e.to_string())?;
    let row = row.ok_or_else(|| format!("version {id} has no row"))?;
    load(parts, &row, owner).await
}

async fn worker_of(parts: &ActorParts, version: &VersionRow) -> Option<String> {
    let store = &parts.pipeline.control.store;
    let project = store.project_of_deployment(&version.org_id, &version.project_id).await;
    project.ok().flatten().map(|p| p.worker_name)
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
