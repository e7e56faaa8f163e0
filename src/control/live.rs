//! What is live: rolling back, promoting, splitting, and waiting until this server shows it.
//! Builds nothing and moves no file: every version that is kept can be put live at once.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Control, ControlError};
use crate::domain::{OrgScope, Principal, ProjectId, id};
use crate::store::projects::ProjectRow;
use crate::store::routes::{LiveRow, VersionRow};
use crate::store::versions::{LiveChange, LiveChanged, LiveOrder, LiveState, NewLiveChange};

/// Brings the routing table of this process to at least an epoch; answers the epoch served.
pub type RefreshRoutes = Arc<dyn Fn(i64) -> BoxFuture<'static, Result<i64, String>> + Send + Sync>;

/// The way to this process's table, which exists once the actors do.
#[derive(Default)]
pub struct Routes(OnceLock<RefreshRoutes>);

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Routes")
    }
}

impl Routes {
    /// Said once, by the composition root; what comes later is ignored.
    pub fn attach(&self, refresh: RefreshRoutes) {
        drop(self.0.set(refresh));
    }
}

/// An order that was carried out, and whether this server's table showed it in time.
#[derive(Debug)]
pub struct Shown<T> {
    pub change: T,
    pub visible: bool,
}

/// A page of versions with what is live among them.
#[derive(Debug)]
pub struct VersionList {
    pub project: ProjectRow,
    pub versions: Vec<VersionRow>,
    pub live: LiveState,
}

impl Control {
    /// Puts a version live, or takes a split back. `idempotency`: the caller's key and the digest of its order;
    /// sent again, they are answered as they were and change nothing.
    ///
    /// # Errors
    /// Why the project's state does not allow it.
    pub async fn live_change(
        &self,
        who: &Principal,
        project: &ProjectId,
        order: LiveOrder,
        idempotency: Option<(String, String)>,
    ) -> Result<Shown<LiveChange>, ControlError> {
        let new = NewLiveChange {
            id: id::random(),
            project: project.clone(),
            user: who.user_id.clone(),
            order,
            idempotency: idempotency.map(|(key, digest)| self.remembered_key(who, key, &digest)),
        };
        let change = carried_out(self.store.live_change(&who.scope(), &new).await?)?;
        tracing::info!(project.id = %project, user.id = %who.user_id, order = ?new.order, seq = change.seq,
            epoch = change.epoch, "what is live was changed");
        let visible = self.wait_for_routes(change.epoch).await;
        Ok(Shown { change, visible })
    }

    /// A page of the versions that are kept, newest first.
    ///
    /// # Errors
    /// [`ControlError::ProjectNotFound`] also for another organization's project.
    pub async fn version_list(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
        before: Option<&(i64, String)>,
        limit: u64,
    ) -> Result<VersionList, ControlError> {
        let project_row = self.project_get(scope, project).await?;
        let versions = self.store.version_list(scope, project, before, limit).await?;
        let (_, live) = self.store.live_get(project.as_str()).await?;
        Ok(VersionList { project: project_row, versions, live })
    }

    /// A page of the organization's Workers and what each serves.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn worker_list(
        &self,
        scope: &OrgScope,
        after: Option<&ProjectId>,
        limit: u64,
    ) -> Result<Vec<LiveRow>, ControlError> {
        Ok(self.store.worker_list(scope, after.map(ProjectId::as_str), limit).await?)
    }

    /// Waits, within `versions.confirm_ms`, until this server's table shows the change. It stands either way:
    /// each server reads the routes by itself within a second or so.
    pub(super) async fn wait_for_routes(&self, epoch: i64) -> bool {
        let Some(refresh) = self.routes.0.get() else { return false };
        let limit = Duration::from_millis(self.settings.versions.confirm_ms);
        match tokio::time::timeout(limit, refresh(epoch)).await {
            Ok(Ok(_)) => true,
            Ok(Err(e)) => {
                tracing::warn!(epoch, error = %e, "a change of the routes is not shown here yet");
                false
            }
            Err(_) => {
                tracing::warn!(epoch, "a change of the routes is not shown here yet");
                false
            }
        }
    }
}

fn carried_out(changed: LiveChanged) -> Result<LiveChange, ControlError> {
    let conflict = |message| Err(ControlError::Conflict(message));
    match changed {
        LiveChanged::Done(change) => Ok(change),
        LiveChanged::KeyConflict => {
            conflict("This Idempotency-Key was used for another request; use a new key for another change.")
        }
        LiveChanged::ProjectMissing => Err(ControlError::ProjectNotFound),
        LiveChanged::VersionMissing => Err(ControlError::VersionNotFound),
        LiveChanged::ProjectInactive => conflict("This project is suspended."),
        LiveChanged::VersionRetired => {
            conflict("This version is not kept any more; deploy its source again for a new one.")
        }
        LiveChanged::NothingLive => conflict("Nothing is live on this project yet; deploy or promote first."),
        LiveChanged::AlreadyLive => conflict("This version is live already."),
        LiveChanged::NeverLive => {
            conflict("This version was never live, so there is no going back to it; promote it instead.")
        }
        LiveChanged::NothingBefore => {
            conflict("No version that was live before this one is kept; name one to promote.")
        }
        LiveChanged::NoSplit => conflict("No split is in force."),
    }
}
