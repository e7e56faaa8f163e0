//! Copies a snapshot into a work folder, where overlayfs can't be had. The snapshot was written by
//! foreign code: links are copied as links and never followed.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::harden::copy_content;
use crate::sandbox::tree;

/// Copies all beneath `from` into `into`, which may have folders of the same names. Everything copied
/// belongs to `owner` where one is named.
pub(super) fn copy_into(from: &OwnedFd, into: &OwnedFd, owner: Option<u32>) -> Result<(), Errno> {
    let mut folders = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = folders.pop_front() {
        let source = tree::open_folder_beneath(from, &path)?;
        let target = tree::open_folder_beneath(into, &path)?;
        for entry in tree::entries(&source)? {
            let (name, _) = entry?;
            let stat = rustix::fs::statat(&source, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    match rustix::fs::mkdirat(&target, &*name, Mode::RWXU) {
                        Ok(()) => {
                            // Once, and only for what is new: a folder of the source keeps its own.
                            let made = tree::open_folder_beneath(&target, &*name)?;
                            rustix::fs::fchmod(&made, mode)?;
                            give(&target, &name, owner)?;
                        }
                        // What the source has wins, as it does above a snapshot that is laid under it.
                        Err(Errno::EXIST) if tree::kind(&target, &name)? != FileType::Directory => continue,
                        Err(Errno::EXIST) => {}
                        Err(other) => return Err(other),
                    }
                    folders.push_back(path.join(file_name(&name)));
                }
                FileType::Symlink => {
                    let leads = rustix::fs::readlinkat(&source, &*name, Vec::new())?;
                    made(rustix::fs::symlinkat(&*leads, &target, &*name), &target, &name, owner)?;
                }
                FileType::RegularFile => {
                    made(copy_file(&source, &target, &name, mode), &target, &name, owner)?;
                }
                _ => return Err(Errno::INVAL),
            }
        }
    }
    Ok(())
}

fn made(done: Result<(), Errno>, folder: &OwnedFd, name: &CStr, owner: Option<u32>) -> Result<(), Errno> {
    match done {
        Ok(()) => give(folder, name, owner),
        Err(Errno::EXIST) => Ok(()),
        Err(other) => Err(other),
    }
}

fn copy_file(source: &OwnedFd, target: &OwnedFd, name: &CStr, mode: Mode) -> Result<(), Errno> {
    let mut from = File::from(tree::open_beneath(source, name, OFlags::RDONLY, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut into = File::from(tree::open_beneath(target, name, flags, Mode::RUSR | Mode::WUSR)?);
    copy_content(&mut from, &mut into).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    rustix::fs::fchmod(&into, mode)
}

/// Gives everything beneath `top` to `owner`; of a link the link itself.
pub(super) fn give_all(top: &OwnedFd, path: &Path, owner: Option<u32>) -> Result<(), Errno> {
    if owner.is_none() {
        return Ok(());
    }
    let mut folders = VecDeque::from([path.to_owned()]);
    while let Some(path) = folders.pop_front() {
        let folder = tree::open_folder_beneath(top, &path)?;
        for entry in tree::entries(&folder)? {
            let (name, _) = entry?;
            give(&folder, &name, owner)?;
            if tree::kind(&folder, &name)? == FileType::Directory {
                folders.push_back(path.join(file_name(&name)));
            }
        }
    }
    Ok(())
}

pub(super) fn give(folder: &OwnedFd, name: &CStr, owner: Option<u32>) -> Result<(), Errno> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn file_name(name: &CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}
