//! Unix sockets in a sandbox's own folder, each for the slot's uid alone.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Uid};

use super::tree;

/// Through the folder's descriptor: a data folder's path may be longer than a socket's may be.
pub(super) fn bind(folder: &Path, name: &str, owner: Option<u32>) -> io::Result<UnixListener> {
    let folder = tree::open_own_folder(folder)?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(owner) = owner {
        let (uid, gid) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
        rustix::fs::chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(listener)
}
