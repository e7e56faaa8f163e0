//! Keeps the last table's file up to date in the background. Never asked by a request or an actor.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::file::{self, HostLine, LastTable, LeadsTo, VersionLine};
use crate::config::Settings;
use crate::domain::cause::chain;
use crate::routing::{CustomHost, Tables};
use crate::store::routes::RouteChanges;
use crate::store::{Store, StoreError};

/// Writing takes at most a twentieth of the time.
const REST: u32 = 20;
/// After a write that failed.
pub const REST_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Writes the file when the table has changed.
pub struct Keeper {
    path: PathBuf,
    store: Store,
    tables: Arc<Tables>,
    least: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("the record could not be read")]
    Store(#[from] StoreError),
    #[error("the file could not be written")]
    File(#[from] std::io::Error),
}

impl Keeper {
    pub fn new(settings: &Settings, path: &Path, store: Store, tables: Arc<Tables>) -> Self {
        let least = Duration::from_secs(settings.routes.file_seconds);
        Self { path: path.to_owned(), store, tables, least }
    }

    /// Writes until the server stops.
    pub async fn keep(self, stop: CancellationToken) {
        let path = self.path.clone();
        let removed = tokio::task::spawn_blocking(move || file::remove_leftovers(&path)).await;
        if let Ok(Err(e)) = removed {
            tracing::warn!(error = %e, "leftovers of the last table's file could not be removed");
        }
        let (mut written, mut rest) = (None, self.least);
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = self.least;
            let at = (self.tables.epoch(), self.tables.hosts_epoch());
            if written == Some(at) || !self.tables.is_of_the_record() {
                continue;
            }
            let started = Instant::now();
            match self.write().await {
                Ok(()) => {
                    written = Some(at);
                    rest = rest.max(started.elapsed() * REST);
                }
                Err(e) => {
                    rest = rest.max(REST_AFTER_FAILURE);
                    tracing::warn!(error = %chain(&e), "the last table was not kept");
                }
            }
        }
    }

    async fn write(&self) -> Result<(), KeepError> {
        let changes = self.store.route_changes(0).await?;
        let versions = self.versions(&changes).await?;
        let table = LastTable { epoch: changes.epoch, workers: changes.live, versions };
        let (path, tables) = (self.path.clone(), Arc::clone(&self.tables));
        let written = tokio::task::spawn_blocking(move || {
            file::write(&path, &table, |lines| {
                // Not of the record: a million rows of it are not read for what this process knows.
                tables.each_host(|host, to| lines.host(&line(host, to)))
            })
        });
        Ok(written.await.map_err(std::io::Error::other)??)
    }

    /// Each version with the Worker it belongs to, as the registry finds it.
    async fn versions(&self, changes: &RouteChanges) -> Result<Vec<VersionLine>, StoreError> {
        let mut workers: HashMap<&str, Option<String>> =
            changes.live.iter().map(|l| (l.project_id.as_str(), Some(l.worker_name.clone()))).collect();
        let mut lines = Vec::with_capacity(changes.versions.len());
        for version in &changes.versions {
            if !workers.contains_key(version.project_id.as_str()) {
                let found = self.store.project_of_deployment(&version.org_id, &version.project_id).await?;
                workers.insert(&version.project_id, found.map(|project| project.worker_name));
            }
            if let Some(Some(worker)) = workers.get(version.project_id.as_str()) {
                lines.push(VersionLine {
                    id: version.id.clone(),
                    label: version.preview_label.clone(),
                    worker: worker.clone(),
                    created_at: version.created_at,
                });
            }
        }
        Ok(lines)
    }
}

fn line(host: &str, to: CustomHost) -> HostLine {
    let to = match to {
        CustomHost::Worker(worker) => LeadsTo::Worker((*worker).into()),
        CustomHost::Redirect(host) => LeadsTo::Redirect((*host).into()),
        CustomHost::Inactive => LeadsTo::Inactive,
    };
    HostLine { host: host.to_owned(), to }
}
