//! The quota ledger: one entry per deployment, reserved → settled or released, inside the
//! deployment's own transactions, so that the sums balance whatever is killed.

use entity::{quota_entry, quota_period};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
};

use super::{Store, StoreError};
use crate::domain::time;

/// The one plan there is.
pub const PLAN: &str = "standard";

/// How a reservation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaEnd {
    Settled,
    Released,
}

/// Reserves one deployment in this month's period. Answers `false` when the plan is used up.
pub(super) async fn reserve(
    tx: &DatabaseTransaction,
    org: &str,
    deployment: &str,
    limit: i64,
    now: i64,
) -> Result<bool, StoreError> {
    let Some(period) = take(tx, org, limit, now).await? else { return Ok(false) };
    quota_entry::Entity::insert(quota_entry::ActiveModel {
        deployment_id: Set(deployment.into()),
        org_id: Set(org.into()),
        period: Set(period),
        state: Set("reserved".into()),
        updated_at: Set(now),
    })
    .exec_without_returning(tx)
    .await?;
    Ok(true)
}

/// Counts one more reservation in this month's period and answers which one that is, or nothing when the plan is
/// used up.
async fn take(
    tx: &DatabaseTransaction,
    org: &str,
    limit: i64,
    now: i64,
) -> Result<Option<String>, StoreError> {
    let period = time::month(now);
    let opened = quota_period::ActiveModel {
        org_id: Set(org.into()),
        period: Set(period.clone()),
        plan: Set(PLAN.into()),
        limit_count: Set(limit),
        reserved: Set(0),
        settled: Set(0),
        released: Set(0),
    };
    quota_period::Entity::insert(opened)
        .on_conflict(
            OnConflict::columns([quota_period::Column::OrgId, quota_period::Column::Period])
                .do_nothing()
                .to_owned(),
        )
        .exec_without_returning(tx)
        .await
        .map(|_| ())
        .or_else(|e| if matches!(e, sea_orm::DbErr::RecordNotInserted) { Ok(()) } else { Err(e) })?;
    // The plan may have changed since the period was opened; what is spent already stays allowed.
    quota_period::Entity::update_many()
        .col_expr(quota_period::Column::LimitCount, Expr::value(limit))
        .filter(quota_period::Column::OrgId.eq(org))
        .filter(quota_period::Column::Period.eq(&period))
        .filter(
            Expr::col(quota_period::Column::Reserved)
                .add(Expr::col(quota_period::Column::Settled))
                .lte(limit),
        )
        .exec(tx)
        .await?;
    let taken = quota_period::Entity::update_many()
        .col_expr(quota_period::Column::Reserved, Expr::col(quota_period::Column::Reserved).add(1))
        .filter(quota_period::Column::OrgId.eq(org))
        .filter(quota_period::Column::Period.eq(&period))
        .filter(
            Expr::col(quota_period::Column::Reserved)
                .add(Expr::col(quota_period::Column::Settled))
                .lt(Expr::col(quota_period::Column::LimitCount)),
        )
        .exec(tx)
        .await?;
    Ok((taken.rows_affected > 0).then_some(period))
}

/// Reserves a deployment whose reservation has ended once more, in this month's period. Answers `false` when the
/// plan is used up.
pub(super) async fn reserve_again(
    tx: &DatabaseTransaction,
    org: &str,
    deployment: &str,
    limit: i64,
    now: i64,
) -> Result<bool, StoreError> {
    let Some(entry) = quota_entry::Entity::find_by_id(deployment).one(tx).await? else {
        return reserve(tx, org, deployment, limit, now).await;
    };
    let loses = match entry.state.as_str() {
        "released" => quota_period::Column::Released,
        "settled" => quota_period::Column::Settled,
        _ => return Ok(true),
    };
    let Some(period) = take(tx, org, limit, now).await? else { return Ok(false) };
    quota_period::Entity::update_many()
        .col_expr(loses, Expr::col(loses).sub(1))
        .filter(quota_period::Column::OrgId.eq(org))
        .filter(quota_period::Column::Period.eq(&entry.period))
        .exec(tx)
        .await?;
    quota_entry::Entity::update_many()
        .col_expr(quota_entry::Column::State, Expr::value("reserved"))
        .col_expr(quota_entry::Column::Period, Expr::value(period))
        .col_expr(quota_entry::Column::UpdatedAt, Expr::value(now))
        .filter(quota_entry::Column::DeploymentId.eq(deployment))
        .exec(tx)
        .await?;
    Ok(true)
}

/// Whether a reservation could be made now. Only an early answer: `reserve` decides.
pub(super) async fn is_used_up<C: ConnectionTrait>(
    connection: &C,
    org: &str,
    limit: i64,
    now: i64,
) -> Result<bool, StoreError> {
    let row = quota_period::Entity::find_by_id((org.to_owned(), time::month(now))).one(connection).await?;
    Ok(row.map_or(limit == 0, |r| r.reserved + r.settled >= limit))
}

/// Ends a reservation, once: a second call for the same deployment changes nothing.
pub(super) async fn end(
    tx: &DatabaseTransaction,
    deployment: &str,
    how: QuotaEnd,
    now: i64,
) -> Result<(), StoreError> {
    let state = match how {
        QuotaEnd::Settled => "settled",
        QuotaEnd::Released => "released",
    };
    let changed = quota_entry::Entity::update_many()
        .col_expr(quota_entry::Column::State, Expr::value(state))
        .col_expr(quota_entry::Column::UpdatedAt, Expr::value(now))
        .filter(quota_entry::Column::DeploymentId.eq(deployment))
        .filter(quota_entry::Column::State.eq("reserved"))
        .exec(tx)
        .await?;
    if changed.rows_affected == 0 {
        return Ok(());
    }
    let Some(entry) = quota_entry::Entity::find_by_id(deployment).one(tx).await? else { return Ok(()) };
    let gains = match how {
        QuotaEnd::Settled => quota_period::Column::Settled,
        QuotaEnd::Released => quota_period::Column::Released,
    };
    quota_period::Entity::update_many()
        .col_expr(quota_period::Column::Reserved, Expr::col(quota_period::Column::Reserved).sub(1))
        .col_expr(gains, Expr::col(gains).add(1))
        .filter(quota_period::Column::OrgId.eq(&entry.org_id))
        .filter(quota_period::Column::Period.eq(&entry.period))
        .exec(tx)
        .await?;
    Ok(())
}

impl Store {
    /// Whether a deployment's reservation stands.
    pub async fn quota_is_reserved(&self, deployment: &str) -> Result<bool, StoreError> {
        let entry = quota_entry::Entity::find_by_id(deployment).one(&self.read).await?;
        Ok(entry.is_some_and(|e| e.state == "reserved"))
    }
}
