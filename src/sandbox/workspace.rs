//! The folder of one sandbox: `<root>/work/<id>/{tree,home,sockets}`. The outer folder belongs to the
//! server alone (0700); what is inside belongs to the slot. Hostile code fills it, so this room never
//! follows a link in it and never opens it by path.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::error::SandboxError;
use super::{path, tree};

/// Where hostile code's files lie; all three are bound into the sandbox.
#[derive(Debug)]
pub(super) struct Workspace {
    pub id: String,
    pub folder: PathBuf,
    owner: Option<u32>,
    tree: OwnedFd,
}

/// `<root>/work`, made 0700 where it is missing.
pub(super) fn work_root(root: &Path) -> Result<PathBuf, SandboxError> {
    let work = root.join("work");
    private_folder(root)?;
    private_folder(&work)?;
    Ok(work)
}

/// Makes `folder` and its parents; the folder itself is 0700.
pub(super) fn private_folder(folder: &Path) -> Result<(), SandboxError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)))
        .map_err(|e| SandboxError::io("make the private folder", folder, e))
}

impl Workspace {
    /// Makes a fresh folder; one that is left over under the same id is removed first.
    pub(super) fn create(root: &Path, id: &str, owner: Option<u32>) -> Result<Self, SandboxError> {
        path::check_id(id)?;
        let work = work_root(root)?;
        let folder = work.join(id);
        let fail = |e: Errno| SandboxError::io("make the work folder", &folder, e);
        let parent = tree::open_own_folder(&work).map_err(|e| SandboxError::io("open", &work, e))?;
        tree::remove(&parent, id).map_err(fail)?;
        rustix::fs::mkdirat(&parent, id, Mode::RWXU).map_err(fail)?;
        let own = tree::open_folder_beneath(&parent, id).map_err(fail)?;
        for name in ["tree", "home", "sockets"] {
            make_folder(own.as_fd(), name, owner).map_err(fail)?;
        }
        let tree = tree::open_folder_beneath(&own, "tree").map_err(fail)?;
        Ok(Self { id: id.to_owned(), folder, owner, tree })
    }

    pub(super) fn tree_path(&self) -> PathBuf {
        self.folder.join("tree")
    }

    pub(super) fn home_path(&self) -> PathBuf {
        self.folder.join("home")
    }

    pub(super) fn sockets_path(&self) -> PathBuf {
        self.folder.join("sockets")
    }

    /// What the disk limit measures.
    pub(super) fn measured(&self) -> Result<Vec<OwnedFd>, SandboxError> {
        [self.tree_path(), self.home_path()]
            .iter()
            .map(|p| tree::open_own_folder(p).map_err(|e| SandboxError::io("open", p, e)))
            .collect()
    }

    /// A second handle on the tree, for work on a blocking thread.
    pub(super) fn tree(&self) -> Result<OwnedFd, SandboxError> {
        self.tree
            .try_clone()
            .map_err(|source| SandboxError::Process { action: "share the work folder", source })
    }

    pub(super) fn owner(&self) -> Option<u32> {
        self.owner
    }

    /// Removes the folder. Nothing may run in it any more.
    pub(super) fn remove(&self) -> Result<(), SandboxError> {
        remove_work_folder(self.folder.parent().unwrap_or(&self.folder), &self.id)
    }
}

pub(super) fn remove_work_folder(work: &Path, name: &str) -> Result<(), SandboxError> {
    let parent = tree::open_own_folder(work).map_err(|e| SandboxError::io("open", work, e))?;
    tree::remove(&parent, name).map_err(|e| SandboxError::io("remove the work folder", &work.join(name), e))
}

/// Removes every work folder whose inside belongs to `uid`. The caller holds that uid's slot and has not
/// made a folder yet.
pub(super) fn remove_folders_of(work: &Path, uid: u32) -> Result<(), SandboxError> {
    let parent = tree::open_own_folder(work).map_err(|e| SandboxError::io("open", work, e))?;
    let fail = |e: Errno| SandboxError::io("remove the work folder", work, e);
    let belongs = |name: &std::ffi::CStr| {
        let folder = tree::open_folder_beneath(&parent, name).ok()?;
        ["tree", "home", "sockets"].into_iter().find(|inside| {
            rustix::fs::statat(&folder, *inside, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| s.st_uid == uid)
        })
    };
    for entry in tree::entries(&parent).map_err(fail)? {
        let (name, _) = entry.map_err(fail)?;
        if let (Some(_), Ok(name)) = (belongs(&name), name.to_str()) {
            tree::remove(&parent, name).map_err(fail)?;
        }
    }
    Ok(())
}

fn make_folder(parent: impl AsFd, name: &str, owner: Option<u32>) -> Result<(), Errno> {
    rustix::fs::mkdirat(&parent, name, Mode::RWXU)?;
    give(&parent, name, owner)
}

fn give(parent: impl AsFd, name: &str, owner: Option<u32>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Writes source files into `tree`. Only the platform has written there so far.
pub(super) fn write_files(
    tree: &OwnedFd,
    owner: Option<u32>,
    files: &[(String, Bytes)],
) -> Result<(), SandboxError> {
    files.iter().try_for_each(|(name, content)| {
        path::check(name)?;
        write_file(tree, owner, name, content)
            .map_err(|e| SandboxError::io("write the source file", Path::new(name), e))
    })
}

fn write_file(tree: &OwnedFd, owner: Option<u32>, name: &str, content: &[u8]) -> std::io::Result<()> {
    let (folders, file) = name.rsplit_once('/').map_or((None, name), |(f, n)| (Some(f), n));
    let folder = match folders {
        Some(folders) => make_folders(tree, owner, folders)?,
        None => tree.try_clone()?,
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
    let opened = tree::open_beneath(&folder, file, flags, Mode::from_raw_mode(0o644))?;
    if let Some(owner) = owner {
        rustix::fs::fchown(&opened, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    }
    std::fs::File::from(opened).write_all(content)
}

/// Opens `folders` beneath the tree, making for `owner` what is missing.
pub(super) fn make_folders(tree: &OwnedFd, owner: Option<u32>, folders: &str) -> std::io::Result<OwnedFd> {
    match tree::open_folder_beneath(tree, folders) {
        Ok(folder) => return Ok(folder),
        Err(Errno::NOENT) => {}
        Err(other) => return Err(other.into()),
    }
    let mut at = tree.try_clone()?;
    for name in folders.split('/') {
        match make_folder(&at, name, owner) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other.into()),
        }
        at = tree::open_folder_beneath(&at, name)?;
    }
    Ok(at)
}

/// Whether `name` is a file or folder; a link is neither.
pub(super) fn exists(tree: &OwnedFd, name: &str) -> Result<bool, SandboxError> {
    path::check_directory(name)?;
    let name = if name.is_empty() { "." } else { name };
    match tree::open_beneath(tree, name, OFlags::PATH, Mode::empty()) {
        Ok(opened) => {
            let stat =
                rustix::fs::fstat(&opened).map_err(|e| SandboxError::io("look at", Path::new(name), e))?;
            Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Symlink)
        }
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::ACCESS) => Ok(false),
        Err(other) => Err(SandboxError::io("look at", Path::new(name), other)),
    }
}
