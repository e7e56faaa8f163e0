//! Leases that have run out: finding them, and taking them away from their holders.
//! How they end is `outcome`'s.

use entity::deployment;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::deployments::DeploymentRow;
use super::journal::Hold;
use super::outcome::confirmed_live;
use super::{Store, StoreError, clock};

impl Store {
    /// Running deployments whose lease has run out.
    pub async fn lease_expired_list(&self, limit: u64) -> Result<Vec<DeploymentRow>, StoreError> {
        let now = self.now().await?;
        Ok(deployment::Entity::find()
            .filter(deployment::Column::Status.eq("in_progress"))
            .filter(deployment::Column::LeaseUntil.lt(now))
            .order_by_asc(deployment::Column::LeaseUntil)
            .limit(limit)
            .all(&self.read)
            .await?)
    }

    /// In how many ms the next lease runs out unless it is extended; `None` where nothing runs.
    pub async fn lease_next_end_ms(&self) -> Result<Option<i64>, StoreError> {
        let next: Option<Option<i64>> = deployment::Entity::find()
            .select_only()
            .column_as(deployment::Column::LeaseUntil.min(), "next")
            .filter(deployment::Column::Status.eq("in_progress"))
            .into_tuple()
            .one(&self.read)
            .await?;
        let now = self.now().await?;
        Ok(next.flatten().map(|at| Ord::max(at - now, 0)))
    }

    /// Whether the end of this row's lease completes it, because its version is live and was fetched.
    pub async fn lease_end_completes(&self, row: &DeploymentRow) -> Result<bool, StoreError> {
        Ok(confirmed_live(&self.read, row).await?.is_some())
    }

    /// Takes an expired lease away from its holder for good, by raising the fence; it stays expired.
    /// From here on the attempt can't finish any more, so that it may be written off. Answers the row,
    /// or nothing when the lease is alive or somebody else was faster.
    pub async fn lease_seize(&self, hold: &Hold) -> Result<Option<DeploymentRow>, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let seized = hold
            .update()
            .col_expr(deployment::Column::Fence, Expr::col(deployment::Column::Fence).add(1))
            .filter(deployment::Column::LeaseUntil.lt(now))
            .exec(&tx)
            .await?;
        let row = deployment::Entity::find_by_id(&hold.deployment).one(&tx).await?;
        tx.commit().await?;
        Ok(row.filter(|_| seized.rows_affected > 0))
    }
}
