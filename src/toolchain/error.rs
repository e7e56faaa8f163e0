//! Why a project can't have the tools it asks for: its own mistake, or something that this platform
//! could not do.

use std::io;

use crate::sandbox::mirror::MirrorError;

/// The project's own doing: trying again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    #[error("packageManager `{text}`: {why}")]
    BadManager { text: String, why: &'static str },
    #[error(
        "packageManager has the hash `{text}`; it must be sha1, sha224, sha256, sha384 or sha512, a dot and hex digits"
    )]
    BadHash { text: String },
    #[error("{origin} asks for Node `{asked}`; there are {offered}")]
    NoNode { origin: String, asked: String, offered: String },
    #[error("the registry has no {tool} {version}")]
    VersionUnknown { tool: String, version: String },
    #[error("{tool} {version} has not the hash that packageManager names ({algorithm})")]
    WrongHash { tool: String, version: String, algorithm: String },
    #[error("{tool} {version} needs Node {needs}; this build runs on Node {node}")]
    WrongNode { tool: String, version: String, needs: String, node: String },
}

impl Mistake {
    #[must_use]
    pub const fn summary(&self) -> &'static str {
        match self {
            Self::BadManager { .. } | Self::BadHash { .. } => {
                "The package manager that the project names can't be used."
            }
            Self::NoNode { .. } => "The Node version that the project asks for is not offered.",
            Self::VersionUnknown { .. } => "The package manager's version does not exist.",
            Self::WrongHash { .. } => "The package manager does not match the hash in packageManager.",
            Self::WrongNode { .. } => "The package manager does not run on the chosen Node version.",
        }
    }

    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::BadManager { .. } | Self::BadHash { .. } | Self::VersionUnknown { .. } => {
                "Name npm, pnpm, yarn or bun with an exact version that exists, such as pnpm@10.1.0, or take packageManager out."
            }
            Self::NoNode { .. } => {
                "Ask for Node 20, 22 or 24 in .nvmrc, .node-version or engines.node of package.json."
            }
            Self::WrongHash { .. } => {
                "Have corepack write the field anew (corepack use), or leave the hash out."
            }
            Self::WrongNode { .. } => "Ask for a newer Node, or for an older package manager.",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error(transparent)]
    Mistake(#[from] Mistake),
    #[error("nothing is pinned for this machine's processor; x86_64 and aarch64 are supported")]
    Processor,
    #[error("{tool} could not be fetched from the registry")]
    Registry {
        tool: String,
        #[source]
        source: MirrorError,
    },
    #[error("the registry's {package} {version} does not match its pinned digest")]
    Integrity { package: String, version: String },
    #[error("{tool} can't be unpacked: {why}")]
    Unpack { tool: String, why: String },
    #[error("{tool} was not installed within {seconds} s")]
    TooLong { tool: String, seconds: u64 },
    #[error("could not {action} in the folder of tools")]
    Disk {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("an installation ended early")]
    Task(#[source] tokio::task::JoinError),
}

pub(super) fn disk<E: Into<io::Error>>(action: &'static str) -> impl Fn(E) -> ToolError {
    move |source| ToolError::Disk { action, source: source.into() }
}
