//! Expands: the hosts that a project's builds may connect to, as a JSON list.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = "ALTER TABLE project ADD COLUMN egress_hosts VARCHAR(140000) NOT NULL DEFAULT '[]'";
        crate::run_script(manager, column).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, "ALTER TABLE project DROP COLUMN egress_hosts").await
    }
}
