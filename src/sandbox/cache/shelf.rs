//! What is kept, on disk: `entries/<organization>/<digest>/{lock,manifest.json,tree}`, made aside in
//! `staging` and renamed into place whole. Owns the locks between all servers on this host, the budget,
//! and the removal of what a killed server left. Never looks into a tree.
//!
//! Who uses an entry holds its `lock` shared, and who removes it holds it alone; making and removing
//! entries happens beneath one lock of the whole shelf, which is held for moments.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::CacheSettings;
use super::name::Name;
use super::snapshot::{Manifest, Snapshot};
use crate::sandbox::error::SandboxError;
use crate::sandbox::{tree, workspace};

const SALT_BYTES: usize = 32;

/// The shelf of one server; others on this host may share its folder.
#[derive(Debug)]
pub(in crate::sandbox) struct Shelf {
    folder: PathBuf,
    pub(super) settings: CacheSettings,
    pub(super) salt: Vec<u8>,
    /// Free space that must stay on the disk.
    reserve_bytes: u64,
    pub(super) method: tokio::sync::OnceCell<super::Method>,
}

/// One entry as the budget sees it.
struct Entry {
    organization: String,
    digest: String,
    bytes: u64,
    used: (i64, i64),
}

/// An entry taken off the shelf, which nobody else can use any more; removed when the locks are let go.
struct Removed {
    name: String,
    _lock: File,
}

impl Shelf {
    pub(in crate::sandbox) fn open(
        root: &Path,
        settings: &CacheSettings,
        reserve_bytes: u64,
    ) -> Result<Self, SandboxError> {
        let folder = root.join("cache");
        workspace::private_folder(root)?;
        for folder in [&folder, &folder.join("entries"), &folder.join("staging")] {
            workspace::private_folder(folder)?;
        }
        let mut shelf = Self {
            folder,
            settings: settings.clone(),
            salt: Vec::new(),
            reserve_bytes,
            method: tokio::sync::OnceCell::new(),
        };
        let held = shelf.alone()?;
        shelf.salt = shelf.read_salt()?;
        drop(held);
        Ok(shelf)
    }

    fn read_salt(&self) -> Result<Vec<u8>, SandboxError> {
        let path = self.folder.join("salt");
        if let Ok(salt) = std::fs::read(&path)
            && salt.len() == SALT_BYTES
        {
            return Ok(salt);
        }
        let mut salt = vec![0; SALT_BYTES];
        let fail = |e: std::io::Error| SandboxError::io("make the salt of the cache", &path, e);
        getrandom::fill(&mut salt).map_err(|e| fail(std::io::Error::other(e)))?;
        std::fs::write(&path, &salt).map_err(fail)?;
        Ok(salt)
    }

    pub(super) fn entries(&self) -> PathBuf {
        self.folder.join("entries")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join("staging")
    }

    /// The lock of the whole shelf, until it is dropped.
    fn alone(&self) -> Result<File, SandboxError> {
        let path = self.folder.join("lock");
        let fail = |e: std::io::Error| SandboxError::io("lock the cache", &path, e);
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(fail)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|e| fail(e.into()))?;
        Ok(lock)
    }

    /// The entry of this name, held so that nobody removes it.
    pub(super) fn find(&self, name: &Name) -> Result<Option<Snapshot>, SandboxError> {
        let path = self.entries().join(&name.organization);
        let fail = |e: Errno| SandboxError::io("look into the cache", &path, e);
        let organization = match tree::open_own_folder(&path) {
            Ok(folder) => folder,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(SandboxError::io("look into the cache", &path, e)),
        };
        let folder = match tree::open_folder_beneath(&organization, name.digest.as_str()) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(other) => return Err(fail(other)),
        };
        let Some(lock) = lock_entry(&folder, FlockOperation::NonBlockingLockShared).map_err(fail)? else {
            return Ok(None);
        };
        // It may have been taken off between the two: then what is held is not what lies there.
        if !is_same(&organization, &name.digest, &folder).map_err(fail)? {
            return Ok(None);
        }
        let Some(manifest) = Manifest::read(&folder) else { return Ok(None) };
        if !manifest.is_whole() {
            return Ok(None);
        }
        // The budget goes by this. A lock file without its new time is only removed earlier.
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        rustix::fs::futimens(&lock, &rustix::fs::Timestamps { last_access: now, last_modification: now })
            .ok();
        let place = path.join(&name.digest);
        Ok(Some(Snapshot { name: name.clone(), folder: place, manifest, lock, private: None }))
    }

    /// An empty entry, aside: it belongs to its maker alone until [`Shelf::put`].
    pub(super) fn stage(&self, name: &Name) -> Result<Snapshot, SandboxError> {
        let held = self.alone()?;
        let (aside, folder) = self.fresh_place();
        workspace::private_folder(&folder.join("tree"))?;
        workspace::private_folder(&folder)?;
        let opened = tree::open_own_folder(&folder).map_err(|e| SandboxError::io("open", &folder, e))?;
        let lock = make_lock(&opened).map_err(|e| SandboxError::io("lock the cache entry", &folder, e))?;
        drop(held);
        Ok(Snapshot { name: name.clone(), folder, manifest: Manifest::default(), lock, private: Some(aside) })
    }

    /// Puts a staged entry on the shelf, making room for it. It stays its maker's own where another one
    /// was faster or the budget has no room; the answer says so.
    pub(super) fn put(&self, staged: &mut Snapshot, manifest: Manifest) -> Result<bool, SandboxError> {
        let fail = |e: std::io::Error| SandboxError::io("keep the cache entry", &staged.folder, e);
        manifest.write(&staged.folder).map_err(fail)?;
        staged.manifest = manifest;
        let held = self.alone()?;
        let (fits, removed) = self.make_room(Some(staged))?;
        let put = fits && self.rename_into_place(staged)?;
        drop(held);
        self.dispose(removed);
        Ok(put)
    }

    fn rename_into_place(&self, staged: &mut Snapshot) -> Result<bool, SandboxError> {
        let Some(aside) = staged.private.clone() else { return Ok(true) };
        let organization = self.entries().join(&staged.name.organization);
        workspace::private_folder(&organization)?;
        let open = |path: &Path| tree::open_own_folder(path).map_err(|e| SandboxError::io("open", path, e));
        let (from, into) = (open(&self.staging())?, open(&organization)?);
        let digest = staged.name.digest.as_str();
        match rustix::fs::renameat_with(&from, aside.as_str(), &into, digest, RenameFlags::NOREPLACE) {
            Ok(()) => {
                staged.folder = organization.join(digest);
                staged.private = None;
                Ok(true)
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(SandboxError::io("keep the cache entry", &staged.folder, e)),
        }
    }

    /// Takes an entry for its holder alone; `None` where somebody else uses it.
    pub(super) fn take(&self, name: &Name) -> Result<Option<Snapshot>, SandboxError> {
        let held = self.alone()?;
        let Some(mut found) = self.find(name)? else { return Ok(None) };
        match rustix::fs::flock(&found.lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(SandboxError::io("lock the cache entry", &found.folder, e)),
        }
        let aside = self.take_off(&name.organization, &name.digest)?;
        drop(held);
        found.folder = self.staging().join(&aside);
        found.private = Some(aside);
        Ok(Some(found))
    }

    /// Within [`Shelf::alone`]: takes the least recently used entries off until all budgets hold, with
    /// `newcomer` counted in. What is in use stays, so that the newcomer may have no room.
    fn make_room(&self, newcomer: Option<&Snapshot>) -> Result<(bool, Vec<Removed>), SandboxError> {
        let mut all = self.list();
        all.sort_by_key(|entry| std::cmp::Reverse(entry.used));
        let mut removed = Vec::new();
        let mut stuck = Vec::new();
        // Known beforehand: what is taken off is removed later, outside of the lock.
        let mut short = if newcomer.is_none() { self.missing_space() } else { 0 };
        loop {
            let over = |mine: &dyn Fn(&Entry) -> bool, organization: Option<&str>, limit: u64| {
                let new = newcomer.filter(|new| organization.is_none_or(|o| o == new.name.organization));
                let kept = all.iter().chain(&stuck).filter(|e| mine(e)).map(|e| e.bytes);
                kept.chain(new.map(|new| new.manifest.bytes)).fold(0_u64, u64::saturating_add) > limit
            };
            let everybody = |_: &Entry| true;
            let count = all.len() + stuck.len() + usize::from(newcomer.is_some());
            let full = u64::try_from(count).unwrap_or(u64::MAX) > self.settings.entries
                || over(&everybody, None, self.settings.total_bytes)
                || short > 0;
            // The organization that is over its share pays for itself first.
            let greedy =
                all.iter().map(|e| &e.organization).chain(newcomer.map(|n| &n.name.organization)).find(
                    |organization| {
                        let mine = |e: &Entry| &e.organization == *organization;
                        over(&mine, Some(organization), self.settings.organization_bytes)
                    },
                );
            let victim = match greedy.cloned() {
                Some(organization) => all.iter().rposition(|entry| entry.organization == organization),
                None if full => all.len().checked_sub(1),
                None => return Ok((true, removed)),
            };
            let Some(victim) = victim else { return Ok((false, removed)) };
            let entry = all.remove(victim);
            match self.remove_unused(&entry)? {
                Some(gone) => {
                    short = short.saturating_sub(entry.bytes);
                    removed.push(gone);
                }
                None => stuck.push(entry),
            }
        }
    }

    /// How many bytes the disk lacks of what builds must leave free.
    fn missing_space(&self) -> u64 {
        rustix::fs::statvfs(&self.folder).map_or(0, |about| {
            self.reserve_bytes.saturating_sub(about.f_bavail.saturating_mul(about.f_frsize))
        })
    }

    fn remove_unused(&self, entry: &Entry) -> Result<Option<Removed>, SandboxError> {
        let path = self.entries().join(&entry.organization).join(&entry.digest);
        let fail = |e: Errno| SandboxError::io("make room in the cache", &path, e);
        let folder =
            tree::open_own_folder(&path).map_err(|e| SandboxError::io("make room in the cache", &path, e))?;
        let Some(lock) = lock_entry(&folder, FlockOperation::NonBlockingLockExclusive).map_err(fail)? else {
            return Ok(None);
        };
        let name = self.take_off(&entry.organization, &entry.digest)?;
        Ok(Some(Removed { name, _lock: lock }))
    }

    /// Moves an entry aside; answers its new name there.
    fn take_off(&self, organization: &str, digest: &str) -> Result<String, SandboxError> {
        let (aside, place) = self.fresh_place();
        let from = self.entries().join(organization).join(digest);
        std::fs::rename(&from, &place).map_err(|e| SandboxError::io("take off the cache", &from, e))?;
        // Stays where it still has entries.
        std::fs::remove_dir(self.entries().join(organization)).ok();
        Ok(aside)
    }

    fn fresh_place(&self) -> (String, PathBuf) {
        let aside = uuid::Uuid::new_v4().simple().to_string();
        let place = self.staging().join(&aside);
        (aside, place)
    }

    fn list(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        for organization in names(&self.entries()) {
            let path = self.entries().join(&organization);
            for digest in names(&path) {
                let Ok(folder) = tree::open_own_folder(&path.join(&digest)) else { continue };
                let bytes = Manifest::read(&folder).map_or(0, |manifest| manifest.bytes);
                // Without a lock nobody can use it, and it goes first.
                let used = rustix::fs::statat(&folder, "lock", AtFlags::SYMLINK_NOFOLLOW)
                    .map_or((0, 0), |s| (s.st_mtime, i64::try_from(s.st_mtime_nsec).unwrap_or(0)));
                all.push(Entry { organization: organization.clone(), digest, bytes, used });
            }
        }
        all
    }

    /// Removes what nobody holds and what the budget has no room for; makes sure that the rest outlives a
    /// power cut. Answers how many folders went.
    pub(in crate::sandbox) fn sweep(&self) -> Result<usize, SandboxError> {
        let held = self.alone()?;
        let mut removed = Vec::new();
        for name in names(&self.staging()) {
            let folder = self.staging().join(&name);
            let Ok(opened) = tree::open_own_folder(&folder) else { continue };
            let lock = match lock_entry(&opened, FlockOperation::NonBlockingLockExclusive) {
                Ok(Some(lock)) => lock,
                Ok(None) => continue,
                // Its maker was killed before it made the lock: both happen beneath the shelf's own lock.
                Err(_) => match make_lock(&opened) {
                    Ok(lock) => lock,
                    Err(_) => continue,
                },
            };
            removed.push(Removed { name, _lock: lock });
        }
        removed.extend(self.make_room(None)?.1);
        drop(held);
        self.sync_young();
        Ok(self.dispose(removed))
    }

    /// A snapshot is believed after a power cut only once its files are known to be on the disk.
    fn sync_young(&self) {
        let young = self.list().into_iter().filter_map(|entry| {
            let folder = self.entries().join(&entry.organization).join(&entry.digest);
            let manifest = tree::open_own_folder(&folder).ok().and_then(|opened| Manifest::read(&opened))?;
            (!manifest.synced && manifest.is_whole()).then_some((folder, manifest))
        });
        let young: Vec<_> = young.collect();
        let all = || tree::open_own_folder(&self.folder).is_ok_and(|f| rustix::fs::syncfs(&f).is_ok());
        if young.is_empty() || !all() {
            return;
        }
        for (folder, manifest) in young {
            // One that was removed meanwhile has no place to write to.
            if let Err(error) = (Manifest { synced: true, ..manifest }).write(&folder) {
                tracing::debug!(error = %error, "a cache entry was not marked as written");
            }
        }
    }

    /// The end of a use: what was its user's alone goes.
    pub(in crate::sandbox) fn let_go(&self, snapshot: Snapshot) {
        if let Some(aside) = &snapshot.private {
            self.remove_staged(aside);
        }
    }

    fn dispose(&self, removed: Vec<Removed>) -> usize {
        removed.into_iter().filter(|gone| self.remove_staged(&gone.name)).count()
    }

    /// Removes a folder of `staging` whose lock the caller holds.
    pub(super) fn remove_staged(&self, name: &str) -> bool {
        let removed = tree::open_own_folder(&self.staging())
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
            .and_then(|staging| tree::remove(&staging, name));
        if let Err(error) = &removed {
            tracing::warn!(error = %error, "a folder of the cache was not removed; the sweep tries again");
        }
        removed.is_ok()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn is_same(parent: &OwnedFd, name: &str, folder: &OwnedFd) -> Result<bool, Errno> {
    let there = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(false),
        Err(other) => return Err(other),
    };
    let held = rustix::fs::fstat(folder)?;
    Ok((there.st_dev, there.st_ino) == (held.st_dev, held.st_ino))
}

/// The entry's lock, or `None` where somebody holds it.
fn lock_entry(folder: &OwnedFd, how: FlockOperation) -> Result<Option<File>, Errno> {
    let lock = File::from(tree::open_beneath(folder, "lock", OFlags::RDWR, Mode::empty())?);
    match rustix::fs::flock(&lock, how) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(other) => Err(other),
    }
}

fn make_lock(folder: &OwnedFd) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE;
    let lock = File::from(tree::open_beneath(folder, "lock", flags, Mode::from_raw_mode(0o600))?);
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)?;
    Ok(lock)
}

#[cfg(test)]
mod tests;
