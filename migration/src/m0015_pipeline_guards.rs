//! Expands: what may not happen to a deployment can't be stored. A fence never falls, a version goes live once, what
//! has ended stays so unless it is driven anew, and nothing waits for a fourth attempt. With it the indexes that
//! find what waits without reading what is done with.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0015_pipeline_guards.sql")).await?;
        // Triggers have no common spelling.
        let triggers = match manager.get_database_backend() {
            DbBackend::Postgres => include_str!("m0015_pipeline_guards_postgres.sql"),
            _ => include_str!("m0015_pipeline_guards_sqlite.sql"),
        };
        crate::run_script(manager, triggers).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let triggers = match manager.get_database_backend() {
            DbBackend::Postgres => {
                "DROP TRIGGER deployment_moves ON deployment\n;\nDROP FUNCTION deployment_moves()"
            }
            _ => "DROP TRIGGER deployment_moves",
        };
        crate::run_script(manager, triggers).await?;
        crate::run_script(manager, include_str!("m0015_pipeline_guards_down.sql")).await
    }
}
