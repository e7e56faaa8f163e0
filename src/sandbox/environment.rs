//! What every command in a sandbox finds in its environment. Each package manager is led to the mirror,
//! which is the only registry there is, and told not to phone home. Holds no word of a tenant.

use std::ffi::OsString;

use super::ToolFolders;
use super::bwrap::{BUILD_HOME, SEARCH_PATH};

/// Where the registry mirror is found inside; the port is the shim's.
pub(super) const REGISTRY: &str = "http://127.0.0.1:4873/";

/// Where the proxy to a project's egress hosts is found inside.
const EGRESS: &str = "http://127.0.0.1:3128/";

/// A tenant's variable of the same name wins.
pub(super) fn base() -> Vec<(String, String)> {
    [
        ("PATH", SEARCH_PATH),
        ("HOME", BUILD_HOME),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("CI", "1"),
        ("DO_NOT_TRACK", "1"),
        // npm, pnpm up to 10, bun.
        ("npm_config_registry", REGISTRY),
        // Lockfiles name whatever registry their author used.
        ("npm_config_replace_registry_host", "always"),
        ("npm_config_update_notifier", "false"),
        ("npm_config_audit", "false"),
        ("npm_config_fund", "false"),
        ("pnpm_config_registry", REGISTRY),
        ("YARN_REGISTRY", REGISTRY),
        // Yarn 2 and later; it refuses plain http from anywhere else.
        ("YARN_NPM_REGISTRY_SERVER", REGISTRY),
        ("YARN_UNSAFE_HTTP_WHITELIST", "127.0.0.1"),
        ("YARN_ENABLE_TELEMETRY", "0"),
        ("BUN_CONFIG_REGISTRY", REGISTRY),
        ("COREPACK_ENABLE_DOWNLOAD_PROMPT", "0"),
        ("COREPACK_NPM_REGISTRY", REGISTRY),
        // Also where no host is listed: what a tool wanted then stands in the build log.
        ("https_proxy", EGRESS),
        ("HTTPS_PROXY", EGRESS),
        ("no_proxy", "127.0.0.1,localhost,::1"),
        ("NO_PROXY", "127.0.0.1,localhost,::1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// Without isolation: the tools of the build before those of the server's own path.
pub(super) fn search_path(tools: &ToolFolders) -> OsString {
    let own = [&tools.manager, &tools.node].into_iter().flatten().map(|folder| folder.join("bin"));
    let servers = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.chain(std::env::split_paths(&servers))).unwrap_or(servers)
}

#[cfg(test)]
mod tests {
    use super::super::shim::{EGRESS_PORT, REGISTRY_PORT};
    use super::*;

    #[test]
    fn every_manager_is_led_to_the_shims_port() {
        assert_eq!(REGISTRY, format!("http://127.0.0.1:{REGISTRY_PORT}/"));
        assert_eq!(EGRESS, format!("http://127.0.0.1:{EGRESS_PORT}/"));
        let lead = base().iter().filter(|(_, value)| value == REGISTRY).count();
        assert_eq!(lead, 6);
    }
}
