//! The one command line of bubblewrap. Each line is there for a reason found by trying; what is not
//! bound here does not exist for a build. Holds no tenant's word but the working folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::cache::LayerOrder;

/// Host folders and files that a sandbox sees.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Bound {
    /// Read-write, at `/work`.
    pub tree: PathBuf,
    /// What is laid under it.
    pub layer: Option<LayerOrder>,
    /// Read-write, at `/home/build`; on disk, because npm's cache in memory would count as memory.
    pub home: PathBuf,
    /// Our own program, at `/run/libra/shim`.
    pub shim: PathBuf,
    /// Read-only, at `/opt/node`.
    pub node: Option<PathBuf>,
    /// Read-only, at `/opt/manager`.
    pub manager: Option<PathBuf>,
    /// Read-only, at `/run/libra/sockets`; only where the registry may be reached.
    pub sockets: Option<PathBuf>,
}

pub(super) const REGISTRY_SOCKET: &str = "/run/libra/sockets/registry.sock";
pub(super) const EGRESS_SOCKET: &str = "/run/libra/sockets/egress.sock";
pub(super) const BUILD_HOME: &str = "/home/build";
pub(super) const SEARCH_PATH: &str = "/opt/manager/bin:/opt/node/bin:/usr/bin:/bin";

/// Instead of the host's own, which name its users and its network.
pub(super) const ETC_FILES: &[(&str, &str)] = &[
    ("/etc/passwd", "build:x:1000:1000::/home/build:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"),
    ("/etc/group", "build:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost build\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// Everything up to the files of `/etc` and the system-call filters.
pub(super) fn arguments(bound: &Bound, tmp_bytes: u64, directory: &str) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.add(["--unshare-all", "--unshare-user", "--disable-userns"]);
    line.add(["--uid", "1000", "--gid", "1000", "--hostname", "build"]);
    line.add(["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]);
    line.add(["--ro-bind", "/usr", "/usr"]);
    for name in ["lib", "lib64", "bin", "sbin"] {
        line.host_root_entry(name);
    }
    for path in ["/etc/ssl/certs", "/etc/ld.so.cache", "/etc/alternatives"] {
        line.add(["--ro-bind-try", path, path]);
    }
    line.add(["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]);
    let size = tmp_bytes.to_string();
    line.add(["--size", &size, "--perms", "1777", "--tmpfs", "/tmp"]);
    line.add(["--size", &size, "--perms", "1777", "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]);
    line.add(["--dir", "/run/libra", "--dir", "/home"]);
    line.bind("--bind", &bound.home, BUILD_HOME);
    line.bind("--bind", &bound.tree, "/work");
    line.bind("--ro-bind", &bound.shim, "/run/libra/shim");
    if let Some(node) = &bound.node {
        line.bind("--ro-bind", node, "/opt/node");
    }
    if let Some(manager) = &bound.manager {
        line.bind("--ro-bind", manager, "/opt/manager");
    }
    if let Some(sockets) = &bound.sockets {
        line.bind("--ro-bind", sockets, "/run/libra/sockets");
    }
    let work =
        if directory.is_empty() || directory == "." { "/work".into() } else { format!("/work/{directory}") };
    line.add(["--chdir", &work]);
    line.0
}

/// The end of the line: the root becomes read-only once everything is in place.
pub(super) fn last_arguments() -> [OsString; 6] {
    ["--remount-ro", "/", "--", "/run/libra/shim", "internal", "sandbox-shim"].map(OsString::from)
}

struct Line(Vec<OsString>);

impl Line {
    fn add<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(OsString::from));
    }

    fn bind(&mut self, how: &str, source: &Path, target: &str) {
        self.0.extend([how.into(), source.into(), target.into()]);
    }

    /// `/lib` and the like are links into `/usr` on today's distributions and folders on older ones.
    fn host_root_entry(&mut self, name: &str) {
        let path = format!("/{name}");
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => self.add(["--symlink", &format!("usr/{name}"), &path]),
            Ok(_) => self.add(["--ro-bind", &path, &path]),
            Err(_) => {}
        }
    }
}
