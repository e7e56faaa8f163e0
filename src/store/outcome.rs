//! How an attempt or a deployment ends: one transaction each, quota included.

use entity::{deployment, deployment_step, project};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QuerySelect};

use super::deployments::{DeploymentRow, MAX_ATTEMPTS};
use super::journal::Hold;
use super::quota::{self, QuotaEnd};
use super::{Store, StoreError, attempts, clock, dead_letters, events, paces};
use crate::domain::status::CancelReason;
use crate::domain::{AttemptOutcome, Cause, DeadLetterClass, DeploymentId, Digest, Fault, OrgScope, Step};

/// What asking for a cancel came to.
#[derive(Debug)]
pub enum CancelAsked {
    /// It was still queued: it is cancelled.
    Cancelled(Box<DeploymentRow>),
    /// It runs: the running attempt will end it.
    Requested(Box<DeploymentRow>),
    /// It has ended, or its version is live already.
    TooLate(Box<DeploymentRow>),
    Unknown,
}

impl Store {
    /// The version is live and was fetched. The tree that was built becomes the stored one.
    pub async fn deployment_complete(&self, hold: &Hold, tree: Option<&Digest>) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        complete(&tx, hold, &row, tree.map(Digest::as_str), now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A final failure. A platform's failure gives the quota back and leaves a dead letter.
    pub async fn deployment_fail(&self, hold: &Hold, cause: &Cause) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        if must_cancel(&row) {
            cancel_running(&tx, hold, CancelReason::Requested, now).await?;
            tx.commit().await?;
            return Ok(());
        }
        let is_dead = match cause.class {
            Fault::User => false,
            Fault::Platform | Fault::Unknown => true,
        };
        let ended = if is_dead { end_dead(hold, now) } else { end_row(hold, "failed", now) };
        ended
            .col_expr(deployment::Column::Cause, Expr::value(to_json(cause)))
            .col_expr(deployment::Column::LastFailedAt, Expr::value(now))
            .col_expr(deployment::Column::FirstFailedAt, Expr::value(row.first_failed_at.unwrap_or(now)))
            .exec(&tx)
            .await?;
        fail_steps(&tx, &row.id, &cause.summary, now).await?;
        attempts::end(&tx, &row.id, AttemptOutcome::Failed, Some(cause), now).await?;
        let how = if is_dead { QuotaEnd::Released } else { QuotaEnd::Settled };
        quota::end(&tx, &row.id, how, now).await?;
        let data = serde_json::json!({ "cause": cause.public() });
        events::add(&tx, &row.id, now, events::Kind::Failed, &cause.summary, data).await?;
        if is_dead {
            dead_letters::add(&tx, &row, DeadLetterClass::Exhausted, cause, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Releases the lease after a platform failure; the row is due again in `delay_ms`.
    pub async fn deployment_retry(
        &self,
        hold: &Hold,
        cause: &Cause,
        delay_ms: i64,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        if must_cancel(&row) {
            cancel_running(&tx, hold, CancelReason::Requested, now).await?;
        } else {
            attempts::end(&tx, &row.id, AttemptOutcome::Retry, Some(cause), now).await?;
            requeue(&tx, hold, &row, cause, delay_ms, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends a running deployment as cancelled. Its process tree is dead already.
    pub async fn deployment_cancelled(&self, hold: &Hold, reason: CancelReason) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        hold.row(&tx).await?;
        cancel_running(&tx, hold, reason, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives a lease back because the server is stopping: the attempt does not count.
    pub async fn deployment_hand_over(&self, hold: &Hold) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = hold.row(&tx).await?;
        if must_cancel(&row) {
            cancel_running(&tx, hold, CancelReason::Requested, now).await?;
            tx.commit().await?;
            return Ok(());
        }
        attempts::end(&tx, &hold.deployment, AttemptOutcome::HandedOver, None, now).await?;
        release(hold, now, now)
            .col_expr(deployment::Column::Attempt, Expr::col(deployment::Column::Attempt).sub(1))
            .col_expr(deployment::Column::HandOvers, Expr::col(deployment::Column::HandOvers).add(1))
            .exec(&tx)
            .await?;
        events::add(
            &tx,
            &hold.deployment,
            now,
            events::Kind::Retry,
            "Handed over: the server is stopping",
            serde_json::json!({}),
        )
        .await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn deployment_cancel(
        &self,
        scope: &OrgScope,
        id: &DeploymentId,
    ) -> Result<CancelAsked, StoreError> {
        self.repeating(|tried| self.cancel_once(scope, id, tried)).await
    }

    async fn cancel_once(
        &self,
        scope: &OrgScope,
        id: &DeploymentId,
        tried: u32,
    ) -> Result<CancelAsked, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        // Held, so that no switch and no end comes between this look and what is written by it.
        let found = deployment::Entity::find_by_id(id.as_str())
            .filter(deployment::Column::OrgId.eq(scope.org().as_str()))
            .lock_exclusive()
            .one(&tx)
            .await?;
        let Some(row) = found else { return Ok(CancelAsked::Unknown) };
        if tried > 0 && row.cancel_reason.as_deref() == Some(CancelReason::Requested.as_str()) {
            // The connection died after it was cancelled: what this very call did is no reason to refuse it.
            return Ok(CancelAsked::Cancelled(Box::new(row)));
        }
        if row.finished_at.is_some() || row.switched_at.is_some() {
            return Ok(CancelAsked::TooLate(Box::new(row)));
        }
        if row.status == "queued" {
            cancel_queued(&tx, &row, CancelReason::Requested, now).await?;
        } else if row.cancel_requested_at.is_none() {
            deployment::Entity::update_many()
                .col_expr(deployment::Column::CancelRequestedAt, Expr::value(now))
                .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
                .filter(deployment::Column::Id.eq(&row.id))
                .exec(&tx)
                .await?;
            let kind = events::Kind::CancelRequested;
            events::add(&tx, &row.id, now, kind, "Cancel requested", serde_json::json!({})).await?;
        }
        let now_is = deployment::Entity::find_by_id(id.as_str()).one(&tx).await?;
        tx.commit().await?;
        let now_is = Box::new(now_is.ok_or(StoreError::Corrupt { what: "deployment" })?);
        Ok(if now_is.status == "cancelled" {
            CancelAsked::Cancelled(now_is)
        } else {
            CancelAsked::Requested(now_is)
        })
    }

    /// Ends an expired lease: the deployment waits for its next attempt, is cancelled if that was
    /// asked, or fails with `cause` when it has no attempt left. The dead letter is confirmed
    /// before this is called for the last time. Answers whether the lease was really expired.
    pub async fn lease_expire(&self, hold: &Hold, cause: &Cause, delay_ms: i64) -> Result<bool, StoreError> {
        let tx = self.begin().await?;
        let row = match hold.row(&tx).await {
            Err(StoreError::FenceLost) => return Ok(false),
            other => other?,
        };
        let now = clock::now(&tx).await?;
        if row.lease_until.is_none_or(|until| until >= now) {
            return Ok(false);
        }
        let same_step = row.crashed_step.is_some() && row.crashed_step == row.current_step;
        let crashes = if same_step { row.crashes_in_step + 1 } else { 1 };
        hold.update()
            .col_expr(deployment::Column::CrashedStep, Expr::value(row.current_step.clone()))
            .col_expr(deployment::Column::CrashesInStep, Expr::value(crashes))
            .exec(&tx)
            .await?;
        if let Some(tree) = confirmed_live(&tx, &row).await? {
            complete(&tx, hold, &row, tree.as_deref(), now).await?;
        } else if must_cancel(&row) {
            cancel_running(&tx, hold, CancelReason::Requested, now).await?;
        } else if row.attempt >= MAX_ATTEMPTS {
            end_dead(hold, now)
                .col_expr(deployment::Column::Cause, Expr::value(to_json(cause)))
                .col_expr(deployment::Column::LastFailedAt, Expr::value(now))
                .col_expr(deployment::Column::FirstFailedAt, Expr::value(row.first_failed_at.unwrap_or(now)))
                .exec(&tx)
                .await?;
            fail_steps(&tx, &row.id, &cause.summary, now).await?;
            attempts::end(&tx, &row.id, AttemptOutcome::Crashed, Some(cause), now).await?;
            quota::end(&tx, &row.id, QuotaEnd::Released, now).await?;
            let data = serde_json::json!({ "cause": cause.public() });
            events::add(&tx, &row.id, now, events::Kind::Failed, &cause.summary, data).await?;
            dead_letters::add(&tx, &row, dead_letters::crash_class(&row), cause, now).await?;
        } else {
            attempts::end(&tx, &row.id, AttemptOutcome::Crashed, Some(cause), now).await?;
            requeue(&tx, hold, &row, cause, delay_ms, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    }
}

/// A cancel that was asked beats whatever else an attempt ends with, unless it is live: who was told that it will be
/// cancelled sees no further attempt of it.
fn must_cancel(row: &DeploymentRow) -> bool {
    row.cancel_requested_at.is_some() && row.switched_at.is_none()
}

/// Ends a running deployment, whose processes are dead already.
async fn cancel_running(
    tx: &DatabaseTransaction,
    hold: &Hold,
    reason: CancelReason,
    now: i64,
) -> Result<(), StoreError> {
    end_row(hold, "cancelled", now)
        .col_expr(deployment::Column::CancelReason, Expr::value(reason.as_str()))
        .exec(tx)
        .await?;
    skip_steps(tx, &hold.deployment, now).await?;
    quota::end(tx, &hold.deployment, QuotaEnd::Settled, now).await?;
    cancelled_event(tx, &hold.deployment, reason, now).await
}

async fn complete(
    tx: &DatabaseTransaction,
    hold: &Hold,
    row: &DeploymentRow,
    tree: Option<&str>,
    now: i64,
) -> Result<(), StoreError> {
    end_row(hold, "completed", now)
        .col_expr(deployment::Column::Progress, Expr::value(100))
        .col_expr(deployment::Column::Cause, Expr::value(Option::<String>::None))
        .exec(tx)
        .await?;
    if let Some(tree) = tree {
        project::Entity::update_many()
            .col_expr(project::Column::TreeDigest, Expr::value(tree))
            .filter(project::Column::Id.eq(&row.project_id))
            .exec(tx)
            .await?;
    }
    attempts::end(tx, &row.id, AttemptOutcome::Completed, None, now).await?;
    paces::learn(tx, row).await?;
    skip_steps(tx, &row.id, now).await?;
    quota::end(tx, &row.id, QuotaEnd::Settled, now).await?;
    let data = serde_json::json!({ "progress": 100 });
    events::add(tx, &row.id, now, events::Kind::Completed, "Deployment completed", data).await
}

/// Whether the attempt whose lease ran out had its version live *and* fetched: only cleanup was
/// left, which can't fail a deployment, however often its process dies. Answers the tree's digest.
pub(super) async fn confirmed_live<C: ConnectionTrait>(
    tx: &C,
    row: &DeploymentRow,
) -> Result<Option<Option<String>>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Synced {
        tree: String,
    }
    let steps = deployment_step::Entity::find()
        .filter(deployment_step::Column::DeploymentId.eq(&row.id))
        .all(tx)
        .await?;
    let done = |s: &deployment_step::Model| s.step == Step::Deploy.as_str() && s.status == "completed";
    if row.switched_at.is_none() || row.attempt < MAX_ATTEMPTS || !steps.iter().any(done) {
        return Ok(None);
    }
    let sync = steps.into_iter().find(|s| s.step == Step::Sync.as_str()).and_then(|s| s.result);
    Ok(Some(sync.and_then(|text| serde_json::from_str::<Synced>(&text).ok()).map(|s| s.tree)))
}

/// Cancels a deployment that nobody runs.
pub(super) async fn cancel_queued(
    tx: &DatabaseTransaction,
    row: &DeploymentRow,
    reason: CancelReason,
    now: i64,
) -> Result<(), StoreError> {
    let changed = deployment::Entity::update_many()
        .col_expr(deployment::Column::Status, Expr::value("cancelled"))
        .col_expr(deployment::Column::CancelReason, Expr::value(reason.as_str()))
        .col_expr(deployment::Column::EnvSealed, Expr::value(Option::<String>::None))
        .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
        .col_expr(deployment::Column::FinishedAt, Expr::value(now))
        .filter(deployment::Column::Id.eq(&row.id))
        .filter(deployment::Column::Status.eq("queued"))
        .exec(tx)
        .await?;
    if changed.rows_affected == 0 {
        return Ok(());
    }
    skip_steps(tx, &row.id, now).await?;
    let how = if row.attempt == 0 { QuotaEnd::Released } else { QuotaEnd::Settled };
    quota::end(tx, &row.id, how, now).await?;
    cancelled_event(tx, &row.id, reason, now).await
}

async fn requeue(
    tx: &DatabaseTransaction,
    hold: &Hold,
    row: &DeploymentRow,
    cause: &Cause,
    delay_ms: i64,
    now: i64,
) -> Result<(), StoreError> {
    release(hold, now, now + delay_ms)
        .col_expr(deployment::Column::Cause, Expr::value(to_json(cause)))
        .col_expr(deployment::Column::LastFailedAt, Expr::value(now))
        .col_expr(deployment::Column::FirstFailedAt, Expr::value(row.first_failed_at.unwrap_or(now)))
        .exec(tx)
        .await?;
    fail_steps(tx, &row.id, &cause.summary, now).await?;
    let message =
        format!("Attempt {} of {MAX_ATTEMPTS} failed; next one in {} s", row.attempt, delay_ms / 1_000);
    let data = serde_json::json!({ "attempt": row.attempt, "cause": cause.public(), "delayMs": delay_ms });
    events::add(tx, &row.id, now, events::Kind::Retry, &message, data).await
}

/// The lease is given back and the row waits, with a fresh ring to come.
fn release(hold: &Hold, now: i64, due_at: i64) -> sea_orm::UpdateMany<deployment::Entity> {
    hold.update()
        .col_expr(deployment::Column::Status, Expr::value("queued"))
        .col_expr(deployment::Column::LeaseOwner, Expr::value(Option::<String>::None))
        .col_expr(deployment::Column::LeaseUntil, Expr::value(Option::<i64>::None))
        .col_expr(deployment::Column::Progress, Expr::value(0))
        .col_expr(deployment::Column::CurrentStep, Expr::value(Option::<String>::None))
        .col_expr(deployment::Column::Ring, Expr::col(deployment::Column::Ring).add(1))
        .col_expr(deployment::Column::RungAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment::Column::RingSequence, Expr::value(Option::<i64>::None))
        .col_expr(deployment::Column::DueAt, Expr::value(due_at))
        .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
}

/// What every final state has in common. Build variables are not kept longer than needed.
fn end_row(hold: &Hold, status: &'static str, now: i64) -> sea_orm::UpdateMany<deployment::Entity> {
    ended(hold, status, now).col_expr(deployment::Column::EnvSealed, Expr::value(Option::<String>::None))
}

/// As `end_row`, of what may be driven anew: its build variables are kept with its letter.
fn end_dead(hold: &Hold, now: i64) -> sea_orm::UpdateMany<deployment::Entity> {
    ended(hold, "failed", now)
}

fn ended(hold: &Hold, status: &'static str, now: i64) -> sea_orm::UpdateMany<deployment::Entity> {
    hold.update()
        .col_expr(deployment::Column::Status, Expr::value(status))
        .col_expr(deployment::Column::LeaseOwner, Expr::value(Option::<String>::None))
        .col_expr(deployment::Column::LeaseUntil, Expr::value(Option::<i64>::None))
        .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
        .col_expr(deployment::Column::FinishedAt, Expr::value(now))
}

async fn fail_steps(tx: &DatabaseTransaction, id: &str, summary: &str, now: i64) -> Result<(), StoreError> {
    deployment_step::Entity::update_many()
        .col_expr(deployment_step::Column::Status, Expr::value("failed"))
        .col_expr(deployment_step::Column::FinishedAt, Expr::value(now))
        .col_expr(deployment_step::Column::Error, Expr::value(summary))
        .filter(deployment_step::Column::DeploymentId.eq(id))
        .filter(deployment_step::Column::Status.eq("in_progress"))
        .filter(deployment_step::Column::Step.ne(Step::Cleanup.as_str()))
        .exec(tx)
        .await?;
    skip_steps(tx, id, now).await
}

async fn skip_steps(tx: &DatabaseTransaction, id: &str, now: i64) -> Result<(), StoreError> {
    deployment_step::Entity::update_many()
        .col_expr(deployment_step::Column::Status, Expr::value("skipped"))
        .col_expr(deployment_step::Column::FinishedAt, Expr::value(now))
        .filter(deployment_step::Column::DeploymentId.eq(id))
        .filter(deployment_step::Column::Status.is_in(["pending", "in_progress"]))
        .exec(tx)
        .await?;
    Ok(())
}

async fn cancelled_event(
    tx: &DatabaseTransaction,
    id: &str,
    reason: CancelReason,
    now: i64,
) -> Result<(), StoreError> {
    // One that waited has none.
    attempts::end(tx, id, AttemptOutcome::Cancelled, None, now).await?;
    let message = match reason {
        CancelReason::Requested => "Deployment cancelled",
        CancelReason::Superseded => "Deployment superseded by a newer one",
    };
    events::add(tx, id, now, events::Kind::Cancelled, message, serde_json::json!({ "reason": reason })).await
}

fn to_json(cause: &Cause) -> String {
    serde_json::to_string(cause).unwrap_or_default()
}
