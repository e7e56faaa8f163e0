//! Expands: what each attempt came to, and the dead letters that operators look at, drive anew or bury.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0016_dead_letters.sql")).await
    }

    /// The desk is lost: the broker still keeps its letters, and the deployments stay failed.
    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0016_dead_letters_down.sql")).await
    }
}
