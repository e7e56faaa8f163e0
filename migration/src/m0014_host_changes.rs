//! Expands: which host names changed at which epoch, so that servers read those alone. A release that knows nothing
//! of it raises the epoch without marking it; how often that happened can be told from the epoch's row.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0014_host_changes.sql")).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0014_host_changes_down.sql")).await
    }
}
