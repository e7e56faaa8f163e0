//! An organization's share of the queue: what an operator set, and where it stands in the round.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "org_queue")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub org_id: String,
    /// Deployments of one turn.
    pub weight: i32,
    /// None: the one of the settings; so with the next.
    pub running_limit: Option<i32>,
    pub project_limit: Option<i32>,
    pub deficit: i32,
    pub turn: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
