//! What can go wrong with the queue, one variant per thing that a caller can act on.
//!
//! It never holds a credential or a message body.

use std::error::Error;
use std::io;
use std::path::PathBuf;

type Cause = Box<dyn Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error(
        "nats-server was not found ({}); run scripts/install or make run, or set nats.binary or nats.url; \
         libra doctor shows what is missing",
        looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    BinaryMissing { looked_at: Vec<PathBuf> },
    #[error("{key}: {problem}")]
    Setting { key: &'static str, problem: &'static str },
    #[error("could not {doing} {}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("could not start the embedded broker: {problem}")]
    Start { problem: String },
    #[error("the queue is not ready: {problem}")]
    NotReady { problem: String },
    /// The broker can't be reached or didn't answer in time. Whether it acted is unknown; everything
    /// here may be repeated, because rings and dead letters carry an id.
    #[error("the broker is not available to {doing}")]
    Unavailable {
        doing: &'static str,
        #[source]
        source: Option<Cause>,
    },
    #[error(
        "the broker refuses to let us in; check nats.user and nats.password, nats.credentials_file or \
         nats.nkey_file"
    )]
    Denied {
        #[source]
        source: Cause,
    },
    #[error(
        "the way to the broker can't be secured; check nats.ca_file, nats.client_certificate_file and \
         nats.client_key_file"
    )]
    Untrusted {
        #[source]
        source: Cause,
    },
    #[error("the stream or consumer is missing, so it was not possible to {doing}")]
    Missing { doing: &'static str },
    #[error("the broker refused to {doing} (code {code})")]
    Refused {
        doing: &'static str,
        code: u64,
        #[source]
        source: Cause,
    },
    #[error(
        "{object}: {key} is {have} but must be {want}; change the setting, or move the old one out of the way"
    )]
    Conflict { object: String, key: String, have: String, want: String },
    #[error("the message has {size_bytes} bytes and the broker takes {limit_bytes}")]
    TooLarge { size_bytes: usize, limit_bytes: usize },
    #[error("the ring of {field} does not agree with its job")]
    RingMismatch { field: &'static str },
    #[error("{what} is not a subject that events may use")]
    BadSubject { what: String },
    #[error("the message carries no delivery address")]
    NotADelivery,
    #[error("the queue is shutting down")]
    Closed,
}

impl QueueError {
    /// True when the same call can succeed later without anybody changing anything.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Missing { .. } | Self::Start { .. } | Self::NotReady { .. } => {
                true
            }
            Self::BinaryMissing { .. }
            | Self::Setting { .. }
            | Self::File { .. }
            | Self::Denied { .. }
            | Self::Untrusted { .. }
            | Self::Refused { .. }
            | Self::Conflict { .. }
            | Self::TooLarge { .. }
            | Self::RingMismatch { .. }
            | Self::BadSubject { .. }
            | Self::NotADelivery
            | Self::Closed => false,
        }
    }

    pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }

    pub(super) fn unavailable(doing: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Unavailable { doing, source: Some(cause.into()) }
    }

    pub(super) fn not_connected(doing: &'static str) -> Self {
        Self::Unavailable { doing, source: None }
    }
}
