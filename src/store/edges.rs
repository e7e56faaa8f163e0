//! The front doors that serve: where each can be probed and which table it serves.

use entity::edge_node;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter};

use super::{Store, StoreError};

pub use entity::edge_node::Model as EdgeRow;

/// An edge that has not reported for this long does not count as live.
pub const EDGE_SILENT_MS: i64 = 10_000;

impl Store {
    /// Reports an edge, its internal address and the epoch it serves.
    pub async fn edge_report(&self, id: &str, address: &str, epoch: i64) -> Result<(), StoreError> {
        let now = self.now().await?;
        let row = edge_node::ActiveModel {
            id: Set(id.into()),
            address: Set(address.into()),
            epoch: Set(epoch),
            started_at: Set(now),
            heartbeat_at: Set(now),
        };
        let renew = OnConflict::column(edge_node::Column::Id)
            .update_columns([
                edge_node::Column::Address,
                edge_node::Column::Epoch,
                edge_node::Column::HeartbeatAt,
            ])
            .to_owned();
        edge_node::Entity::insert(row).on_conflict(renew).exec_without_returning(&self.write).await?;
        Ok(())
    }

    pub async fn edge_live(&self) -> Result<Vec<EdgeRow>, StoreError> {
        let now = self.now().await?;
        Ok(edge_node::Entity::find()
            .filter(edge_node::Column::HeartbeatAt.gt(now - EDGE_SILENT_MS))
            .all(&self.read)
            .await?)
    }

    /// Signs an edge off, and forgets edges that have been silent for an hour.
    pub async fn edge_leave(&self, id: &str) -> Result<(), StoreError> {
        let now = self.now().await?;
        edge_node::Entity::delete_many()
            .filter(
                sea_orm::Condition::any()
                    .add(edge_node::Column::Id.eq(id))
                    .add(edge_node::Column::HeartbeatAt.lt(now - 3_600_000)),
            )
            .exec(&self.write)
            .await?;
        Ok(())
    }
}
