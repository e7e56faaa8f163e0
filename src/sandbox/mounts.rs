//! As root: makes the few host folders of a sandbox reachable for the slot's uid, in a private mount
//! namespace. A data folder beneath `/root` is closed to that uid, so the folders are opened as root
//! and bound to a place that everybody can reach. Nothing of this is seen by the rest of the host.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};

use super::bwrap::Bound;
use super::cache::{LayerOrder, lay_as_root};
use super::launch::failed;

/// Exists on every Linux by the file hierarchy standard, and nothing of a build lies there.
const PLACE: &str = "/srv";

/// Leaves the host's mount namespace and binds the sources below [`PLACE`].
pub(super) fn gather(bound: &Bound) -> Result<Bound, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("leave the mount namespace"))?;
    let nothing = None::<&Path>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .map_err(failed("make mounts private"))?;
    // Opened only now: a handle from the old namespace can't be bound in the new one.
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|e| format!("could not open {}: {e}", path.display()))
    };
    let tree = open(&bound.tree)?;
    let home = open(&bound.home)?;
    let shim = open(&bound.shim)?;
    let node = bound.node.as_deref().map(open).transpose()?;
    let manager = bound.manager.as_deref().map(open).transpose()?;
    let sockets = bound.sockets.as_deref().map(open).transpose()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("libra"), PLACE, Some("tmpfs"), flags, Some("size=64k,mode=0755"))
        .map_err(failed("mount the meeting place"))?;
    Ok(Bound {
        tree: match &bound.layer {
            Some(layer) => lay(layer, &bound.tree)?,
            None => bind(&tree, "tree")?,
        },
        layer: None,
        home: bind(&home, "home")?,
        shim: bind_file(&shim, "shim")?,
        node: node.map(|node| bind(&node, "node")).transpose()?,
        manager: manager.map(|manager| bind(&manager, "manager")).transpose()?,
        sockets: sockets.map(|sockets| bind(&sockets, "sockets")).transpose()?,
    })
}

fn lay(layer: &LayerOrder, upper: &Path) -> Result<PathBuf, String> {
    let target = Path::new(PLACE).join("tree");
    fs::create_dir(&target).map_err(failed("make a mount point"))?;
    lay_as_root(layer, upper, &target)?;
    Ok(target)
}

fn bind(source: &OwnedFd, name: &str) -> Result<PathBuf, String> {
    let target = Path::new(PLACE).join(name);
    fs::create_dir(&target).map_err(failed("make a mount point"))?;
    bind_onto(source, target)
}

fn bind_file(source: &OwnedFd, name: &str) -> Result<PathBuf, String> {
    let target = Path::new(PLACE).join(name);
    fs::File::create(&target).map_err(failed("make a mount point"))?;
    bind_onto(source, target)
}

fn bind_onto(source: &OwnedFd, target: PathBuf) -> Result<PathBuf, String> {
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    let nothing = None::<&Path>;
    mount(Some(source.as_str()), &target, nothing, MsFlags::MS_BIND, nothing)
        .map_err(failed("bind a folder"))?;
    Ok(target)
}
