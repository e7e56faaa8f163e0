//! Expands: when an issuer is asked next how soon it wants a certificate renewed.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "ALTER TABLE certificate ADD COLUMN info_at BIGINT").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "ALTER TABLE certificate DROP COLUMN info_at").await
    }
}
