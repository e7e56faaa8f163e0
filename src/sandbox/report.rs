//! What this host can isolate and limit, as shown at start, by `doctor` and in `/health/detailed`.
//! Holds words only; the trial itself is the provider's.

use std::fmt;

/// What enforces memory, process and CPU limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limiter {
    Cgroup2,
    Cgroup1,
    /// The server sums over the process tree now and then, and kills.
    Polling,
    /// Somebody else, at the sizes they sell.
    Provider,
    None,
}

impl Limiter {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup2 => "cgroup2",
            Self::Cgroup1 => "cgroup1",
            Self::Polling => "polling",
            Self::Provider => "provider",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The outcome of a real trial on this host.
#[derive(Debug, Clone, serde::Serialize)]
pub struct IsolationReport {
    pub provider: &'static str,
    pub ok: bool,
    pub limiter: Limiter,
    /// The host uid that foreign code runs under, if it runs on this host.
    pub host_uid: Option<u32>,
    /// Zero where the provider counts them.
    pub slots: u32,
    /// What is missing, each with what to do about it; never a secret.
    pub missing: Vec<String>,
    /// Limits of the settings that this provider does not take from us.
    pub not_enforced: Vec<String>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    pub folders: usize,
    pub cgroups: usize,
    pub processes: usize,
    pub mounts: usize,
    /// Sandboxes at a remote provider.
    pub sandboxes: usize,
}

/// Switches of the kernel that forbid user namespaces: file, the value that forbids, what to do.
const NAMESPACE_SWITCHES: &[(&str, &str, &str)] = &[
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "user namespaces are switched off; as root: sysctl -w user.max_user_namespaces=65536",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "user namespaces are for root only; as root: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor forbids user namespaces; as root: give bwrap an AppArmor profile with `userns`, \
         or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Why the kernel may have refused a sandbox, each with what to do. `read` gives a file's content.
pub(super) fn forbidden_namespaces(read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let forbids = |(file, value, _): &&(&str, &str, &str)| read(file).is_some_and(|now| now.trim() == *value);
    NAMESPACE_SWITCHES.iter().filter(forbids).map(|(_, _, mend)| (*mend).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_forbids_namespaces_is_told_from_one_that_allows_them() {
        let debian = |file: &str| file.contains("max_user").then(|| "96365\n".to_owned());
        assert_eq!(forbidden_namespaces(debian), Vec::<String>::new());
        let hardened = |file: &str| Some(if file.contains("apparmor") { "1\n" } else { "0\n" }.to_owned());
        assert_eq!(forbidden_namespaces(hardened).len(), 3);
    }
}
