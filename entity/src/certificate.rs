//! A custom domain's certificate, or how far getting one has come.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "certificate")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub hostname: String,
    pub state: String,
    pub issuer: Option<String>,
    pub challenge: Option<String>,
    pub chain: Option<String>,
    pub key_sealed: Option<String>,
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    pub failures: i64,
    pub last_words: Option<String>,
    pub next_try_at: i64,
    pub epoch: i64,
    /// When its issuer is asked next how soon it wants it renewed; none: at once.
    pub info_at: Option<i64>,
    pub created_at: i64,
    pub updated_at: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
