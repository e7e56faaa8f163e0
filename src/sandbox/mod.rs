//! Places where foreign code runs: isolated, limited, and gone afterwards.
//!
//! Owns work folders, build slots, limits, the way to the npm registry and the collecting of results.
//! Must never run foreign code as host uid 0, follow a link that it made, hand it a credential of the
//! platform, or put a tenant's variable into a command line. Knows nothing of deployments: an order
//! names an id, and that is all.

mod error;
mod limits;
mod path;
mod report;
mod settings;

mod providers;

mod host;
mod local;
mod none;

mod remote;

mod daytona;
mod e2b;

mod cage;
mod cgroup;
mod collect;
mod environment;
mod exec;
mod meter;
mod open_files;
mod processes;
mod share;
mod slot;
mod sockets;
mod tree;
mod workspace;

mod cache;

mod bwrap;
mod launch;
mod mounts;
mod seccomp;
mod shim;

mod egress;
pub mod mirror;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::domain::egress::EgressHost;

pub use cache::{
    BuildCache, CacheScope, CacheSettings, DependencyOrder, Found, FrameworkCaches, FrameworkOrder, Kept,
    Method, Restored, Share, overlay_trial_main,
};
pub use collect::{CollectLimits, CollectedFile, SkippedEntry};
pub use error::SandboxError;
pub use launch::launch_main;
pub use limits::{LimitHit, Limits};
pub use providers::{CHOICES, Providers, offered, open as open_provider, provider};
pub use remote::{DaytonaSettings, E2bSettings, RemoteError, RemoteSettings};
pub use report::{IsolationReport, Limiter, SweepReport};
pub use settings::{EgressSettings, MirrorSettings, SandboxPaths, Settings, check_limiter_for_production};
pub use shim::shim_main;

/// A source of sandboxes.
#[async_trait::async_trait]
pub trait Provider: Send + Sync {
    /// `local`, `daytona`, `e2b` or `none`.
    fn name(&self) -> &'static str;

    /// Takes a free slot, waiting for one if need be, and makes an empty work folder.
    async fn create(&self, order: SandboxOrder) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Whether its sandboxes outlive this host, and only the record says which are in use.
    fn is_remote(&self) -> bool {
        false
    }

    /// The sandbox of that id as it stands, if there is one; it may be used and destroyed like a new one.
    /// Local sandboxes end with their server, so there never is.
    async fn reconnect(&self, _order: SandboxOrder) -> Result<Option<Box<dyn Sandbox>>, SandboxError> {
        Ok(None)
    }

    /// Tries for real what this host can isolate; takes about 100 ms.
    async fn report(&self) -> IsolationReport;

    /// Removes sandboxes, folders, cgroups, processes and mounts that no live server holds and `keep` does not
    /// name (by sandbox id).
    async fn sweep(
        &self,
        keep: &(dyn for<'name> Fn(&'name str) -> bool + Send + Sync),
    ) -> Result<SweepReport, SandboxError>;
}

/// One sandbox. Dropping it kills what runs in it and frees its slot; `destroy` also says whether that
/// worked.
#[async_trait::async_trait]
pub trait Sandbox: Send {
    fn id(&self) -> &str;

    /// Writes source files, in batches as the caller likes, before the first command.
    async fn write_files(&mut self, files: Vec<(String, Bytes)>) -> Result<(), SandboxError>;

    /// Runs one command to its end. After it nothing of the command is left running. A slow reader of
    /// `output` slows the command down, and its time goes on.
    async fn exec(
        &mut self,
        command: ExecOrder,
        output: mpsc::Sender<Bytes>,
        cancel: CancellationToken,
    ) -> Result<ExecOutcome, SandboxError>;

    /// Copies the regular files beneath `directory` into the server's own folder `into`.
    async fn collect(
        &mut self,
        directory: &str,
        into: &Path,
        limits: CollectLimits,
    ) -> Result<Vec<CollectedFile>, SandboxError>;

    /// Where commands inside find the npm registry's mirror, if that is the only way to a registry.
    fn registry(&self) -> Option<&'static str> {
        None
    }

    /// What the last `collect` left behind because it is no regular file; the first 100.
    fn skipped(&self) -> &[SkippedEntry];

    /// Whether a file or folder is there; a link is not.
    async fn exists(&mut self, path: &str) -> Result<bool, SandboxError>;

    /// What happened since the last call and no command said, a line each: connections made and refused.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What can be kept for the next build, where this sandbox keeps anything.
    fn cache(&mut self) -> Option<&mut dyn BuildCache> {
        None
    }

    /// Kills all, removes folder, cgroup and socket, frees the slot.
    async fn destroy(self: Box<Self>) -> Result<(), SandboxError>;
}

#[derive(Debug, Clone)]
pub struct SandboxOrder {
    /// `<deployment>.<fence>`.
    pub id: String,
    pub limits: Limits,
    /// Which Node stands at `/opt/node`, for example 24.
    pub node_major: u32,
    /// Hosts beyond the registry that commands may connect to; empty: none.
    pub egress: Vec<EgressHost>,
    pub tools: ToolFolders,
}

/// Folders of this host that a sandbox sees read-only, each with its programs in `bin`.
#[derive(Debug, Clone, Default)]
pub struct ToolFolders {
    /// At `/opt/node`; `None`: what the installer laid out for `node_major`.
    pub node: Option<std::path::PathBuf>,
    /// At `/opt/manager`, before Node in the search path.
    pub manager: Option<std::path::PathBuf>,
}

pub struct ExecOrder {
    pub argv: Vec<String>,
    /// The tenant's variables; they appear in no command line and in no environment outside.
    pub env: Vec<(String, String)>,
    /// Relative to `/work`; empty or `.` is `/work` itself.
    pub directory: String,
    /// Instead of the sandbox's own limit.
    pub wall: Option<Duration>,
    /// Whether the registry mirror and the sandbox's egress hosts can be reached; there is no other network.
    /// Remote sandboxes have their provider's network whatever this says.
    pub network: bool,
}

/// Values of variables are a tenant's secrets.
impl fmt::Debug for ExecOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecOrder")
            .field("argv", &self.argv)
            .field("env", &self.env.len())
            .field("directory", &self.directory)
            .field("wall", &self.wall)
            .field("network", &self.network)
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    pub end: ExecEnd,
    pub wall: Duration,
    pub cpu: Duration,
    /// Highest use of this sandbox so far; unknown where nothing measures it.
    pub memory_peak_bytes: Option<u64>,
    /// Bytes printed, dropped ones included.
    pub output_bytes: u64,
    /// How often the process limit refused a new process. A note: the build may have survived it.
    pub process_limit_hits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEnd {
    /// The exit code, or 128 + signal as shells count.
    Exited(i32),
    Killed(LimitHit),
    Cancelled,
}

impl fmt::Display for ExecEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(hit) => hit.fmt(f),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}
