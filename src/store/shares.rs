//! What operators set of an organization's share of the queue. Where it stands in the round is `line`'s.

use entity::org_queue;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, EntityTrait};

use super::{Store, StoreError};
use crate::domain::OrgId;

/// Largest weight; the schema has the same.
pub const MOST_WEIGHT: i32 = 100;
/// Largest limit: more than any installation has slots.
pub const MOST_RUNNING: i32 = 10_000;

/// An organization's share; limits that are not set are those of the settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSet {
    pub weight: i32,
    pub running_limit: Option<i32>,
    pub project_limit: Option<i32>,
}

impl Default for ShareSet {
    fn default() -> Self {
        Self { weight: 1, running_limit: None, project_limit: None }
    }
}

impl Store {
    pub async fn share_get(&self, org: &OrgId) -> Result<ShareSet, StoreError> {
        let row = org_queue::Entity::find_by_id(org.as_str()).one(&self.read).await?;
        Ok(row.map_or_else(ShareSet::default, |row| ShareSet {
            weight: row.weight,
            running_limit: row.running_limit,
            project_limit: row.project_limit,
        }))
    }

    /// Counts from the next slot on.
    pub async fn share_set(&self, org: &OrgId, share: ShareSet) -> Result<(), StoreError> {
        let row = org_queue::ActiveModel {
            org_id: Set(org.to_string()),
            weight: Set(share.weight),
            running_limit: Set(share.running_limit),
            project_limit: Set(share.project_limit),
            deficit: Set(0),
            turn: Set(0),
        };
        let change = OnConflict::column(org_queue::Column::OrgId)
            .update_columns([
                org_queue::Column::Weight,
                org_queue::Column::RunningLimit,
                org_queue::Column::ProjectLimit,
            ])
            .to_owned();
        org_queue::Entity::insert(row).on_conflict(change).exec_without_returning(&self.write).await?;
        Ok(())
    }
}
