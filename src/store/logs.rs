//! The build log: masked chunks, written before they are shown.

use entity::build_log;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::journal::Hold;
use super::{Store, StoreError};

pub use entity::build_log::Model as LogRow;

impl Store {
    /// Appends one chunk. `seq` continues where [`Store::log_last_seq`] ended. A zombie writes
    /// nothing: its number would be the one that the rightful attempt is about to use.
    ///
    /// # Errors
    /// [`StoreError::FenceLost`] if `hold` is no longer the current one.
    pub async fn log_append(
        &self,
        hold: &Hold,
        seq: i64,
        attempt: i32,
        at: i64,
        text: String,
    ) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        hold.row(&tx).await?;
        build_log::Entity::insert(build_log::ActiveModel {
            deployment_id: Set(hold.deployment.clone()),
            seq: Set(seq),
            at: Set(at),
            attempt: Set(attempt),
            text: Set(text),
        })
        .exec_without_returning(&tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    pub async fn log_last_seq(&self, deployment: &str) -> Result<i64, StoreError> {
        let last: Option<i64> = build_log::Entity::find()
            .filter(build_log::Column::DeploymentId.eq(deployment))
            .order_by_desc(build_log::Column::Seq)
            .select_only()
            .column(build_log::Column::Seq)
            .into_tuple()
            .one(&self.read)
            .await?;
        Ok(last.unwrap_or(0))
    }

    /// Chunks after number `after`, in order.
    pub async fn log_list(
        &self,
        deployment: &str,
        after: i64,
        limit: u64,
    ) -> Result<Vec<LogRow>, StoreError> {
        Ok(build_log::Entity::find()
            .filter(build_log::Column::DeploymentId.eq(deployment))
            .filter(build_log::Column::Seq.gt(after))
            .order_by_asc(build_log::Column::Seq)
            .limit(limit)
            .all(&self.read)
            .await?)
    }
}
