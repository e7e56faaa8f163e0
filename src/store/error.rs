//! What can go wrong with the record.

use sea_orm::{DbErr, SqlErr};

use crate::domain::Fault;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database can't be reached or did not answer in time")]
    Unavailable(#[source] DbErr),
    #[error("the database is busy with other writers")]
    Busy(#[source] DbErr),
    #[error("the database has no space left")]
    Full(#[source] DbErr),
    #[error("a row with that key exists already")]
    Duplicate(#[source] DbErr),
    #[error("the database refused the statement")]
    Refused(#[source] DbErr),
    #[error("a stored {what} can't be read")]
    Corrupt { what: &'static str },
    /// The lease was taken by another claim, or has ended: whatever this attempt still wants to
    /// write must not be written.
    #[error("the lease on this deployment is lost")]
    FenceLost,
}

impl StoreError {
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Unavailable(_) | Self::Busy(_) | Self::Full(_) | Self::FenceLost => Fault::Platform,
            Self::Duplicate(_) | Self::Refused(_) | Self::Corrupt { .. } => Fault::Unknown,
        }
    }

    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Busy(_) | Self::Full(_) => true,
            Self::Duplicate(_) | Self::Refused(_) | Self::Corrupt { .. } | Self::FenceLost => false,
        }
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        if let Some(SqlErr::UniqueConstraintViolation(_)) = error.sql_err() {
            return Self::Duplicate(error);
        }
        match sqlite_code(&error).as_deref() {
            // Extended codes carry the primary code in their low byte.
            Some("5" | "6" | "261" | "517" | "773") => Self::Busy(error),
            Some("13") => Self::Full(error),
            Some("8" | "10" | "14") => Self::Unavailable(error),
            Some(code) if code.parse::<u32>().is_ok_and(|c| matches!(c & 0xff, 8 | 10 | 14)) => {
                Self::Unavailable(error)
            }
            _ => match error {
                DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => Self::Unavailable(error),
                _ if is_io(&error) => Self::Unavailable(error),
                _ => Self::Refused(error),
            },
        }
    }
}

fn sqlx_error(error: &DbErr) -> Option<&sea_orm::sqlx::Error> {
    match error {
        DbErr::Exec(sea_orm::RuntimeErr::SqlxError(e))
        | DbErr::Query(sea_orm::RuntimeErr::SqlxError(e))
        | DbErr::Conn(sea_orm::RuntimeErr::SqlxError(e)) => Some(e),
        _ => None,
    }
}

fn sqlite_code(error: &DbErr) -> Option<String> {
    match sqlx_error(error)? {
        sea_orm::sqlx::Error::Database(e) => e.code().map(|c| c.into_owned()),
        _ => None,
    }
}

fn is_io(error: &DbErr) -> bool {
    matches!(
        sqlx_error(error),
        Some(
            sea_orm::sqlx::Error::Io(_)
                | sea_orm::sqlx::Error::PoolTimedOut
                | sea_orm::sqlx::Error::PoolClosed
                | sea_orm::sqlx::Error::WorkerCrashed
        )
    )
}
