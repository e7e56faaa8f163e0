//! Build slots: a host-wide lock for each, so that two servers on one host never share a uid, a cgroup
//! or a work folder. The lock file names the work folder that its holder uses. Makes no folder of a
//! build and starts nothing.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::error::SandboxError;

/// The locks of this host, or of this user where the server is not root.
#[derive(Debug, Clone)]
pub(super) struct SlotLocks {
    folder: PathBuf,
    count: u32,
    /// First dedicated uid when started as root.
    uid_base: Option<u32>,
}

/// A held slot; dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    /// Also the name of the slot's cgroup.
    pub name: String,
    /// The slot's own host uid; `None` means the caller's.
    pub uid: Option<u32>,
    lock: File,
}

impl SlotLocks {
    pub(super) fn open(folder: &str, count: u32, uid_base: u32) -> Result<Self, SandboxError> {
        let me = rustix::process::geteuid();
        let folder = match (folder, me.is_root()) {
            ("", true) => PathBuf::from("/run/libra/slots"),
            ("", false) => PathBuf::from(format!("/tmp/libra-{}/slots", me.as_raw())),
            (set, _) => PathBuf::from(set),
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(|e| SandboxError::io("make the folder of slot locks", &folder, e))?;
        for checked in [folder.as_path(), folder.parent().unwrap_or(&folder)] {
            check_own(checked, me.as_raw(), checked == folder)?;
        }
        if me.is_root() {
            refuse_used_uids(uid_base, count)?;
        }
        Ok(Self { folder, count, uid_base: me.is_root().then_some(uid_base) })
    }

    /// The slots that builds share.
    pub(super) fn for_builds(&self) -> Range<u32> {
        0..self.count
    }

    /// The slot kept for trials, so that a health check never waits for a build.
    pub(super) fn for_trials(&self) -> Range<u32> {
        self.count..self.count + 1
    }

    /// Takes this slot if it is free.
    pub(super) fn try_take(&self, index: u32, id: &str) -> Result<Option<Slot>, SandboxError> {
        let uid = self.uid_base.map(|base| base + index);
        let name = uid.map_or_else(
            || format!("user-{}-slot-{index}", rustix::process::geteuid().as_raw()),
            |uid| format!("slot-{uid}"),
        );
        self.lock(name, uid, id)
    }

    fn lock(&self, name: String, uid: Option<u32>, id: &str) -> Result<Option<Slot>, SandboxError> {
        let path = self.folder.join(&name);
        let fail = |e: std::io::Error| SandboxError::io("lock the build slot", &path, e);
        let mut lock = open_lock(&path).map_err(fail)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(other) => return Err(fail(other.into())),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(id.as_bytes()))
            .map_err(fail)?;
        Ok(Some(Slot { name, uid, lock }))
    }

    /// Every slot that has ever been used here: free ones are taken, and of those that somebody holds
    /// the id of the work folder is given. Lists also what servers with more slots use.
    pub(super) fn inspect(&self) -> Result<(Vec<Slot>, Vec<String>), SandboxError> {
        let (mut free, mut held) = (Vec::new(), Vec::new());
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|e| SandboxError::io("list the slot locks", &self.folder, e))?;
        for entry in entries.filter_map(Result::ok) {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let uid = name.strip_prefix("slot-").and_then(|uid| uid.parse::<u32>().ok());
            if uid == Some(0) {
                continue;
            }
            // A uid of another server's range is that server's to clean.
            let ours =
                uid.zip(self.uid_base).is_none_or(|(uid, base)| (base..=base + self.count).contains(&uid));
            match self.lock(name, uid.filter(|_| self.uid_base.is_some()), "")? {
                Some(slot) if ours => free.push(slot),
                Some(_) => {}
                None => held.extend(read_id(&entry.path())),
            }
        }
        Ok((free, held))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Closing the file would free the slot too, but not while a child that is just being spawned
        // still has its copy.
        rustix::fs::flock(&self.lock, FlockOperation::Unlock).ok();
    }
}

/// Everything of a slot's uid is killed before the slot is used, so it must be nobody's.
fn refuse_used_uids(base: u32, count: u32) -> Result<(), SandboxError> {
    let used = (base..=base.saturating_add(count)).find_map(|uid| {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten()?;
        Some((uid, user.name))
    });
    match used {
        None if base > 0 => Ok(()),
        None => Err(SandboxError::IsolationMissing { missing: "sandbox.slot_uid_base must not be 0".into() }),
        Some((uid, name)) => Err(SandboxError::IsolationMissing {
            missing: format!(
                "uid {uid} of a build slot belongs to `{name}`; set sandbox.slot_uid_base elsewhere"
            ),
        }),
    }
}

fn open_lock(path: &Path) -> std::io::Result<File> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)
}

fn read_id(path: &Path) -> Option<String> {
    let mut id = String::new();
    open_lock(path).ok()?.take(256).read_to_string(&mut id).ok()?;
    Some(id)
}

/// Somebody else who owns the folder could take or fake every lock.
fn check_own(folder: &Path, me: u32, innermost: bool) -> Result<(), SandboxError> {
    let stat = std::fs::symlink_metadata(folder)
        .map_err(|e| SandboxError::io("look at the folder of slot locks", folder, e))?;
    let owner = stat.uid() == me || (!innermost && stat.uid() == 0);
    let shared = stat.mode() & 0o022 != 0 && (innermost || stat.mode() & 0o1000 == 0);
    if stat.is_dir() && owner && !shared {
        return Ok(());
    }
    Err(SandboxError::IsolationMissing {
        missing: format!(
            "{} belongs to somebody else or is open to others; remove it or set sandbox.lock_directory",
            folder.display()
        ),
    })
}
