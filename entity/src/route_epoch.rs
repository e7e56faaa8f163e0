//! The one row that numbers the routing table.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "route_epoch")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i32,
    pub epoch: i64,
    /// The last epoch that was taken by a program that marks what it changes.
    pub marked_epoch: i64,
    /// Epochs below it that were taken by one that does not.
    pub unmarked: i64,
    /// Up to here changes of hosts were forgotten.
    pub forgotten_epoch: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
