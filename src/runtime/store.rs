//! Owns the edge's local disk: one folder per version with its manifest and its pack, complete or absent.
//! Never fetches anything by itself, and never serves a version whose bytes were not checked when it was installed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::runtime::manifest::{Manifest, ManifestError};
use crate::runtime::site::SiteVersion;
use crate::runtime::site_rules::{self, SiteRules};

pub const PACK_FILE: &str = "pack";
const MANIFEST_FILE: &str = "manifest.json";
const TEMP_PREFIX: &str = ".tmp-";
/// A temporary folder older than this belongs to a process that died; no install lasts that long.
const TEMP_LEFTOVER: Duration = Duration::from_secs(60 * 60);
const COPY_BYTES: usize = 256 * 1024;

/// The id of a version: a UUID in simple form or a digest, so it is also a safe folder name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VersionId(Box<str>);

/// Where an install takes the pack from.
pub enum PackSource {
    Path(PathBuf),
    Reader(Box<dyn AsyncRead + Send + Unpin>),
}

/// By version and Worker.
type Opened = HashMap<(VersionId, Arc<str>), Weak<SiteVersion>>;

/// The versions on this machine's disk; several processes may share the folder.
#[derive(Debug)]
pub struct VersionStore {
    folder: PathBuf,
    /// One load per version, so that its live and its preview address share memory and cached bytes.
    opened: Mutex<Opened>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("'{0}' is no version id: 8 to 64 lower-case hex digits")]
    Id(String),
    #[error("version {id} is not on this machine")]
    Missing { id: VersionId },
    #[error("the pack of version {id} is not what its manifest says: {what}")]
    Corrupt { id: VersionId, what: &'static str },
    #[error("version {id} is installed with another manifest")]
    Conflict { id: VersionId },
    #[error("version {id} has a manifest that can't be used")]
    Manifest {
        id: VersionId,
        #[source]
        source: ManifestError,
    },
    #[error("the pack of version {id} could not be fetched")]
    Fetch {
        id: VersionId,
        #[source]
        source: io::Error,
    },
    #[error("the version folder could not be {doing}")]
    Disk {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl VersionId {
    pub fn parse(input: &str) -> Result<VersionId, StoreError> {
        let is_hex = input.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && (8..=64).contains(&input.len()) {
            Ok(VersionId(input.into()))
        } else {
            Err(StoreError::Id(input.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for VersionId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl VersionStore {
    /// Opens `<edge_dir>/versions`, and removes what installs of dead processes left there. Blocking.
    pub fn open_folder(edge_dir: &Path) -> Result<VersionStore, StoreError> {
        let folder = edge_dir.join("versions");
        fs::create_dir_all(&folder).map_err(disk("created"))?;
        for entry in fs::read_dir(&folder).map_err(disk("read"))? {
            let entry = entry.map_err(disk("read"))?;
            let is_old = entry.metadata().and_then(|data| data.modified()).is_ok_and(|time| {
                SystemTime::now().duration_since(time).is_ok_and(|age| age > TEMP_LEFTOVER)
            });
            if is_old && entry.file_name().to_string_lossy().starts_with(TEMP_PREFIX) {
                // Another process may be removing the same leftover.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(VersionStore { folder, opened: Mutex::new(HashMap::new()) })
    }

    /// Puts a version on disk: checked, complete and durable, or not at all. Installing it again is no error.
    pub async fn install(
        &self,
        id: &VersionId,
        manifest_bytes: Bytes,
        pack: PackSource,
    ) -> Result<(), StoreError> {
        let manifest = Manifest::parse(&manifest_bytes)
            .map_err(|source| StoreError::Manifest { id: id.clone(), source })?;
        if self.is_installed(id, &manifest_bytes, manifest.pack_size)? {
            return Ok(());
        }
        let temp = TempFolder::create(&self.folder, id)?;
        let target = temp.path.join(PACK_FILE);
        let mut reader: Box<dyn AsyncRead + Send + Unpin> = match pack {
            PackSource::Reader(reader) => reader,
            PackSource::Path(path) => {
                let source = tokio::fs::File::open(path).await;
                Box::new(source.map_err(|source| StoreError::Fetch { id: id.clone(), source })?)
            }
        };
        copy_checked(id, &mut reader, &target, &manifest).await?;
        let folder = self.folder.clone();
        let id = id.clone();
        let finish = move || {
            temp.write_durably(MANIFEST_FILE, &manifest_bytes)?;
            sync_folder(&temp.path)?;
            match fs::rename(&temp.path, folder.join(id.as_str())) {
                Ok(()) => sync_folder(&folder),
                // Another process was faster. Its copy passed the same check; the manifests must agree.
                Err(error) if is_not_empty(&error) => {
                    let theirs =
                        fs::read(folder.join(id.as_str()).join(MANIFEST_FILE)).map_err(disk("read"))?;
                    if theirs == manifest_bytes { Ok(()) } else { Err(StoreError::Conflict { id }) }
                }
                Err(error) => Err(disk("renamed")(error)),
            }
        };
        join(tokio::task::spawn_blocking(finish).await)?
    }

    /// Whether a version is complete on this disk. Blocking, but only for one look.
    pub fn contains(&self, id: &VersionId) -> bool {
        // The folder is renamed into place with both files, so one look tells.
        self.folder.join(id.as_str()).join(MANIFEST_FILE).is_file()
    }

    /// Loads a version for serving; reads its manifest, not its bodies. Blocking.
    /// `owner` is its Worker; `created_at_seconds` (Unix time) becomes `Last-Modified`.
    pub fn open(
        &self,
        id: &VersionId,
        owner: &str,
        created_at_seconds: u64,
    ) -> Result<Arc<SiteVersion>, StoreError> {
        let key = (id.clone(), Arc::<str>::from(owner));
        if let Some(known) = self.opened().get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let folder = self.folder.join(id.as_str());
        let (manifest, _) = self.read_manifest(id)?;
        let size = fs::metadata(folder.join(PACK_FILE)).map_err(disk("read"))?.len();
        if size != manifest.pack_size {
            return Err(StoreError::Corrupt { id: id.clone(), what: "its size differs" });
        }
        let rules = read_rules(&folder.join(PACK_FILE), &manifest).map_err(disk("read"))?;
        let version =
            SiteVersion::new(id.as_str(), Arc::clone(&key.1), folder, created_at_seconds, &manifest)
                .map_err(|source| StoreError::Manifest { id: id.clone(), source })?;
        let version = Arc::new(version.with_rules(rules));
        let mut opened = self.opened();
        if opened.len() == opened.capacity() {
            opened.retain(|_, version| version.strong_count() > 0);
        }
        opened.insert(key, Arc::downgrade(&version));
        Ok(version)
    }

    /// Reads the whole pack again and compares its digest. Blocking; for start-up checks and `doctor`.
    pub fn verify(&self, id: &VersionId) -> Result<(), StoreError> {
        let (manifest, _) = self.read_manifest(id)?;
        let mut pack = File::open(self.folder.join(id.as_str()).join(PACK_FILE)).map_err(disk("read"))?;
        let mut digest = Digesting(Sha256::new());
        io::copy(&mut pack, &mut digest).map_err(disk("read"))?;
        if hex::encode(digest.0.finalize()) == manifest.pack_digest {
            Ok(())
        } else {
            Err(StoreError::Corrupt { id: id.clone(), what: "its digest differs" })
        }
    }

    /// Removes a version from disk; one that is not there is no error. Blocking.
    /// Take it out of the route table first: a request that already resolved it would find no bytes.
    pub fn remove(&self, id: &VersionId) -> Result<(), StoreError> {
        let doomed = self.folder.join(format!("{TEMP_PREFIX}removed-{id}-{}", unique()));
        // Renamed first, so that no other process ever sees half a version.
        match fs::rename(self.folder.join(id.as_str()), &doomed) {
            Ok(()) => fs::remove_dir_all(&doomed).map_err(disk("removed")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(disk("removed")(error)),
        }
    }

    /// The versions that are complete on disk, sorted. Blocking.
    pub fn list(&self) -> Result<Vec<VersionId>, StoreError> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(disk("read"))? {
            let name = entry.map_err(disk("read"))?.file_name();
            ids.extend(name.to_str().and_then(|name| VersionId::parse(name).ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// As [`list`](Self::list), those that were installed at least so long ago. Blocking.
    pub fn list_older_than(&self, age: Duration) -> Result<Vec<VersionId>, StoreError> {
        let mut ids = self.list()?;
        ids.retain(|id| {
            let manifest = fs::metadata(self.folder.join(id.as_str()).join(MANIFEST_FILE));
            manifest.and_then(|data| data.modified()).is_ok_and(|time| {
                SystemTime::now().duration_since(time).is_ok_and(|installed| installed >= age)
            })
        });
        Ok(ids)
    }

    /// Whether exactly this version is complete on this disk. Blocking, but only for one look.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if another manifest lies under its id.
    pub fn is_installed(
        &self,
        id: &VersionId,
        manifest_bytes: &[u8],
        pack_size: u64,
    ) -> Result<bool, StoreError> {
        let folder = self.folder.join(id.as_str());
        match fs::read(folder.join(MANIFEST_FILE)) {
            Ok(theirs) if theirs != manifest_bytes => Err(StoreError::Conflict { id: id.clone() }),
            Ok(_) => Ok(fs::metadata(folder.join(PACK_FILE)).is_ok_and(|pack| pack.len() == pack_size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk("read")(error)),
        }
    }

    fn read_manifest(&self, id: &VersionId) -> Result<(Manifest, Vec<u8>), StoreError> {
        let bytes = fs::read(self.folder.join(id.as_str()).join(MANIFEST_FILE)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                StoreError::Missing { id: id.clone() }
            } else {
                disk("read")(error)
            }
        })?;
        let manifest =
            Manifest::parse(&bytes).map_err(|source| StoreError::Manifest { id: id.clone(), source })?;
        Ok((manifest, bytes))
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rules that lie among a version's files, from its pack: so versions that were packed by a program which
/// did not know them have them too. Nothing is opened for a site without them.
fn read_rules(pack: &Path, manifest: &Manifest) -> io::Result<Option<Box<SiteRules>>> {
    let body = |name: &str| {
        let at = manifest.files.binary_search_by(|file| (*file.path).cmp(name)).ok()?;
        manifest.files[at].bodies.first()
    };
    let read = |name| {
        let Some(body) = body(name) else { return Ok::<_, io::Error>(None) };
        // One byte more than is read tells that there are more.
        let mut bytes = vec![0; body.size.min(site_rules::MAX_FILE_BYTES as u64 + 1) as usize];
        File::open(pack)?.read_exact_at(&mut bytes, body.offset)?;
        Ok(Some(bytes))
    };
    let (redirects, headers) = (read(site_rules::REDIRECTS_FILE)?, read(site_rules::HEADERS_FILE)?);
    Ok(SiteRules::parse(redirects.as_deref(), headers.as_deref()).0)
}

/// A folder that is gone again unless it was renamed.
struct TempFolder {
    path: PathBuf,
}

impl TempFolder {
    fn create(folder: &Path, id: &VersionId) -> Result<TempFolder, StoreError> {
        let path = folder.join(format!("{TEMP_PREFIX}{id}-{}", unique()));
        fs::create_dir(&path).map_err(disk("created"))?;
        Ok(TempFolder { path })
    }

    fn write_durably(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut file = File::create(self.path.join(name)).map_err(disk("written"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(disk("written"))
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        // Nothing is there any more after the rename; what can't be removed now goes at the next start.
        let _ = fs::remove_dir_all(&self.path);
    }
}

struct Digesting(Sha256);

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn copy_checked(
    id: &VersionId,
    reader: &mut (dyn AsyncRead + Send + Unpin),
    target: &Path,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let mut left = manifest.pack_size;
    let mut digest = Sha256::new();
    let mut piece = vec![0; COPY_BYTES];
    let mut file = File::create(target).map_err(disk("written"))?;
    loop {
        let read =
            reader.read(&mut piece).await.map_err(|source| StoreError::Fetch { id: id.clone(), source })?;
        if read == 0 {
            break;
        }
        // Refused at the first byte too many, so that a wrong source can't fill the disk.
        left = left
            .checked_sub(read as u64)
            .ok_or_else(|| StoreError::Corrupt { id: id.clone(), what: "it is longer" })?;
        let step = move || {
            digest.update(&piece[..read]);
            let written = file.write_all(&piece[..read]);
            (written, file, digest, piece)
        };
        let done = join(tokio::task::spawn_blocking(step).await)?;
        (file, digest, piece) = (done.1, done.2, done.3);
        done.0.map_err(disk("written"))?;
    }
    if left > 0 {
        return Err(StoreError::Corrupt { id: id.clone(), what: "it is shorter" });
    }
    if hex::encode(digest.finalize()) != manifest.pack_digest {
        return Err(StoreError::Corrupt { id: id.clone(), what: "its digest differs" });
    }
    join(tokio::task::spawn_blocking(move || file.sync_all()).await)?.map_err(disk("written"))
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|opened| opened.sync_all()).map_err(disk("synced"))
}

fn disk(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Disk { doing, source }
}

/// A panic in a disk task is ours: it goes on in the caller. A runtime that is going away is an I/O error.
fn join<T>(result: Result<T, tokio::task::JoinError>) -> Result<T, StoreError> {
    result.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => disk("used while the program stops")(io::Error::other(error)),
    })
}

fn is_not_empty(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}
