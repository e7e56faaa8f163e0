//! The folder of installed tools: each is put together aside and renamed into place whole, so that what
//! has its name is complete. Servers may share the folder: a lock file makes one of them install, and a
//! lock on the tool's own folder keeps it from being removed while a build uses it.
//!
//! `<root>/<tool>-<version>/`, `<root>/.staging/<random>/`, `<root>/.locks/<number>`.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::{ToolError, disk};
use super::unpack::Digests;

/// Installations of different tools rarely share one; a fixed number keeps strangers' versions from
/// leaving a file each.
const LOCKS: u64 = 16;
/// Between two tries to get a lock of another server.
const LOOK: Duration = Duration::from_millis(50);
/// What an installation notes about a tool, in its folder; its time is that of the last use.
const NOTE: &str = "tool.json";
/// How exact the time of last use is.
const USE_IS_NOTED: Duration = Duration::from_secs(600);

pub(super) struct Store {
    root: PathBuf,
    kept: usize,
}

/// What is known of an installed tool.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Note {
    pub version: String,
    /// Of the tarball, and of its program where that is one file.
    pub tarball: Digests,
    pub program: Option<Digests>,
    /// What its package.json says of Node.
    pub needs_node: Option<String>,
}

/// A tool in use: as long as this lives nobody removes it.
#[derive(Debug)]
pub(super) struct Lease {
    pub folder: PathBuf,
    pub note: Note,
    _held: Flock<File>,
}

/// A folder in which a tool is put together; removed unless it is put in place.
pub(super) struct Staging {
    pub folder: PathBuf,
    _held: Flock<File>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already where it was put in place; the next installation tries again otherwise.
        drop(fs::remove_dir_all(&self.folder));
    }
}

impl Store {
    /// The first of the folders that can be written.
    pub(super) fn open(candidates: &[PathBuf], kept: usize) -> Result<Self, ToolError> {
        let mut refused = io::Error::from(io::ErrorKind::NotFound);
        for root in candidates {
            match prepare(root) {
                Ok(()) => return Ok(Self { root: root.clone(), kept }),
                Err(e) => refused = e,
            }
        }
        Err(disk("make a place")(refused))
    }

    /// The tool if it is there, marked as in use.
    pub(super) fn find(&self, name: &str) -> Result<Option<Lease>, ToolError> {
        let folder = self.root.join(name);
        // A second look when it was replaced between opening and locking; it can't go on for ever.
        for _ in 0..8 {
            let opened = match File::open(&folder) {
                Ok(opened) => opened,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(disk("open a tool")(e)),
            };
            let held = Flock::lock(opened, FlockArg::LockShared).map_err(|(_, e)| disk("hold a tool")(e))?;
            let same = |now: fs::Metadata| held.metadata().is_ok_and(|held| held.ino() == now.ino());
            if !fs::metadata(&folder).is_ok_and(same) {
                continue;
            }
            let text = fs::read(folder.join(NOTE)).map_err(disk("read a tool's note"))?;
            let note =
                serde_json::from_slice(&text).map_err(|e| disk("read a tool's note")(io::Error::from(e)))?;
            self.touch(&folder);
            return Ok(Some(Lease { folder, note, _held: held }));
        }
        Ok(None)
    }

    /// Another user's folder may not let us, and then its owner notes the use.
    fn touch(&self, folder: &Path) {
        let Ok(note) = File::open(folder.join(NOTE)) else { return };
        let age = note.metadata().and_then(|about| about.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > USE_IS_NOTED) {
            drop(note.set_modified(SystemTime::now()));
        }
    }

    /// Waits until nobody else installs this tool.
    pub(super) async fn lock(&self, name: &str) -> Result<Flock<File>, ToolError> {
        let mut hasher = std::hash::DefaultHasher::new();
        name.hash(&mut hasher);
        let path = self.root.join(".locks").join((hasher.finish() % LOCKS).to_string());
        let mut file = File::options().create(true).append(true).open(path).map_err(disk("open a lock"))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(held),
                Err((back, Errno::EWOULDBLOCK | Errno::EINTR)) => file = back,
                Err((_, e)) => return Err(disk("take a lock")(e)),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A fresh folder, after what killed servers left was removed.
    pub(super) fn stage(&self) -> Result<Staging, ToolError> {
        let all = self.root.join(".staging");
        // A folder that was made and is not held yet must not be taken for a leftover.
        let alone = File::options().create(true).append(true).open(self.root.join(".locks/staging"));
        let alone = alone.map_err(disk("open a lock"))?;
        let _alone = Flock::lock(alone, FlockArg::LockExclusive).map_err(|(_, e)| disk("take a lock")(e))?;
        for left in list(&all) {
            if let Some(_held) = exclusively(&left)
                && let Err(error) = fs::remove_dir_all(&left)
            {
                tracing::warn!(error = %error, "half a tool was not removed");
            }
        }
        let folder = all.join(uuid::Uuid::new_v4().simple().to_string());
        folder_for_all(&folder).map_err(disk("make a folder"))?;
        let opened = File::open(&folder).map_err(disk("open a folder"))?;
        let held = Flock::lock(opened, FlockArg::LockShared).map_err(|(_, e)| disk("hold a folder")(e))?;
        Ok(Staging { folder, _held: held })
    }

    /// Puts a whole tool in place. The caller holds the tool's lock.
    pub(super) fn place(&self, staging: Staging, name: &str, note: &Note) -> Result<(), ToolError> {
        let text = serde_json::to_vec(note).map_err(|e| disk("write a tool's note")(io::Error::from(e)))?;
        fs::write(staging.folder.join(NOTE), text).map_err(disk("write a tool's note"))?;
        // On disk before it has its name: a name without content would be trusted after a power cut.
        let opened = File::open(&staging.folder).map_err(disk("open a folder"))?;
        rustix::fs::syncfs(&opened).map_err(disk("write to disk"))?;
        fs::rename(&staging.folder, self.root.join(name)).map_err(disk("put a tool in place"))
    }

    /// Removes the longest unused tools that `pinned` does not name, until as many are left as are kept.
    pub(super) fn evict(&self, pinned: &dyn Fn(&str) -> bool) {
        let used = |folder: &PathBuf| fs::metadata(folder.join(NOTE)).and_then(|note| note.modified()).ok();
        let extra =
            |folder: &PathBuf| folder.file_name().and_then(|n| n.to_str()).is_some_and(|n| !pinned(n));
        let mut extras: Vec<(SystemTime, PathBuf)> =
            list(&self.root).into_iter().filter(extra).filter_map(|f| Some((used(&f)?, f))).collect();
        extras.sort();
        let surplus = extras.len().saturating_sub(self.kept);
        // One in use is passed over, and goes another time.
        for (_, folder) in extras.into_iter().take(surplus) {
            let Some(_held) = exclusively(&folder) else { continue };
            let aside = self.root.join(".staging").join(uuid::Uuid::new_v4().simple().to_string());
            let removed = fs::rename(&folder, &aside).and_then(|()| fs::remove_dir_all(&aside));
            if let Err(error) = removed {
                tracing::warn!(error = %error, "an unused tool was not removed");
            }
        }
    }
}

/// The folder locked, if nobody holds it.
fn exclusively(folder: &Path) -> Option<Flock<File>> {
    Flock::lock(File::open(folder).ok()?, FlockArg::LockExclusiveNonblock).ok()
}

fn prepare(root: &Path) -> io::Result<()> {
    folder_for_all(root)?;
    folder_for_all(&root.join(".locks"))?;
    folder_for_all(&root.join(".staging"))?;
    // It may be there and belong to somebody else.
    let probe = root.join(".staging").join(uuid::Uuid::new_v4().simple().to_string());
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}

fn folder_for_all(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    // Builds run under another user, whatever this process's umask is.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

/// Folders that are no business of ours alone: hidden ones are left out.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let shown = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    shown.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note { version: "1".into(), tarball: Digests::new(), program: None, needs_node: None }
    }

    fn put(store: &Store, name: &str, used_seconds: u64) {
        let staging = store.stage().unwrap();
        fs::write(staging.folder.join("program"), name).unwrap();
        store.place(staging, name, &note()).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(used_seconds);
        File::open(store.root.join(name).join(NOTE)).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn the_longest_unused_go_and_what_is_pinned_or_in_use_stays() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&[home.path().join("tools")], 1).unwrap();
        for (age, name) in ["used", "old", "pinned", "new"].into_iter().enumerate() {
            put(&store, name, 1000 + age as u64);
        }
        let lease = store.find("used").unwrap().unwrap();
        // Finding it noted the use; it is made the oldest again.
        let at = SystemTime::UNIX_EPOCH;
        File::open(lease.folder.join(NOTE)).unwrap().set_modified(at).unwrap();
        store.evict(&|name| name == "pinned");
        let left = |name| store.find(name).unwrap().is_some();
        assert!(left("used") && !left("old") && left("pinned") && left("new"));
        File::open(lease.folder.join(NOTE)).unwrap().set_modified(at).unwrap();
        drop(lease);
        store.evict(&|name| name == "pinned");
        assert!(store.find("used").unwrap().is_none());
    }

    #[test]
    fn half_a_tool_of_a_killed_server_is_removed_and_that_of_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&[home.path().join("tools")], 1).unwrap();
        let live = store.stage().unwrap();
        let dead = store.root.join(".staging/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("half"), "x").unwrap();
        let next = store.stage().unwrap();
        assert!(live.folder.exists() && next.folder.exists() && !dead.exists());
        let folder = next.folder.clone();
        drop(next);
        assert!(!folder.exists() && store.find("dead").unwrap().is_none());
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_passed_over() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        let (bad, good) = (home.path().join("file/tools"), home.path().join("good"));
        let store = Store::open(&[bad.clone(), good.clone()], 1).unwrap();
        assert_eq!(store.root, good);
        assert!(Store::open(&[bad], 1).is_err());
    }

    #[tokio::test]
    async fn a_tool_is_installed_by_one_at_a_time() {
        let home = tempfile::tempdir().unwrap();
        let stores = [(); 2].map(|()| Store::open(&[home.path().join("tools")], 1).unwrap());
        let held = stores[0].lock("a").await.unwrap();
        let waiting = stores[1].lock("a");
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        waiting.await.unwrap();
    }
}
