//! Claiming a deployment: who may work on it, and for how long.
//! Never lets two hold one, nor one project and target twice.

use entity::{deployment, deployment_step};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, Condition, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect,
};

use super::deployments::{DeploymentRow, MAX_ATTEMPTS};
use super::{Store, StoreError, attempts, clock, events, outcome};
use crate::domain::DeploymentStatus;
use crate::domain::status::CancelReason;

/// What a claim came to.
#[derive(Debug)]
pub enum Claim {
    Taken(Box<DeploymentRow>),
    /// Nothing with that id.
    Unknown,
    Final,
    /// Another live lease, an older ring, a busy project or a row that is not due: the message is
    /// done with, the row stays what it is and is rung again when its time comes.
    NotNow,
}

impl Store {
    /// Takes the lease, if the row is due, its project is free and `ring` is the newest one.
    /// Raises the attempt and the fence. `owner` names one delivery: asked again, the claim stands.
    pub async fn deployment_claim(
        &self,
        id: &str,
        org: &str,
        ring: i64,
        owner: &str,
        lease_ms: i64,
    ) -> Result<Claim, StoreError> {
        let claimed = self.repeating(|_| async move {
            let tx = self.begin().await?;
            let claim = claim_in(&tx, (id, org), ring, owner, lease_ms).await?;
            tx.commit().await?;
            Ok(claim)
        });
        match claimed.await {
            // Another one of its project was claimed at the same moment; the index let one through.
            Err(StoreError::Duplicate(_)) => Ok(Claim::NotNow),
            other => other,
        }
    }
}

async fn claim_in(
    tx: &DatabaseTransaction,
    (id, org): (&str, &str),
    ring: i64,
    owner: &str,
    lease_ms: i64,
) -> Result<Claim, StoreError> {
    // The subject's organization is authoritative: another one's id is as unknown as none.
    let found = deployment::Entity::find_by_id(id)
        .filter(deployment::Column::OrgId.eq(org))
        .lock_exclusive()
        .one(tx)
        .await?;
    let Some(row) = found else { return Ok(Claim::Unknown) };
    let now = clock::now(tx).await?;
    match DeploymentStatus::parse(&row.status) {
        Some(s) if s.is_final() => return Ok(Claim::Final),
        // The connection died after it was claimed, by this very delivery: an owner's name is used for one alone.
        Some(DeploymentStatus::InProgress)
            if row.lease_owner.as_deref() == Some(owner) && row.lease_until.is_some_and(|at| at >= now) =>
        {
            return Ok(Claim::Taken(Box::new(row)));
        }
        Some(DeploymentStatus::InProgress) => return Ok(Claim::NotNow),
        _ => {}
    }
    if row.cancel_requested_at.is_some() && row.switched_at.is_none() {
        outcome::cancel_queued(tx, &row, CancelReason::Requested, now).await?;
        return Ok(Claim::Final);
    }
    if row.ring != ring {
        return Ok(Claim::NotNow);
    }
    if row.due_at > now || row.attempt >= MAX_ATTEMPTS || must_wait(tx, &row).await? {
        // This ring is spent; the row is rung again once nothing stands in its way.
        deployment::Entity::update_many()
            .col_expr(deployment::Column::Ring, Expr::col(deployment::Column::Ring).add(1))
            .col_expr(deployment::Column::RungAt, Expr::value(Option::<i64>::None))
            .filter(deployment::Column::Id.eq(id))
            .exec(tx)
            .await?;
        return Ok(Claim::NotNow);
    }
    deployment::Entity::update_many()
        .col_expr(deployment::Column::Status, Expr::value("in_progress"))
        .col_expr(deployment::Column::Attempt, Expr::col(deployment::Column::Attempt).add(1))
        .col_expr(deployment::Column::Fence, Expr::col(deployment::Column::Fence).add(1))
        .col_expr(deployment::Column::LeaseOwner, Expr::value(owner))
        .col_expr(deployment::Column::LeaseUntil, Expr::value(now + lease_ms))
        .col_expr(deployment::Column::Progress, Expr::value(0))
        .col_expr(deployment::Column::CurrentStep, Expr::value(Option::<String>::None))
        .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
        .filter(deployment::Column::Id.eq(id))
        .exec(tx)
        .await?;
    deployment_step::Entity::update_many()
        .col_expr(deployment_step::Column::Status, Expr::value("pending"))
        .col_expr(deployment_step::Column::Attempt, Expr::value(row.attempt + 1))
        .col_expr(deployment_step::Column::StartedAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment_step::Column::FinishedAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment_step::Column::Error, Expr::value(Option::<String>::None))
        .filter(deployment_step::Column::DeploymentId.eq(id))
        .exec(tx)
        .await?;
    let message = format!("Attempt {} of {MAX_ATTEMPTS} started", row.attempt + 1);
    let data = serde_json::json!({ "attempt": row.attempt + 1 });
    events::add(tx, id, now, events::Kind::Started, &message, data).await?;
    let Some(row) = deployment::Entity::find_by_id(id).one(tx).await? else { return Ok(Claim::Unknown) };
    attempts::begin(tx, &row, now).await?;
    Ok(Claim::Taken(Box::new(row)))
}

/// Whether another deployment of the same project and target runs, or waits with a lower number.
async fn must_wait(tx: &DatabaseTransaction, row: &DeploymentRow) -> Result<bool, StoreError> {
    let ahead = deployment::Entity::find()
        .filter(deployment::Column::ProjectId.eq(&row.project_id))
        .filter(deployment::Column::Target.eq(&row.target))
        .filter(
            Condition::any().add(deployment::Column::Status.eq("in_progress")).add(
                Condition::all()
                    .add(deployment::Column::Status.eq("queued"))
                    .add(deployment::Column::Seq.lt(row.seq)),
            ),
        )
        .count(tx)
        .await?;
    Ok(ahead > 0)
}
