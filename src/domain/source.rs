//! Source trees: a list of `path → digest`, and the rule by which a deployment's tree is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::id::Digest;

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeEntry {
    pub digest: Digest,
    pub size: u64,
}

/// A source tree. Ordered, so that equal trees have equal digests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceTree {
    pub version: u32,
    pub files: BTreeMap<String, TreeEntry>,
}

impl SourceTree {
    pub const VERSION: u32 = 1;

    #[must_use]
    pub fn new(files: BTreeMap<String, TreeEntry>) -> Self {
        Self { version: Self::VERSION, files }
    }

    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.files.values().map(|f| f.size).sum()
    }
}

/// Where a deployment's tree comes from; ids and digests only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceOrder {
    /// The tree that replaces the project's stored one; `None`: the stored one is used.
    pub tree: Option<Digest>,
    /// The history to replay over it, as one blob holding a list of [`HistoryEdit`].
    pub history: Option<Digest>,
}

/// One file change of a replayed history message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "type")]
pub enum HistoryEdit {
    /// `create` and `edit`: an edit of a missing file creates it.
    Write {
        path: String,
        digest: Digest,
        size: u64,
    },
    Delete {
        path: String,
    },
}

/// How to build, where the request overrides what detection would say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildOverrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_directory: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install_command: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_directory: Option<String>,
    /// A name of the table of frameworks, or `plain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_manager: Option<String>,
    /// `false`: what earlier builds kept is forgotten and not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
}

/// What a project was taken for, and by which sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recognised {
    pub framework: String,
    pub sign: String,
}
