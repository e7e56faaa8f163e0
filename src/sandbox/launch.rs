//! The launcher: a fresh, single-threaded process of our own program that puts itself under the
//! limits, gives up root and becomes `bwrap`. Its order comes through standard input, so that neither
//! a tenant's variables nor host paths stand in any command line or in the launcher's environment
//! (where `LD_PRELOAD` would be obeyed outside the sandbox). Never runs `bwrap` as host uid 0.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use rustix::fs::MemfdFlags;
use rustix::process::{Resource, Rlimit};

use super::bwrap::{self, Bound};
use super::cache::lay_as_ordinary_user;
use super::mounts;
use super::shim::ShimOrder;

/// What the server tells the launcher.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct LaunchOrder {
    /// Who must still be the parent once the parent-death signal is set.
    pub parent: i32,
    /// The slot's uid when started as root; `None` keeps the caller's.
    pub slot_uid: Option<u32>,
    pub cgroup_files: Vec<PathBuf>,
    pub file_bytes: u64,
    /// Where no cgroup bounds them and the slot's uid is the build's alone.
    pub tasks: Option<u64>,
    pub bwrap: PathBuf,
    pub bound: Bound,
    pub tmp_bytes: u64,
    /// Relative to `/work`.
    pub directory: String,
    pub shim: ShimOrder,
}

/// Exit code of a launcher that did not get as far as `bwrap`.
const NOT_LAUNCHED: u8 = 125;

/// `libra internal sandbox-launch`. Must be called before any thread is started.
pub fn launch_main() -> ExitCode {
    let Err(message) = launch();
    // Standard error is the server's set-up pipe; if it is gone there is nobody left to tell.
    drop(writeln!(io::stderr(), "libra launcher: {message}"));
    ExitCode::from(NOT_LAUNCHED)
}

fn launch() -> Result<std::convert::Infallible, String> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(failed("read the order"))?;
    let order: LaunchOrder = serde_json::from_slice(&text).map_err(|e| format!("unreadable order: {e}"))?;
    let uid = order.slot_uid.unwrap_or_else(|| rustix::process::geteuid().as_raw());
    let map = fs::read_to_string("/proc/self/uid_map").map_err(failed("read the uid map"))?;
    refuse_host_root(&map, uid)?;
    for file in &order.cgroup_files {
        super::cgroup::write(file, "0").map_err(|e| format!("could not join {}: {e}", file.display()))?;
    }
    limit(&order)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let bound = match order.slot_uid {
        Some(_) => mounts::gather(&order.bound)?,
        None => match &order.bound.layer {
            Some(layer) => {
                Bound { tree: lay_as_ordinary_user(layer, &order.bound.tree)?, ..order.bound.clone() }
            }
            None => order.bound.clone(),
        },
    };
    give_up_root(order.slot_uid)?;
    die_with(order.parent)?;
    become_bwrap(&order, &bound)
}

/// A sandbox's uid 0 that is the host's uid 0 may write `/proc/sys` without any capability, and
/// `core_pattern` there runs programs as root (proved). Inside a user namespace the host's uid can't
/// be known, so anything but the host's own numbering is refused.
fn refuse_host_root(uid_map: &str, uid: u32) -> Result<(), String> {
    if uid == 0 {
        return Err("refused: a sandbox never runs as uid 0; start the server as root with build slots, \
                    or as an ordinary user"
            .into());
    }
    if uid_map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Ok(());
    }
    Err("refused: this process is inside a user namespace, so its real uid can't be known; start the \
         server outside of it"
        .into())
}

fn limit(order: &LaunchOrder) -> Result<(), String> {
    let set = |resource, value: u64| {
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        rustix::process::setrlimit(resource, limit).map_err(failed("set a resource limit"))
    };
    set(Resource::Core, 0)?;
    set(Resource::Fsize, order.file_bytes)?;
    let files = rustix::process::getrlimit(Resource::Nofile).maximum.map_or(65_536, |max| max.min(65_536));
    set(Resource::Nofile, files)?;
    order.tasks.map_or(Ok(()), |tasks| set(Resource::Nproc, tasks))
}

fn give_up_root(slot_uid: Option<u32>) -> Result<(), String> {
    let Some(slot) = slot_uid else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(slot), Gid::from_raw(slot));
    nix::unistd::setgroups(&[]).map_err(failed("drop the groups"))?;
    nix::unistd::setresgid(gid, gid, gid).map_err(failed("change the group"))?;
    nix::unistd::setresuid(uid, uid, uid).map_err(failed("change the user"))?;
    if nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err("refused: root came back after it was given up".into());
    }
    Ok(())
}

/// After the change of user, because that change clears the signal.
fn die_with(parent: i32) -> Result<(), String> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed("set the parent-death signal"))?;
    if nix::unistd::getppid().as_raw() == parent { Ok(()) } else { Err("the server is gone".into()) }
}

fn become_bwrap(order: &LaunchOrder, bound: &Bound) -> Result<std::convert::Infallible, String> {
    let shim = serde_json::to_vec(&order.shim).map_err(|e| e.to_string())?;
    let filters = super::seccomp::filters().map_err(|e| format!("no system-call filter: {e}"))?;
    let mut arguments: Vec<OsString> = bwrap::arguments(bound, order.tmp_bytes, &order.directory);
    // Kept open until `exec`, which hands them over: they lack the close-on-exec flag.
    let mut handed_over = Vec::new();
    for (path, text) in bwrap::ETC_FILES {
        let file = memory_file(text.as_bytes())?;
        arguments.extend(["--perms", "0644", "--file"].map(OsString::from));
        arguments.extend([file.as_raw_fd().to_string().into(), (*path).into()]);
        handed_over.push(file);
    }
    for filter in filters {
        let file = memory_file(&filter)?;
        arguments.extend(["--add-seccomp-fd".into(), file.as_raw_fd().to_string().into()]);
        handed_over.push(file);
    }
    arguments.extend(bwrap::last_arguments());
    let error =
        Command::new(&order.bwrap).args(arguments).env_clear().stdin(Stdio::from(memory_file(&shim)?)).exec();
    drop(handed_over);
    Err(format!("could not start bwrap: {error}"))
}

fn memory_file(content: &[u8]) -> Result<fs::File, String> {
    let file =
        rustix::fs::memfd_create("libra", MemfdFlags::empty()).map_err(failed("make a memory file"))?;
    let mut file = fs::File::from(file);
    file.write_all(content).and_then(|()| file.rewind()).map_err(failed("fill a memory file"))?;
    Ok(file)
}

pub(super) fn failed<E: std::fmt::Display>(action: &'static str) -> impl Fn(E) -> String {
    move |error| format!("could not {action}: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "         0          0 4294967295\n";

    #[test]
    fn host_root_and_unknown_uids_are_refused() {
        assert!(refuse_host_root(HOST, 60001).is_ok());
        assert!(refuse_host_root(HOST, 0).is_err());
        assert!(refuse_host_root("         0          0          1\n", 1000).is_err());
        assert!(refuse_host_root("      1000          0          1\n", 1000).is_err());
        assert!(refuse_host_root("", 1000).is_err());
    }
}
