//! The schema: one change per file, applied in order, expand before contract.
//!
//! The statements are the common subset of SQLite and PostgreSQL, written out: constraints that
//! make forbidden states impossible to store are the point of this crate, and read best as SQL.
//!
//! A change either *expands* the schema, which the release before must be able to live with, or
//! *contracts* it, one release later at the earliest. A contracting one says so in its name
//! (`m0012_contract_…`): a program that meets one it does not know must not serve, whereas an
//! expanding one that it does not know is none of its business.

use std::collections::HashSet;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{DatabaseTransaction, DbErr};
use sea_orm_migration::seaql_migrations;

mod m0001_tenants;
mod m0002_deployments;
mod m0003_routes;
mod m0004_retired_versions;
mod m0005_egress;
mod m0006_org_sandbox;
mod m0007_domain_checks;
mod m0008_certificates;
mod m0009_live_changes;
mod m0010_upstreams;
mod m0011_kept_answers;
mod m0012_upstream_ca;
mod m0013_renewal_info;
mod m0014_host_changes;
mod m0015_pipeline_guards;
mod m0016_dead_letters;
mod m0017_fair_queue;

/// The word in a change's name that tells a contracting one.
const CONTRACT: &str = "_contract_";

/// What the first release shipped. It refuses to start where *its* table of changes
/// (`seaql_migrations`) names one that it does not know, so no other change may ever stand there.
struct First;

impl MigratorTrait for First {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_tenants::Migration),
            Box::new(m0002_deployments::Migration),
            Box::new(m0003_routes::Migration),
        ]
    }
}

/// Every change since, in a table of its own that may name ones of newer releases.
struct Later;

/// Where [`Later`]'s changes are written down.
const LATER_TABLE: &str = "schema_change";

#[async_trait::async_trait]
impl MigratorTrait for Later {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0004_retired_versions::Migration),
            Box::new(m0005_egress::Migration),
            Box::new(m0006_org_sandbox::Migration),
            Box::new(m0007_domain_checks::Migration),
            Box::new(m0008_certificates::Migration),
            Box::new(m0009_live_changes::Migration),
            Box::new(m0010_upstreams::Migration),
            Box::new(m0011_kept_answers::Migration),
            Box::new(m0012_upstream_ca::Migration),
            Box::new(m0013_renewal_info::Migration),
            Box::new(m0014_host_changes::Migration),
            Box::new(m0015_pipeline_guards::Migration),
            Box::new(m0016_dead_letters::Migration),
            Box::new(m0017_fair_queue::Migration),
        ]
    }

    fn migration_table_name() -> DynIden {
        Alias::new(LATER_TABLE).into_iden()
    }

    /// Without what newer releases have applied: the library would fail on a name it does not know.
    async fn get_migration_models<C: ConnectionTrait>(db: &C) -> Result<Vec<seaql_migrations::Model>, DbErr> {
        Self::install(db).await?;
        let known = names::<Self>();
        let applied = recorded(db, Self::migration_table_name()).await?;
        let models = applied.into_iter().filter(|name| known.contains(name));
        Ok(models.map(|version| seaql_migrations::Model { version, applied_at: 0 }).collect())
    }
}

/// One change of the schema and whether it stands in this database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub applied: bool,
    /// Whether this program knows it; one it does not know was applied by a newer release.
    pub known: bool,
}

impl Change {
    /// Whether the release before the one that brought it can't live with it.
    #[must_use]
    pub fn is_contracting(&self) -> bool {
        self.name.contains(CONTRACT)
    }

    /// Whether there is a way back that loses nothing it promised to keep. The first release's
    /// changes are the tables themselves: going back behind them would delete everything.
    #[must_use]
    pub fn is_reversible(&self) -> bool {
        self.known && !names::<First>().contains(&self.name)
    }
}

/// Every change that this program knows or this database has, in order. Creates nothing.
///
/// # Errors
/// If the database can't be asked.
pub async fn changes<'c, C>(db: &'c C) -> Result<Vec<Change>, DbErr>
where
    C: ConnectionTrait,
    &'c C: IntoSchemaManagerConnection<'c>,
{
    let mut found = Vec::new();
    let first = (names::<First>(), First::migration_table_name());
    let later = (names::<Later>(), Later::migration_table_name());
    for (known, table) in [first, later] {
        let there = SchemaManager::new(db).has_table(table.to_string()).await?;
        let applied: HashSet<String> =
            if there { recorded(db, table).await?.into_iter().collect() } else { HashSet::new() };
        let stranger = |name: &&String| !known.contains(name);
        let mut strangers: Vec<String> = applied.iter().filter(stranger).cloned().collect();
        strangers.sort();
        let ours =
            known.into_iter().map(|name| Change { applied: applied.contains(&name), known: true, name });
        found.extend(ours);
        found.extend(strangers.into_iter().map(|name| Change { name, applied: true, known: false }));
    }
    Ok(found)
}

/// Applies the first `steps` changes that are pending. The caller's transaction makes it all or nothing.
///
/// # Errors
/// If a statement fails.
pub async fn up(tx: &DatabaseTransaction, steps: usize) -> Result<(), DbErr> {
    let pending = |known: Vec<String>, all: &[Change]| {
        all.iter().filter(|c| !c.applied && known.contains(&c.name)).count()
    };
    let all = changes(tx).await?;
    let first = pending(names::<First>(), &all).min(steps);
    let later = pending(names::<Later>(), &all).min(steps - first);
    if first > 0 {
        First::up(tx, Some(count(first))).await?;
    }
    if later > 0 {
        Later::up(tx, Some(count(later))).await?;
    }
    Ok(())
}

/// Takes back the last `steps` changes, which must be reversible.
///
/// # Errors
/// If a statement fails.
pub async fn down(tx: &DatabaseTransaction, steps: usize) -> Result<(), DbErr> {
    Later::down(tx, Some(count(steps))).await
}

fn names<M: MigratorTrait>() -> Vec<String> {
    M::migrations().iter().map(|m| m.name().to_owned()).collect()
}

fn count(steps: usize) -> u32 {
    <u32 as TryFrom<usize>>::try_from(steps).unwrap_or(u32::MAX)
}

async fn recorded<C: ConnectionTrait>(db: &C, table: DynIden) -> Result<Vec<String>, DbErr> {
    let query = Query::select().column(seaql_migrations::Column::Version).from(table).to_owned();
    let rows = db.query_all(&query).await?;
    rows.into_iter().map(|row| row.try_get("", "version")).collect()
}

/// Runs each statement of `script`; statements are separated by a line that holds only `;`.
async fn run_script(manager: &SchemaManager<'_>, script: &str) -> Result<(), DbErr> {
    for statement in script.split("\n;\n").map(str::trim).filter(|s| !s.is_empty()) {
        manager.get_connection().execute_unprepared(statement.trim_end_matches(';')).await?;
    }
    Ok(())
}
