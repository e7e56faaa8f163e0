//! Lays a snapshot under a work folder with overlayfs: reads come from the snapshot, writes go to the
//! work folder. In the launcher's own mount namespace, which ends with the sandbox; for an ordinary user
//! in a user namespace of the launcher's own too. Also tries it once, because kernels and file systems
//! differ.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use tokio::io::AsyncWriteExt;

use super::Method;
use super::name::Name;
use super::shelf::Shelf;
use crate::sandbox::error::SandboxError;
use crate::sandbox::launch::failed;
use crate::sandbox::workspace;

/// A trial takes a few milliseconds.
const TRIAL: Duration = Duration::from_secs(10);

/// What is laid under a work folder, and the two folders that overlayfs wants beside it.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(in crate::sandbox) struct LayerOrder {
    /// Never written to.
    pub lower: PathBuf,
    /// For overlayfs alone, on the work folder's file system.
    pub work: PathBuf,
    /// Where the result is mounted if the launcher has no better place.
    pub merged: PathBuf,
}

/// In a mount namespace of the launcher's own, as root.
pub(in crate::sandbox) fn lay_as_root(layer: &LayerOrder, upper: &Path, target: &Path) -> Result<(), String> {
    // What stands in extended attributes must lead nowhere else, whoever wrote it.
    lay(layer, upper, target, "redirect_dir=nofollow,metacopy=off,index=off")
}

/// As an ordinary user: enters namespaces of the launcher's own and mounts at `layer.merged`. The uid
/// stays the same, so that everything later finds what it expects.
pub(in crate::sandbox) fn lay_as_ordinary_user(layer: &LayerOrder, upper: &Path) -> Result<PathBuf, String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(failed("enter a user namespace"))?;
    // The kernel's condition for a group map that nobody privileged wrote.
    fs::write("/proc/self/setgroups", "deny").map_err(failed("write the group map"))?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1")).map_err(failed("write the uid map"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1")).map_err(failed("write the group map"))?;
    lay(layer, upper, &layer.merged, "userxattr")?;
    Ok(layer.merged.clone())
}

fn lay(layer: &LayerOrder, upper: &Path, target: &Path, how: &str) -> Result<(), String> {
    let open = |path: &Path| -> Result<OwnedFd, String> {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|e| format!("could not open {}: {e}", path.display()))
    };
    let (lower, upper, work) = (open(&layer.lower)?, open(upper)?, open(&layer.work)?);
    // By descriptor: a comma or a colon in a path would be read as an option.
    let [lower, upper, work] =
        [&lower, &upper, &work].map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd()));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},{how}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))
        .map_err(failed("lay the kept dependencies under the work folder"))
}

/// What the trial is to do.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct TrialOrder {
    layer: LayerOrder,
    upper: PathBuf,
}

/// `libra internal overlay-trial`. Must be called before any thread is started.
pub fn trial_main() -> ExitCode {
    match trial() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            drop(writeln!(io::stderr(), "{message}"));
            ExitCode::FAILURE
        }
    }
}

fn trial() -> Result<(), String> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(failed("read the order"))?;
    let order: TrialOrder = serde_json::from_slice(&text).map_err(failed("read the order"))?;
    let merged = &order.layer.merged;
    if rustix::process::geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNS).map_err(failed("leave the mount namespace"))?;
        let nothing = None::<&Path>;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .map_err(failed("make mounts private"))?;
        lay_as_root(&order.layer, &order.upper, merged)?;
    } else {
        lay_as_ordinary_user(&order.layer, &order.upper)?;
    }
    // What a build needs: to read, to change, to remove and to add in folders of the snapshot.
    let kept = merged.join("folder/kept");
    fs::read(&kept).map_err(failed("read what was laid under"))?;
    fs::write(&kept, "changed").map_err(failed("change what was laid under"))?;
    fs::remove_file(merged.join("folder/removed")).map_err(failed("remove what was laid under"))?;
    fs::write(merged.join("folder/new"), "").map_err(failed("write above what was laid under"))?;
    let below = fs::read(order.layer.lower.join("folder/kept")).map_err(failed("look beneath"))?;
    let above = order.upper.join("folder/kept").exists();
    if below == b"kept" && above { Ok(()) } else { Err("writes did not go above".into()) }
}

impl Shelf {
    /// How snapshots come into work folders here; tried on first use.
    pub(super) async fn method(&self, exe: &Path) -> Method {
        if !self.settings.overlay {
            return Method::Copy;
        }
        *self
            .method
            .get_or_init(async || match self.try_overlay(exe).await {
                Ok(()) => {
                    tracing::info!(cache.method = %Method::Overlay, "kept dependencies are laid under builds");
                    Method::Overlay
                }
                Err(error) => {
                    tracing::warn!(cache.method = %Method::Copy, error = %error, "no overlayfs here: kept dependencies are copied into builds, which takes longer");
                    Method::Copy
                }
            })
            .await
    }

    async fn try_overlay(&self, exe: &Path) -> Result<(), SandboxError> {
        let nobody = Name { organization: String::new(), digest: String::new() };
        let staged = self.stage(&nobody)?;
        let tried = self.try_in(&staged.folder, exe).await;
        if let Some(aside) = &staged.private {
            self.remove_staged(aside);
        }
        tried
    }

    async fn try_in(&self, folder: &Path, exe: &Path) -> Result<(), SandboxError> {
        let place = |name: &str| folder.join(name);
        for name in ["tree/folder", "upper", "work", "merged"] {
            workspace::private_folder(&place(name))?;
        }
        for name in ["kept", "removed"] {
            let file = place("tree/folder").join(name);
            fs::write(&file, "kept").map_err(|e| SandboxError::io("try overlayfs in", &file, e))?;
        }
        let layer = LayerOrder { lower: place("tree"), work: place("work"), merged: place("merged") };
        let order = TrialOrder { layer, upper: place("upper") };
        let text = serde_json::to_vec(&order).map_err(|e| SandboxError::Setup { message: e.to_string() })?;
        let mut command = tokio::process::Command::new(exe);
        command.args(["internal", "overlay-trial"]).current_dir("/").env_clear();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let spawned = |source| SandboxError::Process { action: "try overlayfs", source };
        let mut child = crate::process::spawn(command).await.map_err(spawned)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&text).await.map_err(spawned)?;
        }
        let late = || SandboxError::Setup { message: "overlayfs did not answer".into() };
        let ended = tokio::time::timeout(TRIAL, child.wait_with_output()).await.map_err(|_| late())?;
        let ended = ended.map_err(spawned)?;
        if ended.status.success() {
            return Ok(());
        }
        Err(SandboxError::Setup { message: String::from_utf8_lossy(&ended.stderr).trim().to_owned() })
    }
}
