//! What somebody put live by hand: a rollback, a promotion or a split, under its own sequence number.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "live_change")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: String,
    pub project_id: String,
    pub user_id: String,
    pub seq: i64,
    pub kind: String,
    pub version_id: String,
    pub percent: Option<i32>,
    /// Where in the history of live versions this one stands: a rollback stands where it went back to.
    pub origin_seq: i64,
    pub created_at: i64,
    pub ended_at: Option<i64>,
    /// What was live until then, and which routes show the change: what it was answered with.
    pub before_version_id: Option<String>,
    pub before_split_id: Option<String>,
    pub before_percent: Option<i32>,
    pub route_epoch: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
