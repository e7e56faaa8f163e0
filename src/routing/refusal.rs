//! Owns why the edge does not pass a request to a Worker.
//! Never names a status code or writes an answer: `http/problem.rs` is the one place that does.

/// Each text may be shown to anybody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeRefusal {
    #[error("the Host of the request is missing, doubled or no host name")]
    InvalidHost,
    /// `message` is the guide's sentence for the rule that was broken.
    #[error("{message}")]
    InvalidWorkerName { message: String },
    #[error("{message}")]
    ReservedSubdomain { message: String },
    #[error("no Worker has this name, or it has no live version yet")]
    WorkerNotFound,
    #[error("this preview is gone or never was")]
    DeploymentNotFound,
    #[error("this domain is not configured, or not verified yet")]
    CustomDomainNotFound,
    #[error("this domain's project is not active or has nothing deployed yet")]
    CustomDomainInvalid,
    /// No table was loaded since the start and what it is made from can't be reached.
    #[error("the routes are not loaded yet")]
    TableNotLoaded,
    #[error("the site has no such file")]
    FileNotFound,
    #[error("a static site answers GET and HEAD only")]
    MethodNotAllowed,
    #[error("the header block is larger than {limit_bytes} bytes")]
    HeaderTooLarge { limit_bytes: usize },
    #[error("too many requests wait for the disk")]
    Overloaded,
    /// The version's bytes could not be read; the log has the reason.
    #[error("the file could not be read")]
    ReadFailed,
}
