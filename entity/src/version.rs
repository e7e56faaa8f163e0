//! An immutable version of a Worker.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "version")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: String,
    pub project_id: String,
    pub deployment_id: String,
    pub target: String,
    pub seq: i64,
    pub kind: String,
    pub preview_label: String,
    pub manifest_digest: String,
    pub pack_digest: String,
    pub pack_size: i64,
    pub file_count: i64,
    pub created_at: i64,
    pub retired_at: Option<i64>,
    pub route_epoch: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
