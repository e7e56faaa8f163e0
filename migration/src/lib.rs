//! The schema: one change per file, applied in order, expand before contract.
//!
//! The statements are the common subset of SQLite and PostgreSQL, written out: constraints that
//! make forbidden states impossible to store are the point of this crate, and read best as SQL.

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::*;

mod m0001_tenants;
mod m0002_deployments;
mod m0003_routes;
mod m0005_org_sandbox;

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tenants::Migration),
            Box::new(m0002_deployments::Migration),
            Box::new(m0003_routes::Migration),
            Box::new(m0005_org_sandbox::Migration),
        ]
    }
}

/// Runs each statement of `script`; statements are separated by a line that holds only `;`.
async fn run_script(manager: &SchemaManager<'_>, script: &str) -> Result<(), DbErr> {
    for statement in script.split("\n;\n").map(str::trim).filter(|s| !s.is_empty()) {
        manager.get_connection().execute_unprepared(statement.trim_end_matches(';')).await?;
    }
    Ok(())
}
