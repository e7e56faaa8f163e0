//! The last good table and certificates, kept on disk: what lets a start with the database away serve Workers.
//! Never asks the database while it publishes, and never is in the way of a request.

pub mod certificates;
mod file;
mod keeper;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::actors::upstream_of;
use crate::config::Settings;
use crate::domain::cause::chain;
use crate::routing::{CustomHost, Live, Split, Tables, WorkerRoute};
use crate::runtime::{SiteVersion, VersionId, VersionStore};
use crate::store::routes::LiveRow;
use file::{HostLine, LastTable, LeadsTo, VersionLine};

pub use keeper::Keeper;

/// Versions that one thread opens at a time.
const BATCH: usize = 256;

type Sites = Vec<(String, Arc<SiteVersion>)>;
type Opened = HashMap<String, Arc<SiteVersion>>;

/// Publishes what the file names and this disk has. Answers whether there was such a table.
pub async fn publish(
    settings: &Settings,
    path: &Path,
    versions: &Arc<VersionStore>,
    tables: &Arc<Tables>,
) -> bool {
    let (place, hosts) = (path.to_owned(), Arc::clone(tables));
    // Nothing answers from the table before it is complete.
    let read =
        tokio::task::spawn_blocking(move || file::read(&place, |line| publish_host(&hosts, line))).await;
    let table = match read.map_err(std::io::Error::other).and_then(|read| read) {
        Ok(table) => table,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return false,
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %chain(&e), "the last table can't be used; starting without it");
            return false;
        }
    };
    let LastTable { epoch, workers, versions: lines } = table;
    let named = lines.len();
    let opened = open_all(versions, &lines).await;
    for line in &lines {
        if let Some(site) = opened.get(&line.id) {
            tables.publish_preview(&line.label, Arc::clone(site));
        }
    }
    let mut skipped = 0_usize;
    let known = workers.len();
    for row in workers {
        let Some(live) = live_of(settings, tables, &opened, &row) else {
            skipped += 1;
            continue;
        };
        // Of no epoch: whatever the record says takes its place.
        tables.publish_worker(WorkerRoute {
            worker: row.worker_name.into(),
            org_id: row.org_id.into(),
            project_id: row.project_id.into(),
            live,
            epoch: 0,
        });
    }
    tables.last_is_loaded();
    let missing = named - opened.len();
    tracing::info!(
        epoch,
        workers = known - skipped,
        versions = opened.len(),
        "the last table is served until the database is read"
    );
    if missing + skipped > 0 {
        tracing::warn!(
            versions = missing,
            workers = skipped,
            "what the last table names and this disk has not is skipped"
        );
    }
    true
}

fn publish_host(tables: &Tables, line: HostLine) {
    let to = match line.to {
        LeadsTo::Worker(worker) => CustomHost::Worker(worker.into()),
        LeadsTo::Redirect(host) => CustomHost::Redirect(host.into()),
        LeadsTo::Inactive => CustomHost::Inactive,
    };
    tables.publish_host(&line.host, &to);
}

async fn open_all(versions: &Arc<VersionStore>, lines: &[VersionLine]) -> Opened {
    let at_once = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let (mut opened, mut running) = (Opened::with_capacity(lines.len()), JoinSet::new());
    for batch in lines.chunks(BATCH) {
        if running.len() >= at_once {
            take(&mut opened, running.join_next().await);
        }
        let (versions, batch) = (Arc::clone(versions), batch.to_vec());
        running.spawn_blocking(move || {
            let each =
                batch.into_iter().filter_map(|line| open(&versions, &line).map(|site| (line.id, site)));
            each.collect()
        });
    }
    while !running.is_empty() {
        take(&mut opened, running.join_next().await);
    }
    opened
}

fn take(opened: &mut Opened, done: Option<Result<Sites, JoinError>>) {
    match done {
        Some(Ok(sites)) => opened.extend(sites),
        Some(Err(e)) => tracing::error!(error = %e, "versions of the last table could not be opened"),
        None => {}
    }
}

fn open(versions: &VersionStore, line: &VersionLine) -> Option<Arc<SiteVersion>> {
    let created = u64::try_from(line.created_at / 1_000).unwrap_or(0);
    let site = VersionId::parse(&line.id).and_then(|id| versions.open(&id, &line.worker, created));
    site.inspect_err(|e| tracing::debug!(version.id = %line.id, error = %e, "a version is skipped")).ok()
}

/// What is live on a Worker; nothing if this disk can't serve it.
fn live_of(settings: &Settings, tables: &Tables, opened: &Opened, row: &LiveRow) -> Option<Live> {
    if let Some(upstream) = &row.upstream {
        return Some(Live::Upstream(upstream_of(settings, tables, &row.worker_name, upstream)));
    }
    let Some(id) = &row.version_id else { return Some(Live::Nothing) };
    let live = opened.get(id).cloned();
    let Some(split) = &row.split else { return live.map(Live::Site) };
    // One half of a split is better than neither.
    match (live, opened.get(&split.version_id).cloned()) {
        (Some(live), Some(other)) => {
            Some(Live::Split(Arc::new(Split { live, other, percent: split.percent })))
        }
        (live, other) => live.or(other).map(Live::Site),
    }
}
