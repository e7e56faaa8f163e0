//! The caches that frameworks keep in a project's folder. They belong to one target of one project: a
//! preview must not write what production reads. They are tenant's input, so only plain files and folders
//! are kept, and a cache is taken off the shelf when it is used: one that breaks a build is gone with it.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;

use super::harden::{self, Bounds, Links};
use super::shelf::Shelf;
use super::snapshot::Manifest;
use super::{FrameworkCaches, FrameworkOrder, copy, name};
use crate::sandbox::error::SandboxError;
use crate::sandbox::{path, tree, workspace};

/// Relative to where the build runs. Folders that a build could not do without are no caches: they would
/// hide a project that does not build from scratch.
const FOLDERS: &[&str] = &[
    ".next/cache",
    ".astro",
    "node_modules/.astro",
    "node_modules/.vite",
    // Babel, Terser, ESLint, Nuxt and whoever else asks for «the cache folder».
    "node_modules/.cache",
    ".angular/cache",
    ".parcel-cache",
    ".vitepress/cache",
];

/// Moves what is kept into the work folder; it is not kept any more then.
pub(super) fn take(
    shelf: &Shelf,
    order: &FrameworkOrder,
    top: &OwnedFd,
    owner: Option<u32>,
) -> Result<FrameworkCaches, SandboxError> {
    path::check_directory(&order.directory)?;
    let Some(kept) = shelf.take(&name::of_framework(&shelf.salt, order)?)? else {
        return Ok(FrameworkCaches::default());
    };
    let mut found = FrameworkCaches { bytes: kept.manifest.bytes, ..FrameworkCaches::default() };
    let from = tree::open_own_folder(&kept.tree())
        .map_err(|e| SandboxError::io("open the framework caches", &kept.folder, e))?;
    for (index, folder) in kept.manifest.folders.iter().enumerate() {
        // Only what is known here, whatever the manifest says.
        if !FOLDERS.contains(&folder.as_str()) {
            continue;
        }
        match put_into(&from, &index.to_string(), top, &join(&order.directory, folder), owner) {
            Ok(()) => found.folders.push(folder.clone()),
            // The source has such a folder itself.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::LOOP) => {}
            Err(e) => return Err(SandboxError::io("put the framework caches into", &kept.folder, e)),
        }
    }
    if let Some(aside) = &kept.private {
        shelf.remove_staged(aside);
    }
    Ok(found)
}

fn put_into(from: &OwnedFd, index: &str, top: &OwnedFd, path: &str, owner: Option<u32>) -> Result<(), Errno> {
    copy::give_all(from, Path::new(index), owner)?;
    let own = std::ffi::CString::new(index).map_err(|_| Errno::INVAL)?;
    copy::give(from, &own, owner)?;
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let target = workspace::make_folders(top, owner, parent)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    rustix::fs::renameat_with(from, index, &target, name, RenameFlags::NOREPLACE)
}

/// Moves the caches out of the work folder, which nobody uses any more, and keeps them.
pub(super) fn keep(
    shelf: &Shelf,
    order: &FrameworkOrder,
    top: &OwnedFd,
) -> Result<FrameworkCaches, SandboxError> {
    path::check_directory(&order.directory)?;
    let name = name::of_framework(&shelf.salt, order)?;
    let mut staged = shelf.stage(&name)?;
    let into = tree::open_own_folder(&staged.tree())
        .map_err(|e| SandboxError::io("keep the framework caches in", &staged.folder, e))?;
    let mut folders: Vec<String> = Vec::new();
    for folder in FOLDERS {
        if move_out(top, &join(&order.directory, folder), &into, &folders.len().to_string()).is_ok() {
            folders.push((*folder).to_owned());
        }
    }
    let bounds = Bounds {
        bytes: shelf.settings.framework_bytes,
        files: shelf.settings.framework_files,
        open_to_all: false,
        links: Links::Drop,
    };
    let mut kept = FrameworkCaches::default();
    if !folders.is_empty() {
        match harden::harden(&into, bounds) {
            Ok(size) => {
                // An older one, of a build that ended while this one ran.
                if let Some(older) = shelf.take(&name)?
                    && let Some(aside) = &older.private
                {
                    shelf.remove_staged(aside);
                }
                if shelf.put(&mut staged, Manifest::new(size, folders.clone()))? {
                    kept = FrameworkCaches { folders, bytes: size.bytes, refused: None };
                } else {
                    kept.refused = Some("the cache has no room for it".into());
                }
            }
            Err(refusal) => kept.refused = Some(refusal.to_string()),
        }
    }
    if let Some(aside) = &staged.private {
        shelf.remove_staged(aside);
    }
    Ok(kept)
}

/// A link in place of the folder, or on the way to it, is no cache.
fn move_out(top: &OwnedFd, path: &str, into: &OwnedFd, index: &str) -> Result<(), Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
    let parent = tree::open_folder_beneath(top, parent)?;
    let own = std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?;
    if tree::kind(&parent, &own)? != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    rustix::fs::renameat_with(&parent, name, into, index, RenameFlags::NOREPLACE)
}

fn join(directory: &str, folder: &str) -> String {
    match directory.trim_end_matches('/') {
        "" | "." => folder.to_owned(),
        directory => format!("{directory}/{folder}"),
    }
}
