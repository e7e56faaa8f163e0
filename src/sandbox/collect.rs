//! Copies a build's output out of the sandbox. The tree is hostile: links to the host's files, FIFOs
//! that block, devices, setuid files, a million names. Only regular files are copied, opened beneath
//! the work folder without following anything, and looked at after the open; nothing is run or trusted.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::SandboxError;
use super::{path, tree};

/// Bounds of what is taken out.
#[derive(Debug, Clone, Copy)]
pub struct CollectLimits {
    pub files: u64,
    pub total_bytes: u64,
    pub file_bytes: u64,
}

/// One copied file; `path` is relative to the collected folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectedFile {
    pub path: String,
    pub size: u64,
}

/// Something in the output that is no regular file and was left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedEntry {
    pub path: String,
    /// `link`, `fifo`, `socket`, `device` or `other`.
    pub kind: &'static str,
}

/// Skipped entries that are remembered; more are only counted out of existence.
const SKIPPED_REMEMBERED: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Collected {
    pub files: Vec<CollectedFile>,
    pub skipped: Vec<SkippedEntry>,
}

/// Copies everything beneath `directory` of `tree` into `into` (made 0700, files 0600).
pub(super) fn collect(
    tree: &OwnedFd,
    directory: &str,
    into: &Path,
    limits: CollectLimits,
) -> Result<Collected, SandboxError> {
    path::check_directory(directory)?;
    let top = open_output(tree, directory)?;
    make_folder(into)?;
    let mut found = Collected::default();
    let mut total = 0_u64;
    let mut entries = 0_u64;
    let mut folders = VecDeque::from([String::new()]);
    while let Some(at) = folders.pop_front() {
        let shown = if at.is_empty() { "." } else { &at };
        let unreadable =
            |source: Errno| SandboxError::OutputUnreadable { path: shown.into(), source: source.into() };
        let folder = tree::open_folder_beneath(&top, shown).map_err(unreadable)?;
        if !at.is_empty() {
            make_folder(&into.join(&at))?;
        }
        for entry in tree::entries(&folder).map_err(unreadable)? {
            let (name, _) = entry.map_err(unreadable)?;
            // Empty folders and skipped entries cost work too, so they count.
            entries += 1;
            if entries > limits.files {
                return Err(SandboxError::TooManyFiles { limit: limits.files });
            }
            let name = name.to_str().map_err(|_| SandboxError::BadPath {
                path: name.to_string_lossy().escape_debug().to_string(),
                why: "is not UTF-8",
            })?;
            let path = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
            path::check(&path)?;
            match copy(&folder, name, &path, into, limits, &mut total)? {
                Entry::File(size) => found.files.push(CollectedFile { path, size }),
                Entry::Folder => folders.push_back(path),
                Entry::Skipped(kind) if found.skipped.len() < SKIPPED_REMEMBERED => {
                    found.skipped.push(SkippedEntry { path, kind });
                }
                Entry::Skipped(_) => {}
            }
        }
    }
    Ok(found)
}

fn open_output(tree: &OwnedFd, directory: &str) -> Result<OwnedFd, SandboxError> {
    let shown = if directory.is_empty() { "." } else { directory };
    tree::open_folder_beneath(tree, shown).map_err(|e| match e {
        Errno::NOENT => SandboxError::NotFound { directory: directory.to_owned() },
        Errno::NOTDIR | Errno::LOOP | Errno::XDEV => {
            SandboxError::NotAFolder { directory: directory.to_owned() }
        }
        other => SandboxError::OutputUnreadable { path: directory.to_owned(), source: other.into() },
    })
}

enum Entry {
    File(u64),
    Folder,
    Skipped(&'static str),
}

fn copy(
    folder: &OwnedFd,
    name: &str,
    path: &str,
    into: &Path,
    limits: CollectLimits,
    total: &mut u64,
) -> Result<Entry, SandboxError> {
    // NONBLOCK: opening a FIFO would otherwise wait for a writer that never comes.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let unreadable =
        |source: Errno| SandboxError::OutputUnreadable { path: path.into(), source: source.into() };
    let opened = match tree::open_beneath(folder, name, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::LOOP) => return Ok(Entry::Skipped("link")),
        // A socket, or a device without a driver behind it.
        Err(Errno::NXIO | Errno::NODEV) => return Ok(Entry::Skipped("socket")),
        Err(other) => return Err(unreadable(other)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(unreadable)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Ok(Entry::Folder),
        FileType::Symlink => return Ok(Entry::Skipped("link")),
        FileType::Fifo => return Ok(Entry::Skipped("fifo")),
        FileType::Socket => return Ok(Entry::Skipped("socket")),
        FileType::CharacterDevice | FileType::BlockDevice => return Ok(Entry::Skipped("device")),
        FileType::Unknown => return Ok(Entry::Skipped("other")),
    }
    let allowed = limits.file_bytes.min(limits.total_bytes.saturating_sub(*total));
    // One byte more than allowed shows that the file is too large, sparse or growing as it may be.
    let mut source = std::fs::File::from(opened).take(allowed.saturating_add(1));
    let target = into.join(path);
    let fail = |e| SandboxError::io("write the collected file", &target, e);
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target).map_err(fail)?;
    let size = std::io::copy(&mut source, &mut file).map_err(fail)?;
    file.flush().map_err(fail)?;
    if size > limits.file_bytes {
        return Err(SandboxError::FileTooLarge { path: path.into(), limit_bytes: limits.file_bytes });
    }
    if size > allowed {
        return Err(SandboxError::OutputTooLarge { limit_bytes: limits.total_bytes });
    }
    *total += size;
    Ok(Entry::File(size))
}

fn make_folder(folder: &Path) -> Result<(), SandboxError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| SandboxError::io("make the folder", folder, e))
}
