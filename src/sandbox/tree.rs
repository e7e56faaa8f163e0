//! Walks, measures and removes folders that hostile code filled. Every open goes through `openat2`
//! beneath an open folder, follows no link and crosses no mount; never resolves a path from `/`.

use std::collections::{HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A folder that is emptied while something still writes is given up after so many rounds.
const ROUNDS: usize = 1000;

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV
}

/// Opens `path` beneath `top`; a link anywhere on the way is `ELOOP`, a way out is `EXDEV`.
pub(super) fn open_beneath<P: rustix::path::Arg>(
    top: impl AsFd,
    path: P,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    // The kernel asks for a retry when a rename races with the walk; hostile code could race for ever.
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = path.into_c_str()?;
    for _ in 0..16 {
        match rustix::fs::openat2(&top, &*path, flags, mode, beneath()) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

pub(super) fn open_folder_beneath<P: rustix::path::Arg>(top: impl AsFd, path: P) -> Result<OwnedFd, Errno> {
    open_beneath(top, path, FOLDER, Mode::empty())
}

/// Opens a folder of the server itself, by path.
pub(super) fn open_own_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, FOLDER, Mode::empty())?)
}

/// Entries of a folder without `.` and `..`; `None` as type where the file system does not say.
pub(super) fn entries(
    folder: impl AsFd,
) -> Result<impl Iterator<Item = Result<(CString, FileType), Errno>>, Errno> {
    Ok(Dir::read_from(folder)?.filter_map(|entry| match entry {
        Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => None,
        Ok(entry) => Some(Ok((entry.file_name().to_owned(), entry.file_type()))),
        Err(error) => Some(Err(error)),
    }))
}

/// The type without following a link.
pub(super) fn kind(folder: impl AsFd, name: &CStr) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub bytes: u64,
    pub entries: u64,
    /// A folder could not be looked into, so the figures are too low.
    pub unmeasurable: bool,
}

/// Adds up what lies beneath the folders. Ends early once a bound is passed, so that a hostile tree
/// costs no more than the bound.
pub(super) fn usage(tops: &[OwnedFd], max_bytes: u64, max_entries: u64) -> Result<Usage, Errno> {
    let mut total = Usage::default();
    let mut linked = HashSet::new();
    for top in tops {
        let mut folders: VecDeque<PathBuf> = VecDeque::from([PathBuf::from(".")]);
        while let Some(path) = folders.pop_front() {
            let folder = match open_folder_beneath(top, &path) {
                Ok(folder) => folder,
                // Renamed or removed since it was listed.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(Errno::ACCESS | Errno::NAMETOOLONG | Errno::AGAIN) => {
                    total.unmeasurable = true;
                    continue;
                }
                Err(other) => return Err(other),
            };
            for entry in entries(&folder)? {
                let (name, _) = entry?;
                let stat = match rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(Errno::ACCESS) => {
                        total.unmeasurable = true;
                        continue;
                    }
                    Err(other) => return Err(other),
                };
                total.entries += 1;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    folders.push_back(path.join(os_name(&name)));
                } else if stat.st_nlink > 1 && !linked.insert(stat.st_ino) {
                    continue;
                }
                total.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                if total.bytes > max_bytes || total.entries > max_entries {
                    return Ok(total);
                }
            }
        }
    }
    Ok(total)
}

fn os_name(name: &CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}

/// Removes `name` beneath `parent`, whatever hangs below it. Nothing may run there any more.
///
/// Deep folders are first moved up, so that neither the stack nor the number of open files grows with
/// the nesting that hostile code chose.
pub(super) fn remove(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    match kind(&parent, &CString::new(name).map_err(|_| Errno::INVAL)?) {
        Err(Errno::NOENT) => return Ok(()),
        Err(other) => return Err(other),
        Ok(FileType::Directory) => {}
        Ok(_) => return rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
    }
    let top = open_for_removal(&parent, &CString::new(name).map_err(|_| Errno::INVAL)?)?;
    let mut moved = 0_u64;
    let mut pending: Vec<CString> = Vec::new();
    empty(&top, &top, &mut pending, &mut moved)?;
    while let Some(next) = pending.pop() {
        let folder = open_for_removal(&top, &next)?;
        empty(&top, &folder, &mut pending, &mut moved)?;
        rustix::fs::unlinkat(&top, &*next, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
}

/// Leaves `folder` empty; its sub-folders that are not empty become children of `top`.
fn empty(top: &OwnedFd, folder: &OwnedFd, pending: &mut Vec<CString>, moved: &mut u64) -> Result<(), Errno> {
    let is_top = std::ptr::eq(top, folder);
    for _ in 0..ROUNDS {
        let mut found = false;
        for entry in entries(folder)? {
            let (name, _) = entry?;
            if is_top && pending.contains(&name) {
                continue;
            }
            found = true;
            match kind(folder, &name) {
                Err(Errno::NOENT) => {}
                Err(other) => return Err(other),
                Ok(FileType::Directory) => match rustix::fs::unlinkat(folder, &*name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {
                        // Moving a folder needs the right to write into it.
                        drop(open_for_removal(folder, &name)?);
                        let target = free_name(top, moved)?;
                        rustix::fs::renameat(folder, &*name, top, &*target)?;
                        pending.push(target);
                    }
                    Err(other) => return Err(other),
                },
                Ok(_) => match rustix::fs::unlinkat(folder, &*name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(other) => return Err(other),
                },
            }
        }
        if !found {
            return Ok(());
        }
    }
    Err(Errno::NOTEMPTY)
}

/// A name that is not taken: hostile code may have guessed the scheme.
fn free_name(top: &OwnedFd, moved: &mut u64) -> Result<CString, Errno> {
    loop {
        *moved += 1;
        let name = CString::new(format!(".removing-{moved}")).map_err(|_| Errno::INVAL)?;
        if kind(top, &name) == Err(Errno::NOENT) {
            return Ok(name);
        }
    }
}

fn open_for_removal(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let open = || rustix::fs::openat(&parent, name, FOLDER, Mode::empty());
    if !rustix::process::geteuid().is_root() {
        // Not root: a build may have taken its own folders' rights away. Nothing runs there any more,
        // so the name that was a folder a moment ago still is.
        if kind(&parent, name)? == FileType::Directory {
            rustix::fs::chmodat(&parent, name, Mode::RWXU, AtFlags::empty())?;
        }
    }
    open()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_are_not_followed_and_deep_trees_go_away() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("kept"), "x").unwrap();
        let home = tempfile::tempdir().unwrap();
        let top = home.path().join("work");
        std::fs::create_dir(&top).unwrap();
        symlink(outside.path(), top.join("way-out")).unwrap();
        std::fs::create_dir(top.join(".removing-1")).unwrap();
        std::fs::write(top.join(".removing-1/x"), "x").unwrap();
        // Deeper than a path can name.
        let mut folder = open_own_folder(&top).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&folder, "deep", Mode::RWXU).unwrap();
            folder = open_folder_beneath(&folder, "deep").unwrap();
        }
        let locked = top.join("locked");
        std::fs::create_dir(&locked).unwrap();
        std::fs::create_dir(locked.join("full")).unwrap();
        std::fs::write(locked.join("full/x"), "x").unwrap();
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();

        let opened = open_own_folder(&top).unwrap();
        assert!(usage(&[opened], u64::MAX, u64::MAX).unwrap().unmeasurable);
        let through = |path: &str| open_folder_beneath(open_own_folder(&top).unwrap(), path).unwrap_err();
        assert_eq!((through("way-out"), through("way-out/.")), (Errno::NOTDIR, Errno::LOOP));
        assert_eq!(through(".."), Errno::XDEV);
        remove(open_own_folder(home.path()).unwrap(), "work").unwrap();
        assert!(!top.exists());
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn hard_links_count_once_and_the_walk_ends_at_its_bound() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("a"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(home.path().join("a"), home.path().join("b")).unwrap();
        let open = || open_own_folder(home.path()).unwrap();
        let all = usage(&[open()], u64::MAX, u64::MAX).unwrap();
        assert_eq!(all.entries, 2);
        assert!((100_000..200_000).contains(&all.bytes), "{all:?}");
        assert_eq!(usage(&[open()], u64::MAX, 0).unwrap().entries, 1);
    }
}
