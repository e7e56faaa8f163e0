//! What an operator may set about tools. Owns the keys and their checks, never a default: the embedded
//! `config.toml` is the default.

/// The `[toolchain]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Empty: beneath `tools_dir`, or beneath `data_dir` where that can't be written.
    pub folder: String,
    /// Tools kept beside the pinned ones; the least recently used go first.
    pub kept_tools: usize,
    /// Bounds of one unpacked tool.
    pub unpacked_bytes: u64,
    pub unpacked_entries: u64,
    /// How long a build waits for a tool that is not there yet.
    pub install_timeout_seconds: u64,
}

impl Settings {
    /// Every mistake as `(key, what is allowed)`.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.install_timeout_seconds < 1 {
            found.push(("toolchain.install_timeout_seconds", "must be at least 1"));
        }
        // Node alone is 120 MB.
        if self.unpacked_bytes < 256 << 20 {
            found.push(("toolchain.unpacked_bytes", "must be at least 268435456 (256 MiB)"));
        }
        if self.unpacked_entries < 5_000 {
            found.push(("toolchain.unpacked_entries", "must be at least 5000"));
        }
        found
    }
}
