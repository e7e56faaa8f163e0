//! What can go wrong with a sandbox, and whose fault it is. A command that fails or hits a limit is
//! no error here: that is an outcome.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "sandbox.provider `{name}` is not known; use `local`, `daytona`, `e2b`, or `none` in development"
    )]
    ProviderUnknown { name: String },
    #[error(
        "this organization's sandbox provider `{name}` is not set up on this server; the operator must set its key, or give the organization another one with `libra orgs set`"
    )]
    ProviderAbsent { name: String },
    #[error(transparent)]
    Remote(#[from] super::remote::RemoteError),
    #[error("this machine can't isolate builds: {missing}")]
    IsolationMissing { missing: String },
    #[error("no build slot became free within {waited_seconds} s")]
    SlotWait { waited_seconds: u64 },
    #[error("build slot {slot} is not clean: {what}")]
    SlotDirty { slot: String, what: String },
    #[error("the sandbox id is not `<deployment>.<fence>`")]
    BadId,
    #[error("Node {major} is not installed for builds; run `libra doctor`")]
    ToolsMissing { major: u32 },
    #[error("the sandbox could not be set up: {message}")]
    Setup { message: String },
    #[error("a process from outside ended the sandbox (signal {signal})")]
    KilledFromOutside { signal: i32 },
    #[error("processes of the sandbox outlived it: {pids:?}")]
    Survivors { pids: Vec<i32> },
    #[error("the host's disk has less than {reserve_bytes} bytes left for builds")]
    HostDisk { reserve_bytes: u64 },
    #[error("files can be written only before the first command")]
    Sealed,
    #[error("could not {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not {action}")]
    Process {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the registry mirror could not be started")]
    Mirror(#[source] super::mirror::MirrorError),
    #[error("a task of the sandbox ended early")]
    Task(#[source] tokio::task::JoinError),
    #[error("`{path}` is not a usable file name: {why}")]
    BadPath { path: String, why: &'static str },
    #[error("the output folder `{directory}` does not exist after the build")]
    NotFound { directory: String },
    #[error("the folder `{directory}` does not exist in the project")]
    DirectoryMissing { directory: String },
    #[error("the output folder `{directory}` is not a plain folder beneath the project")]
    NotAFolder { directory: String },
    #[error("the output has more than {limit} files")]
    TooManyFiles { limit: u64 },
    #[error("the output is larger than {limit_bytes} bytes")]
    OutputTooLarge { limit_bytes: u64 },
    #[error("`{path}` in the output is larger than {limit_bytes} bytes")]
    FileTooLarge { path: String, limit_bytes: u64 },
    #[error("`{path}` in the output can't be read")]
    OutputUnreadable {
        path: String,
        #[source]
        source: io::Error,
    },
}

impl SandboxError {
    /// Whether the project is at fault, so that trying again changes nothing.
    #[must_use]
    pub fn is_user_fault(&self) -> bool {
        match self {
            Self::BadPath { .. }
            | Self::NotFound { .. }
            | Self::DirectoryMissing { .. }
            | Self::NotAFolder { .. }
            | Self::TooManyFiles { .. }
            | Self::OutputTooLarge { .. }
            | Self::FileTooLarge { .. }
            | Self::OutputUnreadable { .. } => true,
            Self::ProviderUnknown { .. }
            | Self::ProviderAbsent { .. }
            | Self::Remote(_)
            | Self::IsolationMissing { .. }
            | Self::SlotWait { .. }
            | Self::SlotDirty { .. }
            | Self::BadId
            | Self::ToolsMissing { .. }
            | Self::Setup { .. }
            | Self::KilledFromOutside { .. }
            | Self::Survivors { .. }
            | Self::HostDisk { .. }
            | Self::Sealed
            | Self::Io { .. }
            | Self::Process { .. }
            | Self::Mirror(_)
            | Self::Task(_) => false,
        }
    }

    pub(super) fn io(action: &'static str, path: &std::path::Path, source: impl Into<io::Error>) -> Self {
        Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}
