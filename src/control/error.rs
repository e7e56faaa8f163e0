//! Why a use case was refused. `http/problem.rs` turns it into an answer, in one place.

use serde::Serialize;

use crate::blobs::BlobError;
use crate::store::StoreError;

/// One thing wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldProblem {
    /// Where, as a path such as `initFiles[3].path`.
    pub field: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl FieldProblem {
    #[must_use]
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the request has {} problem(s)", .0.len())]
    Invalid(Vec<FieldProblem>),
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("the project was not found")]
    ProjectNotFound,
    #[error("the deployment was not found")]
    DeploymentNotFound,
    #[error("the dead letter was not found")]
    DeadLetterNotFound,
    #[error("the version was not found")]
    VersionNotFound,
    #[error("no upstream is registered")]
    UpstreamNotFound,
    #[error("the domain was not found")]
    DomainNotFound,
    #[error("a {of} may claim {limit} domains")]
    TooManyDomains { limit: u64, of: &'static str },
    #[error("the same was asked for a moment ago")]
    TooSoon { seconds: u64 },
    #[error("{0}")]
    Conflict(&'static str),
    #[error("the plan's {limit} deployments of this month are used up")]
    QuotaExceeded { limit: i64 },
    #[error("{limit} deployments of this organization are waiting already")]
    TooManyWaiting { limit: u64 },
    #[error("the database did not do it")]
    Store(#[from] StoreError),
    #[error("the blob store did not do it")]
    Blobs(#[from] BlobError),
    #[error("a secret could not be sealed or opened")]
    Seal,
    #[error("a value could not be written as JSON")]
    Json(#[source] serde_json::Error),
}
