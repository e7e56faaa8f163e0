//! Statements that stand alone, asked again where a connection died under them.
//!
//! Only questions and writes that are harmless to repeat go this way: nobody knows whether a
//! statement whose connection died was done. Everything else is a transaction of [`Store::begin`].

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult,
    IsolationLevel, QueryResult, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};

use super::{Settings, Store, StoreError};

/// How often and after what pause something is tried again, and how long one try may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    tries: u32,
    pause: Duration,
    limit: Duration,
}

impl Patience {
    /// SQLite has no connection that dies, and waits for locks by itself.
    pub(super) fn of(settings: &Settings, backend: DbBackend) -> Self {
        Self {
            tries: if backend == DbBackend::Postgres { settings.retries } else { 0 },
            pause: Duration::from_millis(settings.retry_pause_ms),
            limit: settings.patience(),
        }
    }

    /// Whether to go on after `error`, the `tried`th; waits before it says yes.
    async fn again(&self, error: &StoreError, tried: u32) -> bool {
        if tried >= self.tries || !error.may_pass_at_once() {
            return false;
        }
        tracing::warn!(error = %error, "the database is asked again");
        tokio::time::sleep(self.pause * (tried + 1)).await;
        true
    }
}

/// One pool of connections.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) db: DatabaseConnection,
    pub(super) patience: Patience,
}

impl Link {
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        let mut tried = 0;
        loop {
            // A host that is gone says nothing at all: the server's own limits don't help then.
            let error = match tokio::time::timeout(self.patience.limit, question()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) => e,
                Err(_) => return Err(DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout)),
            };
            if !self.patience.again(&StoreError::from(error.clone()), tried).await {
                return Err(error);
            }
            tried += 1;
        }
    }
}

#[async_trait]
impl ConnectionTrait for Link {
    fn get_database_backend(&self) -> DbBackend {
        self.db.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.ask(|| self.db.execute_raw(statement.clone())).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.ask(|| self.db.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.ask(|| self.db.query_one_raw(statement.clone())).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.ask(|| self.db.query_all_raw(statement.clone())).await
    }
}

impl Store {
    /// Begins a transaction that will write. On SQLite it is immediate: a deferred one that turns
    /// into a writer fails at once, whatever the busy timeout. On PostgreSQL it reads what others
    /// have committed at each statement, so whoever decides by a row locks it first.
    pub(super) async fn begin(&self) -> Result<DatabaseTransaction, StoreError> {
        self.begin_on(
            &self.write,
            TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            },
        )
        .await
    }

    /// Begins a transaction whose statements all see the record as it is at the first one.
    pub(super) async fn snapshot(&self) -> Result<DatabaseTransaction, StoreError> {
        let options = match self.read.get_database_backend() {
            DbBackend::Postgres => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                sqlite_transaction_mode: None,
            },
            _ => TransactionOptions::default(),
        };
        self.begin_on(&self.read, options).await
    }

    async fn begin_on(
        &self,
        link: &Link,
        options: TransactionOptions,
    ) -> Result<DatabaseTransaction, StoreError> {
        let mut tried = 0;
        loop {
            let begun = tokio::time::timeout(link.patience.limit, link.db.begin_with_options(options)).await;
            let error = match begun {
                Ok(Ok(tx)) => return Ok(tx),
                Ok(Err(e)) => StoreError::from(e),
                Err(_) => StoreError::silent(),
            };
            // Nothing was done yet.
            if !link.patience.again(&error, tried).await {
                return Err(error);
            }
            tried += 1;
        }
    }

    /// Does `work`, a whole transaction, and again where the database gave way to another writer or
    /// a connection died. `work` is told how often it was tried: after a lost connection it must look
    /// whether it was done already.
    pub(super) async fn repeating<T, F>(&self, work: impl Fn(u32) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let patience = self.write.patience;
        let mut tried = 0;
        loop {
            // A transaction is some statements; twice the time of one is more than a healthy one takes.
            let error = match tokio::time::timeout(patience.limit * 2, work(tried)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(e)) => e,
                Err(_) => return Err(StoreError::silent()),
            };
            if !patience.again(&error, tried).await {
                return Err(error);
            }
            tried += 1;
        }
    }
}

/// Within a transaction: the others of the same organization that record a deployment wait until it
/// ends. They count, number and supersede by what each other wrote. SQLite has one writer at a time.
pub(super) async fn recording_alone(tx: &DatabaseTransaction, org: &str) -> Result<(), StoreError> {
    if tx.get_database_backend() == DbBackend::Postgres {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        let name = format!("libra.recording.{org}");
        tx.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, [name.into()])).await?;
    }
    Ok(())
}
