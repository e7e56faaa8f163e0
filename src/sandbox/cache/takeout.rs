//! Moves what an install added out of a work folder, and back where it is not kept. By renaming, so that
//! nothing is copied and nothing can be half there; nothing may run in the work folder meanwhile.

use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::DependencyOrder;
use crate::sandbox::tree;

/// An install adds a handful of folders; one that strews files is not kept.
const MOST: usize = 1_000;

/// Why there is nothing to keep.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    #[error("the install added nothing")]
    Nothing,
    #[error("the install changed `{0}`")]
    Changed(String),
    #[error("the install removed files of the source")]
    Missing,
    #[error("the install added more than {MOST} things beside the source")]
    Strewn,
    #[error("the work folder can't be read")]
    Unreadable(#[source] Errno),
    #[error("`{0}` can't be moved")]
    Unmovable(String, #[source] Errno),
}

/// What was moved, for the way back.
pub(super) struct Taken(Vec<PathBuf>);

/// Topmost files and folders that the source does not have.
pub(super) fn added(
    top: &OwnedFd,
    order: &DependencyOrder,
    begun: SystemTime,
) -> Result<Vec<PathBuf>, NotTaken> {
    let files: HashSet<&Path> = order.source.iter().map(Path::new).collect();
    let parents = files.iter().flat_map(|file| file.ancestors().skip(1));
    let folders: HashSet<&Path> = parents.filter(|p| !p.as_os_str().is_empty()).collect();
    let (mut added, mut seen) = (Vec::new(), 0);
    let mut waiting = vec![PathBuf::new()];
    while let Some(at) = waiting.pop() {
        let shown = if at.as_os_str().is_empty() { Path::new(".") } else { &at };
        let folder = tree::open_folder_beneath(top, shown).map_err(NotTaken::Unreadable)?;
        for entry in tree::entries(&folder).map_err(NotTaken::Unreadable)? {
            let (name, _) = entry.map_err(NotTaken::Unreadable)?;
            let path = at.join(os_name(&name));
            let stat = rustix::fs::statat(&folder, &*name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(NotTaken::Unreadable)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if files.contains(&*path) {
                seen += 1;
                let same = kind == FileType::RegularFile && changed_at(&stat) < begun;
                let lockfile =
                    order.lockfile_may_change.as_deref().is_some_and(|name| path == Path::new(name));
                let allowed = order.source_may_change || (lockfile && kind == FileType::RegularFile);
                if !same && !allowed {
                    return Err(NotTaken::Changed(path.display().to_string()));
                }
            } else if folders.contains(&*path) {
                if kind != FileType::Directory {
                    return Err(NotTaken::Changed(path.display().to_string()));
                }
                waiting.push(path);
            } else {
                added.push(path);
                if added.len() > MOST {
                    return Err(NotTaken::Strewn);
                }
            }
        }
    }
    if seen < files.len() && !order.source_may_change {
        return Err(NotTaken::Missing);
    }
    if added.is_empty() { Err(NotTaken::Nothing) } else { Ok(added) }
}

/// The time that no program can set.
fn changed_at(stat: &Stat) -> SystemTime {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

/// Moves `paths` from `top` to the same places beneath `into`; on trouble everything goes back.
pub(super) fn take_out(
    top: &OwnedFd,
    into: &OwnedFd,
    paths: Vec<PathBuf>,
) -> Result<Result<Taken, NotTaken>, Errno> {
    let mut taken = Taken(Vec::with_capacity(paths.len()));
    for path in paths {
        match rename(top, into, &path) {
            Ok(()) => taken.0.push(path),
            Err(error) => {
                taken.put_back(top, into)?;
                return Ok(Err(NotTaken::Unmovable(path.display().to_string(), error)));
            }
        }
    }
    Ok(Ok(taken))
}

impl Taken {
    pub(super) fn put_back(self, top: &OwnedFd, from: &OwnedFd) -> Result<(), Errno> {
        self.0.iter().try_for_each(|path| rename(from, top, path))
    }
}

fn rename(from: &OwnedFd, into: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let source = tree::open_folder_beneath(from, parent)?;
    let target = make_folders(into, parent)?;
    rustix::fs::renameat_with(&source, name, &target, name, RenameFlags::NOREPLACE)
}

fn make_folders(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let mut at = tree::open_folder_beneath(top, ".")?;
    for name in path.iter().filter(|name| *name != ".") {
        match rustix::fs::mkdirat(&at, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(other) => return Err(other),
        }
        at = tree::open_folder_beneath(&at, name)?;
    }
    Ok(at)
}

fn os_name(name: &CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}
