//! The schema's changes: which stand, bringing them up, taking them back. One program at a time.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement,
    TransactionOptions, TransactionTrait,
};

use super::connect::{Limits, connect};
use super::settings::Settings;
use super::{Store, StoreError};

pub use migration::Change;

/// How far to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Up: all that are pending. Down: the newest.
    Default,
    Steps(usize),
    /// Up: until this one stands. Down: until this one is the newest.
    To(String),
}

/// The number under which programs that change the schema lock each other out on PostgreSQL.
const LOCK: i64 = 0x6c69_6272_615f_7363;

impl Store {
    /// Every change that this program knows or this database has, in order.
    ///
    /// # Errors
    /// If the database can't be opened or asked.
    pub async fn schema_status(settings: &Settings, default_path: &Path) -> Result<Vec<Change>, StoreError> {
        let db = connect(settings, default_path, 1, Limits::Ordinary).await?;
        let changes = read(&db).await;
        drop(db.close().await);
        changes
    }

    /// Applies pending changes; all of them or none. Answers the names of those applied.
    ///
    /// # Errors
    /// If one fails, or a newer release has contracted the schema.
    pub async fn schema_up(
        settings: &Settings,
        default_path: &Path,
        lock: &Path,
        reach: &Reach,
    ) -> Result<Vec<String>, StoreError> {
        let held = lock_file(lock).await?;
        let db = connect(settings, default_path, 1, Limits::Migrating).await?;
        let done = alone(&db, async |tx| up(tx, reach).await).await;
        drop(held);
        drop(db.close().await);
        done
    }

    /// Takes back applied changes; all of them or none. Answers the names of those taken back.
    ///
    /// # Errors
    /// If one fails or can't be taken back.
    pub async fn schema_down(
        settings: &Settings,
        default_path: &Path,
        lock: &Path,
        reach: &Reach,
    ) -> Result<Vec<String>, StoreError> {
        let held = lock_file(lock).await?;
        let db = connect(settings, default_path, 1, Limits::Migrating).await?;
        let done = alone(&db, async |tx| down(tx, reach).await).await;
        drop(held);
        drop(db.close().await);
        done
    }
}

/// Has the schema as this program needs it, by bringing it up if the settings allow that. Where
/// nothing is pending nothing is written, so that a role without the right to create tables will do.
pub(super) async fn prepare(settings: &Settings, default_path: &Path, lock: &Path) -> Result<(), StoreError> {
    // Servers on one folder wait for each other here, before SQLite's file is made even: its own lock
    // gives up sooner.
    let held = lock_file(lock).await?;
    let db = connect(settings, default_path, 1, Limits::Migrating).await?;
    let done = async {
        let changes = read(&db).await?;
        refuse_contracted(&changes)?;
        tell_of_strangers(&changes);
        let pending = changes.iter().filter(|c| !c.applied).count();
        match pending {
            0 => Ok(()),
            _ if !settings.migrate => Err(StoreError::SchemaBehind { pending }),
            _ => alone(&db, async |tx| up(tx, &Reach::Default).await).await.map(drop),
        }
    }
    .await;
    drop(db.close().await);
    drop(held);
    done
}

pub(super) async fn read(db: &DatabaseConnection) -> Result<Vec<Change>, StoreError> {
    Ok(migration::changes(db).await?)
}

async fn up(tx: &DatabaseTransaction, reach: &Reach) -> Result<Vec<String>, StoreError> {
    let changes = migration::changes(tx).await?;
    refuse_contracted(&changes)?;
    let pending: Vec<String> = changes.iter().filter(|c| !c.applied).map(|c| c.name.clone()).collect();
    let steps = match reach {
        Reach::Default => pending.len(),
        Reach::Steps(steps) => (*steps).min(pending.len()),
        Reach::To(name) => {
            known(&changes, name)?;
            pending.iter().position(|p| p == name).map_or(0, |at| at + 1)
        }
    };
    migration::up(tx, steps).await?;
    let applied = pending[..steps].to_vec();
    for change in &applied {
        tracing::info!(change = %change, "the schema was changed");
    }
    Ok(applied)
}

async fn down(tx: &DatabaseTransaction, reach: &Reach) -> Result<Vec<String>, StoreError> {
    let changes = migration::changes(tx).await?;
    let newest_first: Vec<&Change> = changes.iter().filter(|c| c.applied).rev().collect();
    let steps = match reach {
        Reach::Default => 1,
        Reach::Steps(steps) => *steps,
        Reach::To(name) => {
            known(&changes, name)?;
            newest_first.iter().position(|c| c.name == *name).unwrap_or(0)
        }
    };
    let undone: Vec<&Change> = newest_first.into_iter().take(steps).collect();
    for change in &undone {
        let refused = |why| Err(StoreError::Irreversible { change: change.name.clone(), why });
        if !change.known {
            return refused("a newer release applied it; let that release's program take it back");
        }
        if !change.is_reversible() {
            return refused("it made the tables themselves; restore a backup, or drop the database");
        }
    }
    migration::down(tx, undone.len()).await?;
    Ok(undone.into_iter().map(|c| c.name.clone()).collect())
}

fn known(changes: &[Change], name: &str) -> Result<(), StoreError> {
    let is_known = changes.iter().any(|c| c.known && c.name == name);
    is_known.then_some(()).ok_or_else(|| StoreError::UnknownChange(name.to_owned()))
}

fn refuse_contracted(changes: &[Change]) -> Result<(), StoreError> {
    match changes.iter().find(|c| !c.known && c.is_contracting()) {
        Some(change) => Err(StoreError::SchemaAhead { change: change.name.clone() }),
        None => Ok(()),
    }
}

/// A release that comes after this one has expanded the schema: what this one needs is all there.
fn tell_of_strangers(changes: &[Change]) {
    for change in changes.iter().filter(|c| !c.known) {
        tracing::warn!(change = %change.name, "a newer release has expanded the schema; this one lives with it");
    }
}

/// Does `work` in one transaction that no other program's change of the schema runs beside.
async fn alone<T>(
    db: &DatabaseConnection,
    work: impl AsyncFnOnce(&DatabaseTransaction) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    let tx = db.begin_with_options(options).await?;
    if tx.get_database_backend() == DbBackend::Postgres {
        // Servers on other hosts wait here; the lock ends with the transaction, however that ends.
        let sql = format!("SELECT pg_advisory_xact_lock({LOCK})");
        tx.execute_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
    }
    let value = work(&tx).await?;
    tx.commit().await?;
    Ok(value)
}

/// Waits for an exclusive lock on `path`, off the executor.
async fn lock_file(path: &Path) -> Result<nix::fcntl::Flock<std::fs::File>, StoreError> {
    let path = path.to_owned();
    let locked = tokio::task::spawn_blocking(move || {
        let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
            .map_err(|(_, errno)| std::io::Error::from(errno))
    })
    .await;
    match locked {
        Ok(Ok(lock)) => Ok(lock),
        Ok(Err(e)) => Err(unavailable(&e)),
        Err(e) => Err(unavailable(&e)),
    }
}

fn unavailable(error: &dyn std::error::Error) -> StoreError {
    StoreError::Unavailable(sea_orm::DbErr::Custom(format!("migration lock: {error}")))
}
