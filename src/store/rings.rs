//! Remembering that a deployment was rung, and ringing again. Whose turn it is, `line` decides.

use entity::deployment;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::deployments::DeploymentRow;
use super::{Store, StoreError};

impl Store {
    /// Remembers that `ring` was published as message `sequence`.
    pub async fn ring_rung(&self, id: &str, ring: i64, sequence: i64) -> Result<(), StoreError> {
        let now = self.now().await?;
        deployment::Entity::update_many()
            .col_expr(deployment::Column::RungAt, Expr::value(now))
            .col_expr(deployment::Column::RingSequence, Expr::value(sequence))
            .filter(deployment::Column::Id.eq(id))
            .filter(deployment::Column::Ring.eq(ring))
            .filter(deployment::Column::Status.eq("queued"))
            .exec(&self.write)
            .await?;
        Ok(())
    }

    /// Queued rows that were rung longer than `older_than_ms` ago and never claimed.
    pub async fn ring_unanswered(
        &self,
        older_than_ms: i64,
        limit: u64,
    ) -> Result<Vec<DeploymentRow>, StoreError> {
        let now = self.now().await?;
        Ok(deployment::Entity::find()
            .filter(deployment::Column::Status.eq("queued"))
            .filter(deployment::Column::RungAt.lt(now - older_than_ms))
            .order_by_asc(deployment::Column::RungAt)
            .limit(limit)
            .all(&self.read)
            .await?)
    }

    /// Takes a ring back: the row is rung again under the next number.
    pub async fn ring_again(&self, id: &str, ring: i64) -> Result<(), StoreError> {
        unring(ring_filter(deployment::Entity::update_many(), id, ring)).exec(&self.write).await?;
        Ok(())
    }

    /// After the stream was lost: every waiting row is rung again. Answers how many.
    pub async fn ring_all_again(&self) -> Result<u64, StoreError> {
        let tx = self.begin().await?;
        let rung: Vec<String> = deployment::Entity::find()
            .select_only()
            .column(deployment::Column::Id)
            .filter(deployment::Column::Status.eq("queued"))
            .filter(deployment::Column::RungAt.is_not_null())
            // Locked in the order in which everybody locks several.
            .order_by_asc(deployment::Column::Id)
            .lock_exclusive()
            .into_tuple()
            .all(&tx)
            .await?;
        let mut changed = 0;
        for batch in rung.chunks(1_000) {
            let ids = batch.iter().map(String::as_str);
            changed += unring(deployment::Entity::update_many())
                .filter(deployment::Column::Id.is_in(ids))
                .exec(&tx)
                .await?
                .rows_affected;
        }
        tx.commit().await?;
        Ok(changed)
    }
}

fn ring_filter(
    update: sea_orm::UpdateMany<deployment::Entity>,
    id: &str,
    ring: i64,
) -> sea_orm::UpdateMany<deployment::Entity> {
    update
        .filter(deployment::Column::Id.eq(id))
        .filter(deployment::Column::Ring.eq(ring))
        .filter(deployment::Column::Status.eq("queued"))
}

fn unring(update: sea_orm::UpdateMany<deployment::Entity>) -> sea_orm::UpdateMany<deployment::Entity> {
    update
        .col_expr(deployment::Column::Ring, Expr::col(deployment::Column::Ring).add(1))
        .col_expr(deployment::Column::RungAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment::Column::RingSequence, Expr::value(Option::<i64>::None))
}
