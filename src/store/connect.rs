//! Opening the database: the pools of connections that write and that read, over a schema that fits.

use std::path::Path;
use std::time::Duration;

use sea_orm::sqlx::sqlite::{SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement};
use secrecy::ExposeSecret;

use super::link::{Link, Patience};
use super::settings::{Kind, Settings};
use super::{StoreError, schema};

/// The record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) write: Link,
    pub(super) read: Link,
}

/// What a database is, for whoever asks whether it is well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub kind: Kind,
    /// The server's or library's version.
    pub version: String,
    /// Whether the connection is encrypted; `None` where there is no network.
    pub tls: Option<bool>,
    /// Changes of the schema that this program needs and that are not there.
    pub pending: usize,
    /// Whether this login may bring them up itself.
    pub may_migrate: bool,
}

impl Store {
    /// Opens (and, for SQLite, creates) the database, its schema brought up or checked, as
    /// `database.migrate` says. `lock` is held meanwhile beside the database's own lock, so that two
    /// servers starting at once don't both migrate.
    ///
    /// # Errors
    /// If the database can't be opened or the schema is not what this program needs.
    pub async fn open(settings: &Settings, default_path: &Path, lock: &Path) -> Result<Self, StoreError> {
        schema::prepare(settings, default_path, lock).await?;
        let connect =
            async |connections| connect(settings, default_path, connections, Limits::Ordinary).await;
        let writers = match settings.kind() {
            Kind::Sqlite => 1,
            Kind::Postgres => settings.write_connections,
        };
        let link =
            |db: DatabaseConnection| Link { patience: Patience::of(settings, db.get_database_backend()), db };
        Ok(Self {
            write: link(connect(writers).await?),
            read: link(connect(settings.read_connections).await?),
        })
    }

    /// Asks a database that is there; makes none and leaves its schema as it is.
    ///
    /// # Errors
    /// If it can't be opened or asked.
    pub async fn try_existing(settings: &Settings, default_path: &Path) -> Result<Answer, StoreError> {
        let db = connect(settings, default_path, 1, Limits::Existing).await?;
        let answered = describe(&db, settings).await;
        drop(db.close().await);
        answered
    }

    /// A real round trip: one write transaction begun and given back, one row read.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn probe(&self) -> Result<(), StoreError> {
        super::clock::now(&self.read).await?;
        self.begin().await?.rollback().await?;
        Ok(())
    }

    /// Which database this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.read.get_database_backend() {
            DbBackend::Postgres => Kind::Postgres,
            _ => Kind::Sqlite,
        }
    }

    /// Connections that are open now, and how many of them nobody uses.
    #[must_use]
    pub fn connections(&self) -> (u32, usize) {
        let both = [&self.write.db, &self.read.db];
        match self.kind() {
            Kind::Postgres => both.iter().fold((0, 0), |(open, idle), db| {
                let pool = db.get_postgres_connection_pool();
                (open + pool.size(), idle + pool.num_idle())
            }),
            Kind::Sqlite => both.iter().fold((0, 0), |(open, idle), db| {
                let pool = db.get_sqlite_connection_pool();
                (open + pool.size(), idle + pool.num_idle())
            }),
        }
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
        drop(self.read.db.close().await);
        drop(self.write.db.close().await);
    }
}

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limits {
    Ordinary,
    /// Changing the schema waits longer, and for other servers that do the same.
    Migrating,
    /// Nothing is created.
    Existing,
}

pub(super) async fn connect(
    settings: &Settings,
    default_path: &Path,
    connections: u32,
    limits: Limits,
) -> Result<DatabaseConnection, StoreError> {
    let mut options = match settings.kind() {
        Kind::Sqlite => sqlite(settings, default_path, limits),
        Kind::Postgres => postgres(settings, limits)?,
    };
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_millis(settings.acquire_timeout_ms))
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    Ok(Database::connect(options).await?)
}

fn sqlite(settings: &Settings, default_path: &Path, limits: Limits) -> ConnectOptions {
    let url = match settings.url.expose_secret() {
        "" => format!("sqlite://{}?mode=rwc", default_path.display()),
        url => url.to_owned(),
    };
    let url = if limits == Limits::Existing { url.replace("mode=rwc", "mode=rw") } else { url };
    let busy = Duration::from_millis(settings.busy_timeout_ms);
    let mut options = ConnectOptions::new(url);
    options
        .test_before_acquire(false)
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(is_clean(connection))))
        .map_sqlx_sqlite_opts(move |o| {
            o.journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(busy)
                .foreign_keys(true)
        });
    options
}

fn postgres(settings: &Settings, limits: Limits) -> Result<ConnectOptions, StoreError> {
    let mut wanted = settings.postgres().map_err(StoreError::Address)?;
    if limits == Limits::Migrating {
        let patience = (settings.migrate_timeout_seconds * 1_000).to_string();
        wanted = wanted.options([("statement_timeout", &patience), ("lock_timeout", &patience)]);
    }
    let mut options = ConnectOptions::new(settings.url.expose_secret());
    options
        // A server that was restarted has ended every connection: a dead one is found and replaced
        // before it is used, for one round trip.
        .test_before_acquire(true)
        .max_lifetime(Duration::from_secs(settings.max_lifetime_seconds))
        .idle_timeout(Duration::from_secs(settings.idle_seconds))
        .map_sqlx_postgres_opts(move |_| wanted.clone());
    Ok(options)
}

/// The statements' own texts must not reach the log, so `sqlx_logging` above stays off here too.
async fn describe(db: &DatabaseConnection, settings: &Settings) -> Result<Answer, StoreError> {
    let backend = db.get_database_backend();
    let sql = match backend {
        DbBackend::Postgres => {
            "SELECT current_setting('server_version') AS version, \
             COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls, \
             inet_server_addr() IS NOT NULL AS network, \
             has_schema_privilege(current_schema(), 'CREATE') AS creates"
        }
        _ => "SELECT sqlite_version() AS version, false AS tls, false AS network, true AS creates",
    };
    let row = db.query_one_raw(Statement::from_string(backend, sql)).await?;
    let row = row.ok_or(StoreError::Corrupt { what: "version" })?;
    let network: bool = row.try_get("", "network")?;
    let changes = schema::read(db).await?;
    Ok(Answer {
        kind: settings.kind(),
        version: row.try_get("", "version")?,
        tls: if network { Some(row.try_get("", "tls")?) } else { None },
        pending: changes.iter().filter(|c| !c.applied).count(),
        may_migrate: row.try_get::<Option<bool>>("", "creates")?.unwrap_or(false),
    })
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
