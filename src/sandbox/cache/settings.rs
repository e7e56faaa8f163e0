//! What an operator may set about kept dependencies and framework caches. Owns the keys and their
//! checks, never a default.

/// The `[sandbox.cache]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSettings {
    /// Whether anything is kept from one build for the next.
    pub enabled: bool,
    /// Whether snapshots may be laid under builds with overlayfs; otherwise they are copied.
    pub overlay: bool,
    /// Everything kept on this host; the least recently used goes first.
    pub total_bytes: u64,
    /// What one organization may have of that.
    pub organization_bytes: u64,
    /// Snapshots and framework caches, all together.
    pub entries: u64,
    /// One snapshot of installed dependencies; larger ones are not kept.
    pub snapshot_bytes: u64,
    /// Files, folders and links of one snapshot.
    pub snapshot_files: u64,
    /// The framework caches of one project and target; larger ones are not kept.
    pub framework_bytes: u64,
    /// Files and folders of these.
    pub framework_files: u64,
}

impl CacheSettings {
    /// Every mistake as `key: what is allowed`.
    pub(in crate::sandbox) fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        demand(
            self.organization_bytes <= self.total_bytes,
            "sandbox.cache.organization_bytes: no more than sandbox.cache.total_bytes",
        );
        demand(
            self.snapshot_bytes <= self.organization_bytes,
            "sandbox.cache.snapshot_bytes: no more than sandbox.cache.organization_bytes",
        );
        demand(
            self.framework_bytes <= self.organization_bytes,
            "sandbox.cache.framework_bytes: no more than sandbox.cache.organization_bytes",
        );
        demand((1..=100_000).contains(&self.entries), "sandbox.cache.entries: 1 to 100000");
        demand(self.snapshot_files >= 1, "sandbox.cache.snapshot_files: at least 1");
        demand(self.framework_files >= 1, "sandbox.cache.framework_files: at least 1");
        found
    }
}
