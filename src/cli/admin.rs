//! What the commands on the database share: opening it, and telling how it went.

use std::process::ExitCode;

use crate::app::AppError;
use crate::config::Settings;
use crate::control::ControlError;
use crate::domain::cause::chain;
use crate::domain::{OrgId, UserId};
use crate::store::{Store, StoreError};

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{0}")]
    Usage(String),
    #[error("the database can't be opened")]
    Open(#[from] AppError),
    #[error("a {0} of that name exists already; choose another name")]
    Taken(&'static str),
    #[error("the database did not do it")]
    Store(#[source] StoreError),
    #[error("the secret could not be made")]
    Secret(#[source] ControlError),
}

impl AdminError {
    /// `what` is what the row stands for.
    pub fn of(what: &'static str) -> impl FnOnce(StoreError) -> Self {
        move |error| match error {
            StoreError::Duplicate(_) => Self::Taken(what),
            other => Self::Store(other),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Open(_) => 69,
            Self::Taken(_) | Self::Store(_) | Self::Secret(_) => 1,
        }
    }
}

pub async fn open(settings: &Settings) -> Result<Store, AdminError> {
    Ok(crate::app::open_store_of(settings).await?)
}

/// The organization that an argument names, which must exist.
pub async fn org_of(store: &Store, argument: &str, text: &str) -> Result<OrgId, AdminError> {
    let org = OrgId::parse(text)
        .map_err(|e| AdminError::Usage(format!("{argument}: {e}; `libra orgs list` shows them")))?;
    let known = store.organization_exists(&org).await.map_err(AdminError::Store)?;
    known.then_some(org).ok_or_else(|| {
        AdminError::Usage(format!("{argument}: there is no such organization; `libra orgs list` shows them"))
    })
}

pub fn user_id(text: &str) -> Result<UserId, AdminError> {
    UserId::parse(text).map_err(|e| AdminError::Usage(format!("--as: {e}; `libra users list` shows them")))
}

pub fn finish(result: Result<(), AdminError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            super::render::note(&format!("error: {}", chain(&e)));
            ExitCode::from(e.exit_code())
        }
    }
}
