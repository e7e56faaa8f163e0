//! What an operator may set about sandboxes. Owns the keys and their checks, never a default:
//! the embedded `config.toml` is the default.

use std::path::PathBuf;
use std::time::Duration;

use super::cache::CacheSettings;
use super::limits::Limits;
use super::remote::{DaytonaSettings, E2bSettings, RemoteSettings};
use super::report::Limiter;

/// The `[sandbox]` section; every key carries its unit.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `local`, `daytona`, `e2b` or `none`.
    pub provider: String,
    /// Builds at the same time on this host, each with its own slot.
    pub slots: u32,
    /// First host uid of the slots when started as root; one more than `slots` are used.
    pub slot_uid_base: u32,
    /// How long `create` waits for a free slot.
    pub slot_wait_seconds: u64,
    /// Folder of the slot locks; empty means `/run/libra/slots` or `/tmp/libra-<uid>/slots`.
    pub lock_directory: String,
    /// Folder beneath which cgroups are made, relative to each hierarchy; empty means found by itself.
    pub cgroup_parent: String,
    /// The bubblewrap program: a path, or a name looked up in `PATH`.
    pub bwrap: String,
    /// Whether production may run with limits that are only polled.
    pub allow_polled_limits: bool,

    pub memory_bytes: u64,
    pub processes: u32,
    pub cpu_seconds: u64,
    pub cpu_cores: f64,
    pub disk_bytes: u64,
    /// Files and folders that one build may have on disk.
    pub disk_entries: u64,
    /// Free space of the host's file system that builds must leave.
    pub disk_reserve_bytes: u64,
    pub output_bytes: u64,
    pub wall_seconds: u64,
    pub tmp_bytes: u64,
    /// Largest single file that a build may write.
    pub file_bytes: u64,
    /// Time between two looks at memory, CPU and process count.
    pub poll_ms: u64,
    /// Time between two walks over the files of a build.
    pub disk_poll_ms: u64,

    pub mirror: MirrorSettings,
    pub cache: CacheSettings,
    pub egress: EgressSettings,
    pub remote: RemoteSettings,
    pub e2b: E2bSettings,
    pub daytona: DaytonaSettings,
}

/// The `[sandbox.egress]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressSettings {
    /// Lines of one project's list; 0: no project may have any.
    pub hosts_per_project: usize,
    /// Connections that one sandbox may have open.
    pub connections: usize,
    /// Time to resolve a name and connect.
    pub connect_seconds: u64,
    /// Bytes of one sandbox's connections, both ways.
    pub total_bytes: u64,
    /// Networks that listed hosts may resolve to although they are private.
    pub allow_networks: Vec<ipnet::IpNet>,
}

/// The `[sandbox.mirror]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorSettings {
    /// Upstream npm registry; empty means what the installed npm is set to.
    pub registry_url: String,
    /// Kept tarballs and package documents together; the least recently used go first.
    pub total_bytes: u64,
    pub tarball_bytes: u64,
    pub document_bytes: u64,
    /// How long a package document is served without asking upstream.
    pub document_fresh_seconds: u64,
    pub upstream_requests: usize,
    /// Requests of one sandbox that are worked on at once; more wait.
    pub sandbox_requests: usize,
    /// Memory for package documents being rewritten, over all sandboxes.
    pub documents_memory_bytes: u64,
    pub upstream_connect_seconds: u64,
    pub upstream_read_seconds: u64,
    /// Connections that one sandbox may have open to the mirror.
    pub connections: usize,
}

impl Settings {
    /// The limits of a build for which nothing else is said.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes,
            processes: self.processes,
            cpu_seconds: self.cpu_seconds,
            cpu_cores: self.cpu_cores,
            disk_bytes: self.disk_bytes,
            output_bytes: self.output_bytes,
            wall: Duration::from_secs(self.wall_seconds),
            tmp_bytes: self.tmp_bytes,
        }
    }

    /// Every mistake at once, each as the key and what is allowed.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, what: &str| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        demand(self.slots >= 1, "sandbox.slots: at least 1");
        demand(
            self.slot_uid_base >= 1000 && self.slot_uid_base.checked_add(self.slots).is_some(),
            "sandbox.slot_uid_base: 1000 or more, of uids that nobody else uses",
        );
        demand(self.memory_bytes >= 64 << 20, "sandbox.memory_bytes: at least 67108864 (64 MiB)");
        demand(self.processes >= 16, "sandbox.processes: at least 16");
        demand(self.cpu_cores.is_finite() && self.cpu_cores >= 0.01, "sandbox.cpu_cores: at least 0.01");
        demand(self.poll_ms >= 10 && self.disk_poll_ms >= 10, "sandbox.poll_ms, disk_poll_ms: at least 10");
        demand(self.wall_seconds >= 1, "sandbox.wall_seconds: at least 1");
        demand(self.mirror.connections >= 1, "sandbox.mirror.connections: at least 1");
        demand(self.mirror.upstream_requests >= 1, "sandbox.mirror.upstream_requests: at least 1");
        demand(self.mirror.sandbox_requests >= 1, "sandbox.mirror.sandbox_requests: at least 1");
        demand(self.egress.connections >= 1, "sandbox.egress.connections: at least 1");
        demand(self.egress.connect_seconds >= 1, "sandbox.egress.connect_seconds: at least 1");
        demand(
            self.egress.hosts_per_project <= 500,
            "sandbox.egress.hosts_per_project: at most 500, which is what a project's record holds",
        );
        demand(
            (1 << 20..1 << 40).contains(&self.mirror.documents_memory_bytes),
            "sandbox.mirror.documents_memory_bytes: at least 1048576 (1 MiB), below 1 TiB",
        );
        demand(
            !reqwest::Url::parse(&self.mirror.registry_url).is_ok_and(|url| holds_credential(&url)),
            "sandbox.mirror.registry_url: without user and password; every tenant's build could read \
             that registry through the mirror",
        );
        self.remote.mistakes(&mut demand);
        self.e2b.mistakes(self.provider == "e2b", &mut demand);
        self.daytona.mistakes(self.provider == "daytona", &mut demand);
        found.extend(self.cache.mistakes());
        found
    }
}

pub(super) fn holds_credential(url: &reqwest::Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether production may run builds with this limiter; the message says what to do.
///
/// # Errors
/// A sentence for the operator when it may not.
pub fn check_limiter_for_production(settings: &Settings, limiter: Limiter) -> Result<(), String> {
    match limiter {
        Limiter::Cgroup2 | Limiter::Cgroup1 | Limiter::Provider => Ok(()),
        Limiter::Polling if settings.allow_polled_limits => Ok(()),
        Limiter::Polling | Limiter::None => Err(format!(
            "limits of builds are enforced by `{limiter}` only: give the server writable cgroups \
             (memory, pids, cpu), or set sandbox.allow_polled_limits = true"
        )),
    }
}

/// Where things lie on this host.
#[derive(Debug, Clone)]
pub struct SandboxPaths {
    /// Work folders go to `<root>/work`; made 0700.
    pub root: PathBuf,
    /// `<tools>/node/<major>` holds Node and npm.
    pub tools: PathBuf,
    /// Cache of the registry mirror.
    pub mirror: PathBuf,
    /// The server's own folder, which no build may see.
    pub data_dir: PathBuf,
    /// The `libra` program, run as launcher and as shim.
    pub exe: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_address_with_a_credential_is_a_mistake() {
        let all: toml::Table = toml::from_str(include_str!("../../config.toml")).unwrap();
        let mut settings: Settings = all["sandbox"].clone().try_into().unwrap();
        let mut mistakes = |url: &str| {
            settings.mirror.registry_url = url.into();
            settings.mistakes()
        };
        assert_eq!(mistakes(""), Vec::<String>::new());
        assert_eq!(mistakes("https://registry.test/npm/"), Vec::<String>::new());
        for private in
            ["https://user:secret@registry.test/", "https://token@registry.test", "http://:pw@r.test"]
        {
            let found = mistakes(private);
            assert!(found.len() == 1 && found[0].contains("registry_url"), "{private}: {found:?}");
            assert!(!found[0].contains("secret"), "{found:?}");
        }
    }
}
