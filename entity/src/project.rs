//! A project and the Worker name it owns for ever.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "project")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: String,
    pub name: String,
    pub worker_name: String,
    pub template: Option<String>,
    pub status: String,
    pub tree_digest: Option<String>,
    pub created_at: i64,
    /// A JSON list of text.
    pub egress_hosts: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
