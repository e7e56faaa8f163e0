//! What nobody tries again by itself: a deployment that used up its attempts, or a message that was refused.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "dead_letter")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: Option<String>,
    pub deployment_id: Option<String>,
    pub project_id: Option<String>,
    pub generation: Option<i32>,
    pub source_key: Option<String>,
    pub class: String,
    pub fingerprint: String,
    pub failed_step: Option<String>,
    pub attempts: i32,
    pub cause: String,
    pub original: String,
    pub sequence: Option<i64>,
    pub first_failed_at: i64,
    pub last_failed_at: i64,
    pub created_at: i64,
    pub state: String,
    pub state_at: Option<i64>,
    pub state_by: Option<String>,
    pub changed: Option<String>,
    pub env_forgotten_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
