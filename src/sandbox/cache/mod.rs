//! What one build leaves for the next: snapshots of installed dependencies, laid under the work folder
//! by overlayfs or copied into it, and the caches of frameworks.
//!
//! Everything kept was written by foreign code. So it is taken only while nothing runs, by renaming it
//! whole out of the work folder; no link in it is ever followed by the server; nothing but files,
//! folders and links is accepted; a build writes above a snapshot, never into it; and what may be
//! shared with whom is part of the name under which it lies. Knows no package manager: a caller says
//! what a snapshot depends on.

mod caged;
mod copy;
mod framework;
mod harden;
mod name;
mod overlay;
mod settings;
mod shelf;
mod snapshot;
mod takeout;

use std::fmt;

use super::error::SandboxError;

pub use overlay::trial_main as overlay_trial_main;
pub use settings::CacheSettings;

pub(super) use caged::layer;
pub(super) use overlay::{LayerOrder, lay_as_ordinary_user, lay_as_root};
pub(super) use shelf::Shelf;
pub(super) use snapshot::Snapshot;

/// Whose cache; each part is an id of lower-case letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheScope {
    pub organization: String,
    pub project: String,
    pub target: String,
}

/// Who may be given a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Foreign code ran while it was made: only the same target of the same project.
    Target,
    /// Made from checked packages without running any of them: the whole organization.
    Organization,
}

/// Installed dependencies, asked for before the install and offered after it.
#[derive(Debug, Clone)]
pub struct DependencyOrder {
    pub scope: CacheScope,
    pub share: Share,
    /// Everything that the install reads, as the caller knows it. Never shown.
    pub inputs: Vec<u8>,
    /// The files of the source; what an install adds to them is the snapshot.
    pub source: Vec<String>,
    /// Whether the install may change files of the source, because the caller repeats that part of it.
    pub source_may_change: bool,
    /// The one file of the source that the install may change in any case: a lockfile that it makes fit.
    pub lockfile_may_change: Option<String>,
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    Hit(Found),
    /// With the short form of the key.
    Miss {
        key: String,
    },
}

/// A snapshot in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The short form of the key.
    pub key: String,
    pub bytes: u64,
    pub files: u64,
    /// Milliseconds since 1970.
    pub kept_at_ms: i64,
    pub method: Method,
}

/// How a snapshot comes into the work folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Laid under it; writes go above.
    Overlay,
    /// Copied, sharing blocks where the file system can.
    Copy,
}

/// What became of an offered snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    Yes(Found),
    /// Not kept, for this reason; the work folder is as the install left it.
    No(String),
}

/// The framework caches of one project and target.
#[derive(Debug, Clone)]
pub struct FrameworkOrder {
    pub scope: CacheScope,
    /// Where the build runs, relative to the work folder.
    pub directory: String,
}

/// Framework caches that were put back or kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameworkCaches {
    /// Relative to the build's folder.
    pub folders: Vec<String>,
    pub bytes: u64,
    /// Why nothing was kept, where something was there.
    pub refused: Option<String>,
}

/// A sandbox that can keep things for the next one. Trouble with the cache itself is logged and shows
/// as a miss: only a work folder that could not be made whole again is an error.
#[async_trait::async_trait]
pub trait BuildCache: Send {
    /// Before the first command: puts a snapshot in its place if there is one.
    async fn restore_dependencies(&mut self, order: &DependencyOrder) -> Result<Restored, SandboxError>;

    /// Has the next builds, and this one, do without what is kept under this order. What another build uses
    /// right now stays.
    async fn forget_dependencies(&mut self, order: &DependencyOrder) -> Result<(), SandboxError>;

    /// Right after the install and before any other command.
    async fn keep_dependencies(&mut self, order: &DependencyOrder) -> Result<Kept, SandboxError>;

    /// Before the build: moves the project's caches into the work folder. They are not kept any more
    /// then, so that a cache that breaks a build breaks one only.
    async fn take_framework_caches(
        &mut self,
        order: &FrameworkOrder,
    ) -> Result<FrameworkCaches, SandboxError>;

    async fn forget_framework_caches(&mut self, order: &FrameworkOrder) -> Result<(), SandboxError>;

    /// After a build that succeeded, once its output was collected.
    async fn keep_framework_caches(
        &mut self,
        order: &FrameworkOrder,
    ) -> Result<FrameworkCaches, SandboxError>;
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlayfs",
            Self::Copy => "copied",
        })
    }
}
