//! What can go wrong with the record, told apart by SQLite's codes and PostgreSQL's SQLSTATEs.

use sea_orm::sqlx::postgres::PgDatabaseError;
use sea_orm::sqlx::{self};
use sea_orm::{DbErr, RuntimeErr};

use crate::domain::Fault;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database can't be reached or did not answer in time")]
    Unavailable(#[source] DbErr),
    #[error("the database is busy with other writers")]
    Busy(#[source] DbErr),
    /// The database ended this transaction in favour of another one; nothing of it stands.
    #[error("the database gave way to another writer")]
    Conflict(#[source] DbErr),
    #[error("the database has no space left")]
    Full(#[source] DbErr),
    #[error("a row with that key exists already")]
    Duplicate(#[source] DbErr),
    #[error(
        "the database refused the login; check user, password and database name in database.url, and its certificates"
    )]
    Login(#[source] DbErr),
    #[error(
        "the database's role lacks the right to do that; let a role that may create tables run `libra migrate up`, and grant this one SELECT, INSERT, UPDATE and DELETE"
    )]
    Rights(#[source] DbErr),
    #[error("the database refused the statement")]
    Refused(#[source] DbErr),
    #[error("a stored {what} can't be read")]
    Corrupt { what: &'static str },
    #[error("database.url can't be used: it {0}")]
    Address(String),
    #[error(
        "the schema lacks {pending} change(s) and database.migrate is false; run `libra migrate up` first"
    )]
    SchemaBehind { pending: usize },
    #[error(
        "a newer release has contracted the schema ({change}), and this program can't work with it; use the release that did, or a newer one"
    )]
    SchemaAhead { change: String },
    #[error("the change {change} can't be taken back: {why}")]
    Irreversible { change: String, why: &'static str },
    #[error("there is no change named {0}; `libra migrate status` lists them")]
    UnknownChange(String),
    /// A commit was asked for and not answered: what it would have recorded may stand, or not.
    #[error("the database did not say whether it recorded this")]
    Unsure(#[source] Box<StoreError>),
    /// The lease was taken by another claim, or has ended: whatever this attempt still wants to
    /// write must not be written.
    #[error("the lease on this deployment is lost")]
    FenceLost,
}

impl StoreError {
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_)
            | Self::Busy(_)
            | Self::Conflict(_)
            | Self::Full(_)
            | Self::Login(_)
            | Self::Rights(_)
            | Self::Address(_)
            | Self::SchemaBehind { .. }
            | Self::SchemaAhead { .. }
            | Self::Unsure(_)
            | Self::FenceLost => Fault::Platform,
            Self::Duplicate(_)
            | Self::Refused(_)
            | Self::Corrupt { .. }
            | Self::Irreversible { .. }
            | Self::UnknownChange(_) => Fault::Unknown,
        }
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Busy(_) | Self::Conflict(_) | Self::Full(_) => true,
            Self::Duplicate(_)
            | Self::Unsure(_)
            | Self::Refused(_)
            | Self::Login(_)
            | Self::Rights(_)
            | Self::Corrupt { .. }
            | Self::Address(_)
            | Self::SchemaBehind { .. }
            | Self::SchemaAhead { .. }
            | Self::Irreversible { .. }
            | Self::UnknownChange(_)
            | Self::FenceLost => false,
        }
    }

    /// Whether the same call may succeed *at once*: the server gave way, or a connection died that
    /// the pool replaces. A wait that was in vain is not repeated.
    pub(super) fn may_pass_at_once(&self) -> bool {
        match self {
            Self::Conflict(_) => true,
            Self::Unavailable(DbErr::ConnectionAcquire(_)) => false,
            Self::Unavailable(error) => {
                !matches!(sqlx_error(error), Some(sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) | None)
            }
            _ => false,
        }
    }

    /// A question that was not answered in time.
    pub(super) fn silent() -> Self {
        Self::Unavailable(DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout))
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match sqlx_error(&error) {
            Some(sqlx::Error::Database(e)) => match e.try_downcast_ref::<PgDatabaseError>() {
                Some(postgres) => by_state(postgres.code())(error),
                None => by_sqlite_code(e.code().as_deref())(error),
            },
            Some(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed,
            ) => Self::Unavailable(error),
            _ => match error {
                DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => Self::Unavailable(error),
                _ => Self::Refused(error),
            },
        }
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn by_state(state: &str) -> fn(DbErr) -> StoreError {
    match state {
        "23505" => StoreError::Duplicate,
        "40001" | "40P01" => StoreError::Conflict,
        "53100" => StoreError::Full,
        // No lock, or no end, in the time that the settings give.
        "55P03" | "57014" => StoreError::Busy,
        "42501" => StoreError::Rights,
        // No such database.
        "3D000" => StoreError::Login,
        // Being shut down, starting, idle for too long; its disk fails; it became a standby.
        "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "58030" | "25006" => StoreError::Unavailable,
        _ => match state.get(..2) {
            Some("08") => StoreError::Unavailable,
            Some("28") => StoreError::Login,
            // Out of memory or of connections.
            Some("53") => StoreError::Busy,
            _ => StoreError::Refused,
        },
    }
}

fn by_sqlite_code(code: Option<&str>) -> fn(DbErr) -> StoreError {
    let Some(code) = code.and_then(|c| c.parse::<u32>().ok()) else { return StoreError::Refused };
    match code {
        // A primary key, a unique index, a rowid.
        1555 | 2067 | 2579 => return StoreError::Duplicate,
        _ => {}
    }
    // Extended codes carry the primary code in their low byte.
    match code & 0xff {
        5 | 6 => StoreError::Busy,
        13 => StoreError::Full,
        8 | 10 | 14 => StoreError::Unavailable,
        _ => StoreError::Refused,
    }
}

fn sqlx_error(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(e))
        | DbErr::Query(RuntimeErr::SqlxError(e))
        | DbErr::Conn(RuntimeErr::SqlxError(e)) => Some(e),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(make: fn(DbErr) -> StoreError) -> String {
        let shown = format!("{:?}", make(DbErr::Custom(String::new())));
        shown.split('(').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn states_of_postgresql_are_told_apart() {
        for (states, kind) in [
            (&["23505"][..], "Duplicate"),
            (&["40001", "40P01"], "Conflict"),
            (&["55P03", "57014", "53300", "53200"], "Busy"),
            (&["53100"], "Full"),
            (&["57P01", "57P02", "57P03", "08006", "08P01", "25006", "58030", "25P03"], "Unavailable"),
            (&["28P01", "28000", "3D000"], "Login"),
            (&["42501"], "Rights"),
            (&["23514", "42P01", "22021", ""], "Refused"),
        ] {
            for state in states {
                assert_eq!(told(by_state(state)), kind, "{state}");
            }
        }
    }

    #[test]
    fn codes_of_sqlite_are_told_apart() {
        for (codes, kind) in [
            (&["5", "6", "261", "517", "773"][..], "Busy"),
            (&["13"], "Full"),
            (&["8", "10", "14", "522", "1034", "778"], "Unavailable"),
            (&["1555", "2067"], "Duplicate"),
            (&["275", "1", "x"], "Refused"),
        ] {
            for code in codes {
                assert_eq!(told(by_sqlite_code(Some(code))), kind, "{code}");
            }
        }
    }
}
