//! Looks at what foreign code left before it is kept: measures it, takes away what no file of a package
//! needs, and refuses what is neither file, folder nor link. Follows no link; nothing may run that could
//! change the tree meanwhile.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::sandbox::tree;

/// Paths are opened whole later, so none may come near the kernel's bound of 4096.
const PATH_BYTES: usize = 3_000;
/// Name of a copy that is about to take its original's place.
const COPY: &str = ".libra-unlinked";

/// How much may be kept, and for whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub bytes: u64,
    pub files: u64,
    /// Whether everybody may write: the tree lies where nobody comes by a path, it will be laid under
    /// work folders of other uids, and what they write goes above it.
    pub open_to_all: bool,
    pub links: Links,
}

/// What becomes of symbolic links and of hard links that lead out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Links {
    /// Packages need them; they mean something in a sandbox only. Hard links are cut by copying.
    Keep,
    /// No cache needs them: the entry goes.
    Drop,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub bytes: u64,
    pub files: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("`{path}` is a {kind}")]
    Special { path: String, kind: &'static str },
    #[error("it is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it has more than {limit} files")]
    TooMany { limit: u64 },
    #[error("a path in it is too long")]
    TooDeep,
    #[error("`{path}` can't be read")]
    Unreadable {
        path: String,
        #[source]
        source: Errno,
    },
}

/// Makes everything beneath `top` fit to be kept.
pub(super) fn harden(top: &OwnedFd, bounds: Bounds) -> Result<Size, Refusal> {
    let mut walk = Walk { bounds, size: Size::default(), linked: HashMap::new() };
    let mut folders = VecDeque::from([PathBuf::from(".")]);
    while let Some(path) = folders.pop_front() {
        let folder = open_folder(top, &path).map_err(unreadable(&path))?;
        walk.folder_mode(&folder).map_err(unreadable(&path))?;
        let entries = tree::entries(&folder).map_err(unreadable(&path))?;
        // Listed whole before anything is changed: entries may go and come.
        let names: Vec<_> = entries.collect::<Result<_, _>>().map_err(unreadable(&path))?;
        for (name, _) in names {
            let at = path.join(os_name(&name));
            if at.as_os_str().len() > PATH_BYTES {
                return Err(Refusal::TooDeep);
            }
            if walk.entry(&folder, &name, &at)? == FileType::Directory {
                folders.push_back(at);
            }
        }
    }
    walk.cut_hard_links(top)?;
    Ok(walk.size)
}

struct Walk {
    bounds: Bounds,
    size: Size,
    /// Files with several names, by inode: how many there are, and those seen.
    linked: HashMap<u64, (u64, Vec<PathBuf>)>,
}

impl Walk {
    fn folder_mode(&self, folder: &OwnedFd) -> Result<(), Errno> {
        let wanted = if self.bounds.open_to_all { 0o777 } else { 0o755 };
        let now = rustix::fs::fstat(folder)?.st_mode & 0o7777;
        if now == wanted { Ok(()) } else { rustix::fs::fchmod(folder, Mode::from_raw_mode(wanted)) }
    }

    fn entry(&mut self, folder: &OwnedFd, name: &CStr, at: &Path) -> Result<FileType, Refusal> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable(at))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let special = match kind {
            FileType::RegularFile | FileType::Directory | FileType::Symlink => None,
            FileType::Fifo => Some("fifo"),
            FileType::Socket => Some("socket"),
            FileType::CharacterDevice | FileType::BlockDevice => Some("device"),
            FileType::Unknown => Some("thing of unknown kind"),
        };
        let dropped = self.bounds.links == Links::Drop
            && (special.is_some()
                || kind == FileType::Symlink
                || (kind == FileType::RegularFile && stat.st_nlink > 1));
        if dropped {
            rustix::fs::unlinkat(folder, name, AtFlags::empty()).map_err(unreadable(at))?;
            return Ok(FileType::Unknown);
        }
        if let Some(kind) = special {
            return Err(Refusal::Special { path: shown(at), kind });
        }
        self.count(&stat, kind, at)?;
        if kind == FileType::RegularFile {
            self.file_mode(folder, name, &stat).map_err(unreadable(at))?;
        }
        Ok(kind)
    }

    fn count(&mut self, stat: &Stat, kind: FileType, at: &Path) -> Result<(), Refusal> {
        self.size.files += 1;
        if self.size.files > self.bounds.files {
            return Err(Refusal::TooMany { limit: self.bounds.files });
        }
        if kind == FileType::RegularFile && stat.st_nlink > 1 {
            let names = &mut self.linked.entry(stat.st_ino).or_insert((stat.st_nlink, Vec::new())).1;
            names.push(at.to_owned());
            if names.len() > 1 {
                return Ok(());
            }
        }
        // The larger of both: a sparse file becomes whole when it is copied.
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        self.add_bytes(blocks.max(u64::try_from(stat.st_size).unwrap_or(0)))
    }

    fn add_bytes(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.size.bytes = self.size.bytes.saturating_add(bytes);
        if self.size.bytes > self.bounds.bytes {
            return Err(Refusal::TooLarge { limit: self.bounds.bytes });
        }
        Ok(())
    }

    /// Neither setuid nor setgid nor sticky is left; what could be executed still can.
    fn file_mode(&self, folder: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
        let now = stat.st_mode & 0o7777;
        let executable = now & 0o111 != 0;
        let wanted = match (self.bounds.open_to_all, executable) {
            (true, true) => 0o777,
            (true, false) => 0o666,
            (false, true) => (now & 0o777) | 0o500,
            (false, false) => (now & 0o777) | 0o400,
        };
        if now == wanted {
            return Ok(());
        }
        // By descriptor: as root a mode must never reach a file that a link leads to.
        let file = open_file(folder, name)?;
        let mode = Mode::from_raw_mode(wanted);
        rustix::fs::fchmod(&file, mode)
    }

    /// A file that also has a name outside could be written to there after it was kept.
    fn cut_hard_links(&mut self, top: &OwnedFd) -> Result<(), Refusal> {
        let outside = |(links, names): &(u64, Vec<PathBuf>)| *links > u64::try_from(names.len()).unwrap_or(0);
        let cut: Vec<_> = std::mem::take(&mut self.linked).into_values().filter(outside).collect();
        for path in cut.into_iter().flat_map(|(_, names)| names) {
            self.replace_by_copy(top, &path)?;
        }
        Ok(())
    }

    fn replace_by_copy(&mut self, top: &OwnedFd, path: &Path) -> Result<(), Refusal> {
        let folder = open_folder(top, path.parent().unwrap_or(Path::new("."))).map_err(unreadable(path))?;
        let name = path.file_name().ok_or(Errno::INVAL).map_err(unreadable(path))?;
        let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable(path))?;
        // Before it is copied: each name becomes a file of its own.
        self.add_bytes(u64::try_from(stat.st_size).unwrap_or(0))?;
        copy_over(&folder, name).map_err(unreadable(path))
    }
}

fn copy_over(folder: &OwnedFd, name: &std::ffi::OsStr) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut from = File::from(tree::open_beneath(folder, name, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&from)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let mut into = File::from(tree::open_beneath(folder, COPY, flags, Mode::from_raw_mode(0o600))?);
    copy_content(&mut from, &mut into).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    // The same owner as the rest, whose processes could already read it.
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&into, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&into, Mode::from_raw_mode(stat.st_mode & 0o777))?;
    rustix::fs::renameat(folder, COPY, folder, name)
}

/// Shares the blocks where the file system can, else copies within the kernel.
pub(super) fn copy_content(from: &mut File, into: &mut File) -> std::io::Result<()> {
    if rustix::fs::ioctl_ficlone(&*into, &*from).is_err() {
        std::io::copy(from, into)?;
    }
    Ok(())
}

fn open_file(folder: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    match tree::open_beneath(&folder, name, flags, Mode::empty()) {
        // An ordinary user's build may have taken the rights to its own file away.
        Err(Errno::ACCESS) if tree::kind(&folder, name)? == FileType::RegularFile => {
            rustix::fs::chmodat(&folder, name, Mode::RUSR, AtFlags::empty())?;
            tree::open_beneath(&folder, name, flags, Mode::empty())
        }
        opened => opened,
    }
}

fn open_folder(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    tree::open_folder_beneath(top, path)
}

fn os_name(name: &CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(".").unwrap_or(path).to_string_lossy().escape_debug().take(200).collect()
}

fn unreadable(path: &Path) -> impl Fn(Errno) -> Refusal {
    let path = shown(path);
    move |source| Refusal::Unreadable { path: path.clone(), source }
}
