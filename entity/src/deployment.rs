//! One deployment: the record that everything else follows.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "deployment")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: String,
    pub project_id: String,
    pub user_id: String,
    pub target: String,
    pub seq: i64,
    pub status: String,
    pub current_step: Option<String>,
    pub progress: i32,
    pub attempt: i32,
    pub fence: i64,
    pub ring: i64,
    pub rung_at: Option<i64>,
    pub ring_sequence: Option<i64>,
    pub due_at: i64,
    pub lease_owner: Option<String>,
    pub lease_until: Option<i64>,
    pub cancel_requested_at: Option<i64>,
    pub cancel_reason: Option<String>,
    pub source: String,
    pub build: String,
    pub env_sealed: Option<String>,
    pub custom_domain: Option<String>,
    pub branch: Option<String>,
    pub commit_ref: Option<String>,
    pub message: Option<String>,
    pub event_seq: i64,
    pub version_id: Option<String>,
    pub switched_at: Option<i64>,
    pub cause: Option<String>,
    pub crashed_step: Option<String>,
    pub crashes_in_step: i32,
    pub first_failed_at: Option<i64>,
    pub last_failed_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
    pub finished_at: Option<i64>,
    pub redrives: i32,
    pub hand_overs: i32,
    pub resume_from: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
