//! What each attempt of a deployment came to: one row per claim, open while it runs. Written within the transactions
//! that claim and end; decides nothing.

use entity::deployment_attempt;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::deployments::DeploymentRow;
use super::{Store, StoreError};
use crate::domain::{AttemptOutcome, Cause, Step};

pub use entity::deployment_attempt::Model as AttemptRow;

/// Opens the attempt of a row that was just claimed.
pub(super) async fn begin(tx: &DatabaseTransaction, row: &DeploymentRow, now: i64) -> Result<(), StoreError> {
    // The release before ends attempts without closing them: whoever ran it is not heard of any more.
    end(tx, &row.id, AttemptOutcome::Crashed, None, now).await?;
    deployment_attempt::Entity::insert(deployment_attempt::ActiveModel {
        deployment_id: Set(row.id.clone()),
        fence: Set(row.fence),
        generation: Set(row.redrives),
        attempt: Set(row.attempt),
        server: Set(row.lease_owner.clone().unwrap_or_default()),
        started_at: Set(now),
        ended_at: Set(None),
        outcome: Set(None),
        step: Set(None),
        cause: Set(None),
    })
    .exec_without_returning(tx)
    .await?;
    Ok(())
}

/// Closes the open attempt, if there is one: the release before opened none.
pub(super) async fn end(
    tx: &DatabaseTransaction,
    deployment: &str,
    outcome: AttemptOutcome,
    cause: Option<&Cause>,
    now: i64,
) -> Result<(), StoreError> {
    let step = cause.and_then(|cause| cause.step).map(Step::as_str);
    let cause = cause.and_then(|cause| serde_json::to_string(cause).ok());
    deployment_attempt::Entity::update_many()
        .col_expr(deployment_attempt::Column::EndedAt, Expr::value(now))
        .col_expr(deployment_attempt::Column::Outcome, Expr::value(outcome.as_str()))
        .col_expr(deployment_attempt::Column::Step, Expr::value(step))
        .col_expr(deployment_attempt::Column::Cause, Expr::value(cause))
        .filter(deployment_attempt::Column::DeploymentId.eq(deployment))
        .filter(deployment_attempt::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

impl Store {
    /// The newest `limit` attempts, oldest first.
    pub async fn attempt_list(&self, deployment: &str, limit: u64) -> Result<Vec<AttemptRow>, StoreError> {
        let mut rows = deployment_attempt::Entity::find()
            .filter(deployment_attempt::Column::DeploymentId.eq(deployment))
            .order_by_desc(deployment_attempt::Column::Fence)
            .limit(limit)
            .all(&self.read)
            .await?;
        rows.reverse();
        Ok(rows)
    }
}
