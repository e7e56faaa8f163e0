//! Certificates of custom domains, what their issuers are asked, and who asks them.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// The tables, in the order in which they are made.
const TABLES: [&str; 5] =
    ["certificate", "acme_account", "acme_challenge", "acme_attempt", "certificate_lease"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::run_script(manager, include_str!("m0008_certificates.sql")).await
    }

    /// Certificates and accounts are lost: the release before has no use for them, and issuers give new ones.
    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in TABLES {
            crate::run_script(manager, &format!("DROP TABLE {table}")).await?;
        }
        Ok(())
    }
}
