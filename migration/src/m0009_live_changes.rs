//! Expands: what people put live by hand (rollback, promote, split), each under a sequence number of its own.
//! A split counts while its number is the live one, so that a release that knows none of this ends it by going live.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0009_live_changes.sql")).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "DROP INDEX deployment_switched\n;\nDROP TABLE live_change").await
    }
}
