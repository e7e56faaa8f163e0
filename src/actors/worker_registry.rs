//! The only writer of the Worker table: installs versions on this edge's disk, then publishes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::domain::Digest;
use crate::routing::{WorkerRoute, WorkerTable};
use crate::runtime::{PackSource, SiteVersion, VersionId};
use crate::store::routes::{RouteChanges, VersionRow};

/// A dead broker only delays a change by this.
const POLL: Duration = Duration::from_secs(1);

/// This edge reports itself at least this often, and whenever it serves a new table.
const REPORT: Duration = Duration::from_secs(3);

pub struct WorkerRegistry {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
    /// The epoch up to which changes were read; a fresh registry has read none.
    epoch: i64,
    reported: Option<Instant>,
}

impl WorkerRegistry {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts, owner, epoch: 0, reported: None }
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
        if order.at_least > 0 && self.epoch >= order.at_least {
            return AtomicResponse::new(Box::pin(actix::fut::ready(Ok(self.epoch))));
        }
        let parts = self.parts.clone();
        let known = self.epoch;
        let report_due = self.reported.is_none_or(|at| at.elapsed() >= REPORT);
        let work = async move {
            let read = refresh(&parts, known).await;
            let served = read.as_ref().map_or(known, |r| r.epoch);
            let reported = (report_due || served != known) && report(&parts, served).await;
            (read, reported)
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |(read, reported), this, _| {
            if reported {
                this.reported = Some(Instant::now());
            }
            let read = read?;
            this.epoch = read.epoch;
            match read.problem {
                Some(problem) => Err(problem),
                None if read.epoch >= order.at_least => Ok(read.epoch),
                None => Err(format!("the routes are at epoch {}, not yet at {}", read.epoch, order.at_least)),
            }
        })))
    }
}

async fn report(parts: &ActorParts, epoch: i64) -> bool {
    let store = &parts.pipeline.control.store;
    let reported = store.edge_report(&parts.pipeline.node, &parts.edge_address, epoch).await;
    reported.inspect_err(|e| tracing::warn!(error = %e, "this edge could not report itself")).is_ok()
}

/// How far the table came. With a problem some version could not be installed: the rest is served
/// meanwhile, under the old epoch, so that the next reading tries again.
struct Read {
    epoch: i64,
    problem: Option<String>,
}

/// One reading of what changed after `known`.
async fn refresh(parts: &ActorParts, known: i64) -> Result<Read, String> {
    let store = &parts.pipeline.control.store;
    let changes = store.route_changes(known).await.map_err(|e| {
        tracing::warn!(error = %e, "routes could not be read; the last table serves");
        e.to_string()
    })?;
    if known != 0 && changes.epoch == known {
        return Ok(Read { epoch: known, problem: None });
    }
    // This actor is the table's only writer, so the served table is what it knows. One that knows
    // nothing yet starts over, whatever an earlier one left.
    let served = if known == 0 { None } else { parts.tables.workers() };
    let mut table = match served {
        Some(served) => {
            WorkerTable { epoch: served.epoch, live: served.live.clone(), previews: served.previews.clone() }
        }
        None => WorkerTable::default(),
    };
    let newest = changes.epoch;
    let problem = apply(parts, &mut table, changes).await.err();
    let epoch = if problem.is_none() { newest } else { known };
    table.epoch = u64::try_from(epoch).unwrap_or(0);
    parts.tables.publish_workers(table);
    Ok(Read { epoch, problem })
}

async fn apply(parts: &ActorParts, table: &mut WorkerTable, changes: RouteChanges) -> Result<(), String> {
    let mut whole = Ok(());
    let workers: HashMap<&str, &str> =
        changes.live.iter().map(|l| (l.project_id.as_str(), l.worker_name.as_str())).collect();
    let recorded: HashMap<&str, &VersionRow> = changes.versions.iter().map(|v| (v.id.as_str(), v)).collect();
    for version in &changes.versions {
        if version.retired_at.is_some() {
            table.previews.remove(version.preview_label.as_str());
            continue;
        }
        let owner = match workers.get(version.project_id.as_str()) {
            Some(worker) => (*worker).to_owned(),
            None => match worker_of(parts, version).await {
                Some(worker) => worker,
                None => continue,
            },
        };
        match load(parts, version, &owner).await {
            Ok(site) => {
                table.previews.insert(version.preview_label.as_str().into(), site);
            }
            Err(e) => whole = Err(e),
        }
    }
    for row in &changes.live {
        let site = match &row.version_id {
            None => None,
            Some(id) => match live_site(parts, &recorded, id, &row.worker_name).await {
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
        table.live.insert(row.worker_name.as_str().into(), Arc::new(route));
    }
    whole
}

async fn live_site(
    parts: &ActorParts,
    recorded: &HashMap<&str, &VersionRow>,
    id: &str,
    owner: &str,
) -> Result<Arc<SiteVersion>, String> {
    if let Some(row) = recorded.get(id) {
        return load(parts, row, owner).await;
    }
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
