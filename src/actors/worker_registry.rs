//! The only writer of the Worker table: installs versions on this edge's disk, then publishes each change in its slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::fetches::{self, Fetches};
use super::origins::upstream_of;
use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::routing::{Live, Split, WorkerRoute};
use crate::runtime::{SiteVersion, VersionId};
use crate::store::routes::{LiveRow, RouteChanges, VersionRow};

/// A dead broker only delays a change by this.
const POLL: Duration = Duration::from_secs(1);

/// This edge reports itself at least this often, and whenever it serves a new table.
const REPORT: Duration = Duration::from_secs(3);

pub struct WorkerRegistry {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
    book: Book,
    fetches: Fetches,
    reported: Option<Instant>,
}

/// What is known of the routes beside the table itself, whose only writer this actor is.
#[derive(Default, Clone)]
struct Book {
    /// The epoch up to which changes were read; a fresh registry has read none.
    epoch: i64,
    /// What is not installed here yet: looked at again at every look, and fetched beside this actor. One version
    /// that is large, or broken, must not hold up the table for everybody else; who waits for it asks the front door
    /// itself.
    missing_versions: HashMap<String, VersionRow>,
    missing_live: HashMap<String, LiveRow>,
}

impl Book {
    fn is_missing_any(&self) -> bool {
        !self.missing_versions.is_empty() || !self.missing_live.is_empty()
    }

    /// The epoch of which every live version is served here: laggards show in health.
    fn confirmed(&self) -> i64 {
        self.missing_live.values().map(|row| row.route_epoch - 1).min().unwrap_or(self.epoch)
    }
}

impl WorkerRegistry {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts, owner, book: Book::default(), fetches: Fetches::default(), reported: None }
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
        if order.at_least > 0 && self.book.epoch >= order.at_least && !self.book.is_missing_any() {
            return AtomicResponse::new(Box::pin(actix::fut::ready(Ok(self.book.epoch))));
        }
        let parts = self.parts.clone();
        let book = self.book.clone();
        let known = book.epoch;
        let report_due = self.reported.is_none_or(|at| at.elapsed() >= REPORT);
        let work = async move {
            let book = refresh(&parts, book).await?;
            let reported = (report_due || book.epoch != known) && report(&parts, book.confirmed()).await;
            Ok((book, reported))
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(move |done: Result<_, String>, this, ctx| {
            let (book, reported) = done?;
            if reported {
                this.reported = Some(Instant::now());
            }
            this.book = book;
            this.fetch(ctx);
            let epoch = this.book.epoch;
            if epoch >= order.at_least {
                Ok(epoch)
            } else {
                Err(format!("the routes are at epoch {epoch}, not yet at {}", order.at_least))
            }
        })))
    }
}

impl WorkerRegistry {
    /// Begins to fetch what is not here.
    fn fetch(&mut self, ctx: &mut Context<Self>) {
        let missing: Vec<&str> = self.book.missing_versions.keys().map(String::as_str).collect();
        for id in self.fetches.due(&missing, self.parts.fetches_at_once) {
            let (parts, row) = (self.parts.clone(), self.book.missing_versions[id].clone());
            let id = id.to_owned();
            // A task of its own: this actor's is stopped while it publishes.
            let fetching = actix::spawn(async move { fetches::fetch(&parts, &row).await });
            ctx.spawn(fetching.into_actor(self).map(move |ended, this, ctx| {
                let ended = ended.unwrap_or_else(|e| Err(e.to_string()));
                let is_here = ended.is_ok();
                this.fetches.ended(&id, ended);
                if is_here {
                    ctx.notify(Refresh { at_least: 0 });
                }
            }));
        }
    }
}

async fn report(parts: &ActorParts, epoch: i64) -> bool {
    let store = &parts.pipeline.control.store;
    let reported = store.edge_report(&parts.pipeline.node, &parts.edge_address, epoch).await;
    reported.inspect_err(|e| tracing::warn!(error = %e, "this edge could not report itself")).is_ok()
}

/// One reading of what changed, and another try at what could not be installed.
async fn refresh(parts: &ActorParts, mut book: Book) -> Result<Book, String> {
    let store = &parts.pipeline.control.store;
    let changes = store.route_changes(book.epoch).await.map_err(|e| {
        tracing::warn!(error = %e, "routes could not be read; the last table serves");
        e.to_string()
    })?;
    if book.epoch != 0 && changes.epoch == book.epoch && !book.is_missing_any() {
        return Ok(book);
    }
    // Who knows nothing yet has read the whole record, and what it does not name is gone.
    let whole = (book.epoch == 0).then(|| Named::of(&changes));
    if whole.is_some() {
        // Nothing is served before all of it was tried once.
        fetches::fetch_all(parts, &changes.versions).await;
    }
    apply(parts, &mut book, changes).await?;
    if let Some(named) = whole {
        parts.tables.retain_workers(|w| named.workers.contains(w), |l| named.previews.contains(l));
    }
    parts.tables.workers_are_at(u64::try_from(book.epoch).unwrap_or(0));
    Ok(book)
}

/// What a whole reading of the record names.
struct Named {
    workers: HashSet<String>,
    previews: HashSet<String>,
}

impl Named {
    fn of(changes: &RouteChanges) -> Self {
        Self {
            workers: changes.live.iter().map(|row| row.worker_name.clone()).collect(),
            previews: changes.versions.iter().map(|row| row.preview_label.clone()).collect(),
        }
    }
}

/// Puts each change in its slot; nothing else of the table is touched.
async fn apply(parts: &ActorParts, book: &mut Book, changes: RouteChanges) -> Result<(), String> {
    let (missed_versions, missed_live) =
        (std::mem::take(&mut book.missing_versions), std::mem::take(&mut book.missing_live));
    let mut versions = missed_versions.clone();
    let mut live = missed_live;
    versions.extend(changes.versions.into_iter().map(|v| (v.id.clone(), v)));
    live.extend(changes.live.into_iter().map(|l| (l.worker_name.clone(), l)));
    let workers: HashMap<&str, &str> =
        live.values().map(|l| (l.project_id.as_str(), l.worker_name.as_str())).collect();
    let mut loaded: HashMap<&str, Arc<SiteVersion>> = HashMap::new();
    for (id, version) in &versions {
        if version.retired_at.is_some() {
            parts.tables.remove_preview(&version.preview_label);
            continue;
        }
        let owner = match workers.get(version.project_id.as_str()) {
            Some(worker) => (*worker).to_owned(),
            None => match worker_of(parts, version).await? {
                Some(worker) => worker,
                None => continue,
            },
        };
        match load(parts, version, &owner).await {
            Ok(site) => {
                parts.tables.publish_preview(&version.preview_label, Arc::clone(&site));
                loaded.insert(id, site);
            }
            Err(e) => {
                // Said once, not at every look.
                if !missed_versions.contains_key(id) {
                    tracing::info!(version.id = %id, reason = %e, "a version is not served yet");
                }
                book.missing_versions.insert(id.clone(), version.clone());
            }
        }
    }
    for (worker, row) in &live {
        match live_of(parts, &loaded, &mut book.missing_versions, row).await {
            Ok(live) => {
                parts.tables.publish_worker(WorkerRoute {
                    worker: worker.as_str().into(),
                    org_id: row.org_id.as_str().into(),
                    project_id: row.project_id.as_str().into(),
                    live,
                    epoch: u64::try_from(row.route_epoch).unwrap_or(0),
                });
            }
            // What was live stays live until its successor can be served.
            Err(_) => {
                book.missing_live.insert(worker.clone(), row.clone());
            }
        }
    }
    book.epoch = changes.epoch;
    Ok(())
}

/// What the Worker's clients get, every version of it installed here.
async fn live_of(
    parts: &ActorParts,
    loaded: &HashMap<&str, Arc<SiteVersion>>,
    missing: &mut HashMap<String, VersionRow>,
    row: &LiveRow,
) -> Result<Live, String> {
    // What the operator registered wins over what was deployed.
    if let Some(upstream) = &row.upstream {
        let settings = &parts.pipeline.control.settings;
        return Ok(Live::Upstream(upstream_of(settings, &parts.tables, &row.worker_name, upstream)));
    }
    let Some(id) = &row.version_id else { return Ok(Live::Nothing) };
    let live = site_of(parts, loaded, missing, row, id).await?;
    let Some(split) = &row.split else { return Ok(Live::Site(live)) };
    let other = site_of(parts, loaded, missing, row, &split.version_id).await?;
    Ok(Live::Split(Arc::new(Split { live, other, percent: split.percent })))
}

async fn site_of(
    parts: &ActorParts,
    loaded: &HashMap<&str, Arc<SiteVersion>>,
    missing: &mut HashMap<String, VersionRow>,
    row: &LiveRow,
    id: &str,
) -> Result<Arc<SiteVersion>, String> {
    if let Some(site) = loaded.get(id) {
        return Ok(Arc::clone(site));
    }
    let version = parts.pipeline.control.store.version_get(id).await.map_err(|e| e.to_string())?;
    let version = version.ok_or_else(|| format!("version {id} has no row"))?;
    let site = load(parts, &version, &row.worker_name).await;
    if site.is_err() {
        missing.insert(version.id.clone(), version);
    }
    site
}

async fn worker_of(parts: &ActorParts, version: &VersionRow) -> Result<Option<String>, String> {
    let store = &parts.pipeline.control.store;
    let project = store.project_of_deployment(&version.org_id, &version.project_id).await;
    Ok(project.map_err(|e| e.to_string())?.map(|p| p.worker_name))
}

/// Opens a version from this edge's disk.
async fn load(parts: &ActorParts, row: &VersionRow, owner: &str) -> Result<Arc<SiteVersion>, String> {
    let versions = Arc::clone(&parts.pipeline.versions);
    let id = VersionId::parse(&row.id).map_err(|e| e.to_string())?;
    if !versions.contains(&id) {
        return Err("it is not on this disk yet".to_owned());
    }
    let owner = owner.to_owned();
    let created = u64::try_from(row.created_at / 1_000).unwrap_or(0);
    tokio::task::spawn_blocking(move || versions.open(&id, &owner, created))
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}
