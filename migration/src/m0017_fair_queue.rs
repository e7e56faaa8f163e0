//! Expands: whose turn it is in the queue, who builds, which slots were granted, and how long steps take.
//! A release that knows none of this rings what is due as before: a ring is one message whoever publishes it.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0017_fair_queue.sql")).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0017_fair_queue_down.sql")).await
    }
}
