//! The servers that build: how many deployments each runs at once, and that it is still there.

use entity::builder_node;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter};

use super::{Store, StoreError};

/// One that has been silent for this long is forgotten.
const FORGOTTEN_MS: i64 = 3_600_000;

impl Store {
    /// Reports a builder and its slots.
    pub async fn builder_report(&self, id: &str, slots: i32) -> Result<(), StoreError> {
        let now = self.now().await?;
        let row = builder_node::ActiveModel { id: Set(id.into()), slots: Set(slots), heartbeat_at: Set(now) };
        let renew = OnConflict::column(builder_node::Column::Id)
            .update_columns([builder_node::Column::Slots, builder_node::Column::HeartbeatAt])
            .to_owned();
        builder_node::Entity::insert(row).on_conflict(renew).exec_without_returning(&self.write).await?;
        Ok(())
    }

    /// Signs a builder off, and forgets those that have been silent for an hour.
    pub async fn builder_leave(&self, id: &str) -> Result<(), StoreError> {
        let now = self.now().await?;
        let gone = Condition::any()
            .add(builder_node::Column::Id.eq(id))
            .add(builder_node::Column::HeartbeatAt.lt(now - FORGOTTEN_MS));
        builder_node::Entity::delete_many().filter(gone).exec(&self.write).await?;
        Ok(())
    }
}
