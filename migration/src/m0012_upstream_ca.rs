//! Expands: the authorities that may have signed the certificates of an upstream's origins.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "ALTER TABLE upstream ADD COLUMN ca TEXT").await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "ALTER TABLE upstream DROP COLUMN ca").await
    }
}
