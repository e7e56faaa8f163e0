//! Opening the database: one writer connection, a few readers, the schema brought up under a lock.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use migration::{Migrator, MigratorTrait};
use sea_orm::sqlx::sqlite::{SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use serde::Deserialize;

use super::StoreError;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: String,
    pub read_connections: u32,
    pub busy_timeout_ms: u64,
    pub acquire_timeout_ms: u64,
}

/// The record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) write: DatabaseConnection,
    pub(super) read: DatabaseConnection,
}

impl Store {
    /// Opens (and creates) the database and brings its schema up, alone: `lock` is held meanwhile,
    /// so that two servers starting at once don't both migrate.
    ///
    /// # Errors
    /// If the database can't be opened or the schema can't be brought up.
    pub async fn open(settings: &Settings, default_path: &Path, lock: &Path) -> Result<Self, StoreError> {
        let url = sqlite_url(settings, default_path);
        let migrating = lock_file(lock).await?;
        let write = connect(&url, settings, 1).await?;
        Migrator::up(&write, None).await?;
        drop(migrating);
        let read = connect(&url, settings, settings.read_connections.max(1)).await?;
        Ok(Self { write, read })
    }

    /// Whether a database that is there answers; makes none and leaves its schema as it is.
    ///
    /// # Errors
    /// If it can't be opened or asked.
    pub async fn try_existing(settings: &Settings, default_path: &Path) -> Result<(), StoreError> {
        let url = sqlite_url(settings, default_path).replace("mode=rwc", "mode=rw");
        let read = connect(&url, settings, 1).await?;
        let answered = super::clock::now(&read).await;
        drop(read.close().await);
        answered.map(|_| ())
    }

    /// Begins a transaction that will write. On SQLite it is immediate: a deferred one that turns
    /// into a writer fails at once, whatever the busy timeout.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        Ok(self.write.begin_with_options(options).await?)
    }

    /// A real round trip: one write lock taken and given back, one row read.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn probe(&self) -> Result<(), StoreError> {
        super::clock::now(&self.read).await?;
        self.begin().await?.rollback().await?;
        Ok(())
    }

    /// The database's clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn now(&self) -> Result<i64, StoreError> {
        super::clock::now(&self.read).await
    }

    pub async fn close(self) {
        // Best effort: the process is ending, and an unclosed WAL is recovered at the next start.
        drop(self.read.close().await);
        drop(self.write.close().await);
    }
}

fn sqlite_url(settings: &Settings, default_path: &Path) -> String {
    if settings.url.is_empty() {
        format!("sqlite://{}?mode=rwc", default_path.display())
    } else {
        settings.url.clone()
    }
}

async fn connect(url: &str, settings: &Settings, connections: u32) -> Result<DatabaseConnection, StoreError> {
    let busy = Duration::from_millis(settings.busy_timeout_ms);
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_millis(settings.acquire_timeout_ms))
        .sqlx_logging(false)
        .test_before_acquire(false)
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(is_clean(connection))))
        .map_sqlx_sqlite_opts(move |o| {
            o.journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(busy)
                .foreign_keys(true)
        });
    Ok(Database::connect(options).await?)
}

/// Whether a connection that comes back may be used again.
///
/// SQLite ends a transaction by itself when the disk is full or fails. The library's own rollback
/// then finds none, and it goes on counting one: later transactions would be savepoints within a
/// transaction that nobody commits, each reported as done and none of them durable.
async fn is_clean(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if !connection.is_in_transaction() {
        return Ok(true);
    }
    // A rollback may be on its way; the ping comes back after it.
    connection.ping().await?;
    let clean = !connection.is_in_transaction();
    if !clean {
        tracing::warn!("a database connection lost its transaction and is replaced");
    }
    Ok(clean)
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
