//! The Node versions and package managers that builds run with: which ones a project asks for, and the
//! folders on this host that hold them.
//!
//! Owns the pinned versions, the choice, and fetching, checking, unpacking and keeping tools. The server
//! fetches them, never a sandbox. Must never unpack what was not checked, run what it unpacked, or put a
//! tool in place that is not whole. Knows no deployment and no pipeline.

mod choose;
mod error;
mod install;
mod kind;
mod node;
mod pins;
mod settings;
mod signs;
mod store;
mod unpack;

pub use choose::{Choice, Wishes, choose};
pub use error::{Mistake, ToolError};
pub use install::{Tool, Toolchain, ToolchainPaths, Tools};
pub use kind::{Hash, Manager};
pub use settings::Settings;
pub use signs::wanted;
