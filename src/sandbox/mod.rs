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

mod host;
mod local;
mod none;

mod cage;
mod cgroup;
mod collect;
mod exec;
mod meter;
mod open_files;
mod processes;
mod share;
mod slot;
mod tree;
mod workspace;

mod cache;

mod bwrap;
mod launch;
mod mounts;
mod seccomp;
mod shim;

pub mod mirror;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use cache::{
    BuildCache, CacheScope, CacheSettings, DependencyOrder, Found, FrameworkCaches, FrameworkOrder, Kept,
    Method, Restored, Share, overlay_trial_main,
};
pub use collect::{CollectLimits, CollectedFile, SkippedEntry};
pub use error::SandboxError;
pub use launch::launch_main;
pub use limits::{LimitHit, Limits};
pub use report::{IsolationReport, Limiter, SweepReport};
pub use settings::{MirrorSettings, SandboxPaths, Settings, check_limiter_for_production};
pub use shim::shim_main;

/// A source of sandboxes.
#[async_trait::async_trait]
pub trait Provider: Send + Sync {
    /// `local` or `none`.
    fn name(&self) -> &'static str;

    /// Takes a free slot, waiting for one if need be, and makes an empty work folder.
    async fn create(&self, order: SandboxOrder) -> Result<Box<dyn Sandbox>, SandboxError>;

    /// Tries for real what this host can isolate; takes about 100 ms.
    async fn report(&self) -> IsolationReport;

    /// Removes folders, cgroups, processes and mounts that no live server holds and `keep` does not
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

    /// What the last `collect` left behind because it is no regular file; the first 100.
    fn skipped(&self) -> &[SkippedEntry];

    /// Whether a file or folder is there; a link is not.
    async fn exists(&mut self, path: &str) -> Result<bool, SandboxError>;

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
}

pub struct ExecOrder {
    pub argv: Vec<String>,
    /// The tenant's variables; they appear in no command line and in no environment outside.
    pub env: Vec<(String, String)>,
    /// Relative to `/work`; empty or `.` is `/work` itself.
    pub directory: String,
    /// Instead of the sandbox's own limit.
    pub wall: Option<Duration>,
    /// Whether the registry mirror can be reached; there is no other network.
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

/// The provider that the settings name. Must be called within a tokio runtime.
///
/// # Errors
/// An unknown provider, or folders and locks that can't be made.
pub fn provider(settings: &Settings, paths: SandboxPaths) -> Result<Arc<dyn Provider>, SandboxError> {
    match settings.provider.as_str() {
        "local" => Ok(Arc::new(local::Local::open(settings, paths)?)),
        "none" => Ok(Arc::new(none::Unisolated::open(settings, paths)?)),
        other => Err(SandboxError::ProviderUnknown { name: other.to_owned() }),
    }
}
