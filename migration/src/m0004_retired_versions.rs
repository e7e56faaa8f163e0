//! Expands: the sweep asks which versions were retired long ago, and must not read all of them for it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let index = "CREATE INDEX version_retired ON version (retired_at) WHERE retired_at IS NOT NULL";
        crate::run_script(manager, index).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "DROP INDEX version_retired").await
    }
}
