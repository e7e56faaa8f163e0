//! The composition root: the one place where the parts are put together, started and stopped.

mod early;
mod files;
mod front;
mod https;
mod last_table;
mod listeners;
pub mod open_files;
mod parts;
mod seeing;
mod serve;
mod signals;
mod testing;
mod waiting;

use std::path::PathBuf;

use crate::control::bootstrap::BootstrapError;

pub use parts::open_store;
pub use serve::serve;

/// Why the server could not start or run.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("the folder {path} can't be used", path = .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the address {address} is taken or can't be used; stop what listens there, or set {key}")]
    Listen {
        address: String,
        key: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "the {part} at {address} is away, and was waited for {waited_seconds} s; start it, or correct {key} \
         (start.wait_seconds says how long to wait)"
    )]
    Away {
        part: &'static str,
        address: String,
        key: &'static str,
        waited_seconds: u64,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the database can't be opened")]
    Store(#[from] crate::store::StoreError),
    #[error("the blob store can't be used")]
    Blobs(#[from] crate::blobs::BlobError),
    #[error("the queue can't be used")]
    Queue(#[from] crate::queue::QueueError),
    #[error("sandboxes can't be made")]
    Sandbox(#[from] crate::sandbox::SandboxError),
    #[error("tools for builds can't be kept anywhere; set toolchain.folder")]
    Toolchain(#[from] crate::toolchain::ToolError),
    #[error("the first credential can't be made")]
    Bootstrap(#[from] BootstrapError),
    #[error("versions can't be kept on this disk")]
    Versions(#[from] crate::runtime::StoreError),
    #[error("{0}")]
    Settings(String),
    #[error("the server failed")]
    Run(#[source] std::io::Error),
    #[error("the supervisor failed; start the server again")]
    SupervisorLost,
    #[error("{what} can't be made")]
    Make {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl AppError {
    /// The process's exit code: 64 bad settings, 69 something needed is not available, 70 anything else.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Bootstrap(BootstrapError::StillValid { .. }) => 64,
            Self::Listen { .. }
            | Self::Away { .. }
            | Self::Store(_)
            | Self::Blobs(_)
            | Self::Queue(_)
            | Self::Sandbox(_)
            | Self::Toolchain(_) => 69,
            Self::Folder { .. }
            | Self::Bootstrap(_)
            | Self::Versions(_)
            | Self::Run(_)
            | Self::SupervisorLost
            | Self::Make { .. } => 70,
        }
    }
}

/// Where the schema's own things lie.
#[derive(Debug)]
pub struct SchemaPlace {
    /// SQLite's file, where no address is set.
    pub file: PathBuf,
    /// Held while the schema is changed.
    pub lock: PathBuf,
}

/// # Errors
/// If the data folder can't be made.
pub fn schema_place(settings: &crate::config::Settings) -> Result<SchemaPlace, AppError> {
    let files = files::Files::prepare(settings)?;
    Ok(SchemaPlace { lock: files.data_dir.join("migrate.lock"), file: files.database })
}

/// As [`open_store`], for commands that only have the settings.
///
/// # Errors
/// If the folder or the database can't be opened.
pub async fn open_store_of(settings: &crate::config::Settings) -> Result<crate::store::Store, AppError> {
    let files = files::Files::prepare(settings)?;
    open_store(settings, &files).await
}
