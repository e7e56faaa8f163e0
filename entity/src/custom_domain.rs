//! A claim on a host name, and how far its proof has come.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "custom_domain")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub org_id: String,
    pub project_id: String,
    pub hostname: String,
    pub status: String,
    pub token: String,
    pub created_at: i64,
    /// When a claim that is not proved fails, and a failed one is forgotten.
    pub expires_at: Option<i64>,
    /// Since when it is this project's.
    pub verified_at: Option<i64>,
    pub checked_at: Option<i64>,
    /// When it is looked at again. Whoever looks moves it first, and writes what was seen only if
    /// nobody has moved it since.
    pub next_check_at: i64,
    /// When somebody last asked for a check.
    pub asked_at: Option<i64>,
    /// When the proof was last seen.
    pub proved_at: Option<i64>,
    /// Since when, and how often in a row, the proof was seen to be gone.
    pub lost_since: Option<i64>,
    pub lost_checks: i32,
    /// Checks in a row that no server answered.
    pub unanswered: i32,
    /// What the last check saw, for people.
    pub message: Option<String>,
    /// The domain of the same project that this one leads to.
    pub redirect_to: Option<String>,
    pub quarantined_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
