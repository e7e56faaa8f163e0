//! What a running attempt writes: heartbeat, steps, version, switch. Every write names the fence.

use std::collections::HashSet;

use entity::{deployment, deployment_step, live_change, project_target, version};
use sea_orm::sea_query::{Expr, SelectStatement};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter,
    QuerySelect, QueryTrait, UpdateMany,
};

use super::deployments::DeploymentRow;
use super::{Store, StoreError, clock, events, routes, versions};
use crate::domain::{Step, StepStatus, Target, VersionId};

/// The hold that an attempt has on its deployment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Hold {
    pub deployment: String,
    pub fence: i64,
}

/// What a heartbeat found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulse {
    Alive,
    CancelRequested,
}

/// A version to be recorded.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub id: VersionId,
    pub preview_label: String,
    pub manifest_digest: String,
    pub pack_digest: String,
    pub pack_size: i64,
    pub file_count: i64,
}

/// What recording a version came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionRecorded {
    /// Shown since the table of this epoch.
    At { epoch: i64 },
    /// A newer one is live already, or this very version was put live by hand.
    Superseded,
}

/// What going live came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// Live, since the table of this epoch.
    Live {
        epoch: i64,
    },
    /// A newer one is live already.
    Superseded,
    CancelRequested,
}

impl Hold {
    #[must_use]
    pub fn of(row: &DeploymentRow) -> Self {
        Self { deployment: row.id.clone(), fence: row.fence }
    }

    /// `<deployment>.<fence>`: names sandbox and scratch folder.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.deployment, self.fence)
    }

    /// An update that changes the row only while this hold is the current one.
    pub(super) fn update(&self) -> UpdateMany<deployment::Entity> {
        deployment::Entity::update_many()
            .filter(deployment::Column::Id.eq(&self.deployment))
            .filter(deployment::Column::Fence.eq(self.fence))
            .filter(deployment::Column::Status.eq("in_progress"))
    }

    /// The row, while this hold is the current one and no cancel was asked.
    fn uncancelled(&self) -> SelectStatement {
        deployment::Entity::find()
            .select_only()
            .column(deployment::Column::Id)
            .filter(deployment::Column::Id.eq(&self.deployment))
            .filter(deployment::Column::Fence.eq(self.fence))
            .filter(deployment::Column::Status.eq("in_progress"))
            .filter(deployment::Column::CancelRequestedAt.is_null())
            .into_query()
    }

    /// Reads the row if this hold is still the current one, and keeps everybody else from changing it
    /// until the transaction ends: what is decided by it stays true.
    pub(super) async fn row(&self, tx: &DatabaseTransaction) -> Result<DeploymentRow, StoreError> {
        deployment::Entity::find_by_id(&self.deployment)
            .filter(deployment::Column::Fence.eq(self.fence))
            .filter(deployment::Column::Status.eq("in_progress"))
            .lock_exclusive()
            .one(tx)
            .await?
            .ok_or(StoreError::FenceLost)
    }
}

impl Store {
    /// Extends the lease. One that has run out stays so, as whoever saw it may be acting on it.
    ///
    /// # Errors
    /// [`StoreError::FenceLost`] if the lease was taken or ran out, or the deployment has ended.
    pub async fn lease_extend(&self, hold: &Hold, lease_ms: i64) -> Result<Pulse, StoreError> {
        let tx = self.begin().await?;
        let row = hold.row(&tx).await?;
        // After the row is held: waiting for it must not turn the clock back.
        let now = clock::now(&tx).await?;
        if row.lease_until.is_some_and(|until| until < now) {
            return Err(StoreError::FenceLost);
        }
        hold.update().col_expr(deployment::Column::LeaseUntil, Expr::value(now + lease_ms)).exec(&tx).await?;
        tx.commit().await?;
        Ok(pulse_of(&row))
    }

    /// Looks whether the hold is still good and whether a cancel was asked; writes nothing.
    pub async fn lease_look(&self, hold: &Hold) -> Result<Pulse, StoreError> {
        let row = self.deployment_by_id(&hold.deployment).await?;
        match row {
            Some(row) if row.fence == hold.fence && row.status == "in_progress" => Ok(pulse_of(&row)),
            _ => Err(StoreError::FenceLost),
        }
    }

    /// Every hold there is, on whatever server.
    pub async fn lease_holds(&self) -> Result<HashSet<Hold>, StoreError> {
        let rows: Vec<(String, i64)> = deployment::Entity::find()
            .select_only()
            .columns([deployment::Column::Id, deployment::Column::Fence])
            .filter(deployment::Column::Status.eq("in_progress"))
            .into_tuple()
            .all(&self.read)
            .await?;
        Ok(rows.into_iter().map(|(deployment, fence)| Hold { deployment, fence }).collect())
    }

    pub async fn step_begin(&self, hold: &Hold, step: Step) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let changed = hold
            .update()
            .col_expr(deployment::Column::CurrentStep, Expr::value(step.as_str()))
            .col_expr(deployment::Column::Progress, Expr::value(step.progress()))
            .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
            .exec(&tx)
            .await?;
        if changed.rows_affected == 0 {
            return Err(StoreError::FenceLost);
        }
        let begun = step_update(hold, step)
            .col_expr(deployment_step::Column::Status, Expr::value("in_progress"))
            .col_expr(deployment_step::Column::StartedAt, Expr::value(now))
            .filter(deployment_step::Column::Status.ne("in_progress"))
            .exec(&tx)
            .await?;
        // Written again after an answer that was lost: told once.
        if begun.rows_affected > 0 {
            let data =
                serde_json::json!({ "step": step, "status": "in_progress", "progress": step.progress() });
            events::add(&tx, &hold.deployment, now, events::Kind::Step, step.begin_line(), data).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends a step with `status`; `result` is what a later attempt may reuse.
    pub async fn step_end(
        &self,
        hold: &Hold,
        step: Step,
        status: StepStatus,
        result: Option<String>,
        message: &str,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        hold.row(&tx).await?;
        let mut update = step_update(hold, step)
            .filter(deployment_step::Column::Status.ne(status.as_str()))
            .col_expr(deployment_step::Column::Status, Expr::value(status.as_str()))
            .col_expr(deployment_step::Column::FinishedAt, Expr::value(now));
        if result.is_some() {
            update = update.col_expr(deployment_step::Column::Result, Expr::value(result));
        }
        if status == StepStatus::Failed {
            update = update.col_expr(deployment_step::Column::Error, Expr::value(message));
        }
        // Written again after an answer that was lost: told once.
        if update.exec(&tx).await?.rows_affected > 0 {
            let data = serde_json::json!({ "step": step, "status": status });
            events::add(&tx, &hold.deployment, now, events::Kind::Step, message, data).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Records the version and puts its preview address into the next routing table.
    /// Recording the same version again changes nothing; one that was retired meanwhile is kept again, and one that
    /// was never live gives its place to what its deployment, driven anew, has built instead.
    pub async fn version_record(&self, hold: &Hold, new: &NewVersion) -> Result<VersionRecorded, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        let known =
            version::Entity::find().filter(version::Column::DeploymentId.eq(&row.id)).one(&tx).await?;
        if let Some(known) = &known
            && known.id == new.id.as_str()
            && known.retired_at.is_none()
        {
            tx.rollback().await?;
            return Ok(VersionRecorded::At { epoch: known.route_epoch });
        }
        let epoch = routes::next_epoch(&tx).await?;
        let recorded = version::ActiveModel {
            id: Set(new.id.to_string()),
            org_id: Set(row.org_id.clone()),
            project_id: Set(row.project_id.clone()),
            deployment_id: Set(row.id.clone()),
            target: Set(row.target.clone()),
            seq: Set(row.seq),
            kind: Set("static".into()),
            preview_label: Set(new.preview_label.clone()),
            manifest_digest: Set(new.manifest_digest.clone()),
            pack_digest: Set(new.pack_digest.clone()),
            pack_size: Set(new.pack_size),
            file_count: Set(new.file_count),
            created_at: Set(now),
            retired_at: Set(None),
            route_epoch: Set(epoch),
        };
        if let Some(known) = known {
            if known.id == new.id.as_str() {
                version::Entity::update_many()
                    .col_expr(version::Column::RetiredAt, Expr::value(Option::<i64>::None))
                    .col_expr(version::Column::RouteEpoch, Expr::value(epoch))
                    .filter(version::Column::Id.eq(&known.id))
                    .exec(&tx)
                    .await?;
                tx.commit().await?;
                return Ok(VersionRecorded::At { epoch });
            }
            if is_in_use(&tx, &row, &known.id).await? {
                tx.rollback().await?;
                return Ok(VersionRecorded::Superseded);
            }
            version::Entity::delete_by_id(&known.id).exec(&tx).await?;
        }
        version::Entity::insert(recorded).exec_without_returning(&tx).await?;
        hold.update().col_expr(deployment::Column::VersionId, Expr::value(new.id.as_str())).exec(&tx).await?;
        tx.commit().await?;
        Ok(VersionRecorded::At { epoch })
    }

    /// Goes live, if nothing newer is and no cancel was asked. Each sequence number switches at
    /// most once, and never after its cancel was confirmed.
    pub async fn version_switch(&self, hold: &Hold, version: &str) -> Result<Switched, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        if row.cancel_requested_at.is_some() {
            tx.rollback().await?;
            return Ok(Switched::CancelRequested);
        }
        let epoch = routes::next_epoch(&tx).await?;
        let changed = project_target::Entity::update_many()
            .col_expr(project_target::Column::LiveSeq, Expr::value(row.seq))
            .col_expr(project_target::Column::LiveVersionId, Expr::value(version))
            .col_expr(project_target::Column::RouteEpoch, Expr::value(epoch))
            .filter(project_target::Column::ProjectId.eq(&row.project_id))
            .filter(project_target::Column::Target.eq(&row.target))
            .filter(project_target::Column::LiveSeq.lt(row.seq))
            // The row is locked and was looked at; that the statement itself says it keeps the promise
            // where it can be read, and needs no lock to be true.
            .filter(Expr::exists(hold.uncancelled()))
            .exec(&tx)
            .await?;
        if changed.rows_affected == 0 {
            tx.rollback().await?;
            return self.switched_before(&row).await;
        }
        if row.target == Target::Production.as_str() {
            versions::end_splits(&tx, &row.project_id, now).await?;
        }
        // Said once and for all: the record takes no other moment.
        let at = row.switched_at.unwrap_or(now);
        hold.update().col_expr(deployment::Column::SwitchedAt, Expr::value(at)).exec(&tx).await?;
        let data = serde_json::json!({ "epoch": epoch });
        events::add(&tx, &hold.deployment, now, events::Kind::Switched, "Version is live", data).await?;
        tx.commit().await?;
        Ok(Switched::Live { epoch })
    }

    /// An attempt that resumes after its own switch has been live, whatever was put live since.
    async fn switched_before(&self, row: &DeploymentRow) -> Result<Switched, StoreError> {
        if row.switched_at.is_none() {
            return Ok(Switched::Superseded);
        }
        let key = (row.project_id.clone(), row.target.clone());
        let live = project_target::Entity::find_by_id(key).one(&self.read).await?;
        Ok(live.map_or(Switched::Superseded, |t| Switched::Live { epoch: t.route_epoch }))
    }
}

/// Whether the version of this deployment was ever put live, or can't be any more. Whoever puts something live holds
/// the epoch, as the caller does: the answer stays true.
async fn is_in_use(tx: &DatabaseTransaction, row: &DeploymentRow, version: &str) -> Result<bool, StoreError> {
    let key = (row.project_id.clone(), row.target.clone());
    let target = project_target::Entity::find_by_id(key).one(tx).await?;
    let overtaken = target.is_some_and(|target| target.live_seq > row.seq);
    let by_hand =
        live_change::Entity::find().filter(live_change::Column::VersionId.eq(version)).count(tx).await?;
    Ok(overtaken || row.switched_at.is_some() || by_hand > 0)
}

fn pulse_of(row: &DeploymentRow) -> Pulse {
    if row.cancel_requested_at.is_some() { Pulse::CancelRequested } else { Pulse::Alive }
}

fn step_update(hold: &Hold, step: Step) -> UpdateMany<deployment_step::Entity> {
    deployment_step::Entity::update_many()
        .filter(deployment_step::Column::DeploymentId.eq(&hold.deployment))
        .filter(deployment_step::Column::Step.eq(step.as_str()))
}
