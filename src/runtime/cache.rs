//! Owns the bodies that are held in memory, and the way to those that are not.
//! Never holds more than its bounds, never reads a disk on an executor thread, and holds no lock while it waits.

use std::collections::{BTreeMap, HashMap};
use std::fs::File as DiskFile;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::runtime::FilePart;
use crate::runtime::settings::Settings;
use crate::runtime::site::{Encoding, Extent, File, SiteVersion};

/// A version that nobody asked for so long gives its file back, when another one is asked for; removed ones free
/// their place on disk then.
const OPEN_IDLE: Duration = Duration::from_secs(60);
/// What an entry costs besides its body: key, handles, the cache's and the shelf's own records.
const ENTRY_BYTES: u64 = 512;

/// (serial of the version, file, encoding): never equal for two versions, so nothing is shared between tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    serial: u64,
    index: u32,
    encoding: Encoding,
}

/// One body in memory with its entity tag, ready to be sent.
#[derive(Debug, Clone)]
pub struct Body {
    pub bytes: Bytes,
    /// With its quotes: `"<digest>"` or `"<digest>-<encoding>"`.
    pub etag: Bytes,
}

#[derive(Debug)]
struct Entry {
    body: Body,
    owner: Arc<str>,
    ticket: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no turn to read the disk within {waited_ms} ms")]
    Overloaded { waited_ms: u64 },
    #[error("version {version} could not be read from disk")]
    Disk {
        version: Box<str>,
        #[source]
        source: Arc<io::Error>,
    },
}

/// The memory cache of one process; cheap to share behind an `Arc`.
pub struct BodyCache {
    entries: moka::sync::Cache<Key, Arc<Entry>>,
    shelves: Arc<Mutex<Shelves>>,
    turns: Arc<Semaphore>,
    worker_bytes: u64,
    object_bytes: u64,
    wait: Duration,
    chunk_bytes: usize,
    sendfile_bytes: u64,
    /// Open files, by the version's serial.
    packs: moka::sync::Cache<u64, Arc<DiskFile>>,
}

/// What each Worker holds, oldest first, so that a Worker over its share gives up its own bodies, never another's.
#[derive(Debug, Default)]
struct Shelves {
    by_owner: HashMap<Arc<str>, Shelf>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    bytes: u64,
    held: BTreeMap<u64, (Key, u64)>,
}

impl std::fmt::Debug for BodyCache {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("BodyCache")
            .field("bytes", &self.entries.weighted_size())
            .finish_non_exhaustive()
    }
}

impl BodyCache {
    pub fn new(settings: &Settings) -> BodyCache {
        let shelves = Arc::new(Mutex::new(Shelves::default()));
        let listener = Arc::clone(&shelves);
        let entries = moka::sync::Cache::builder()
            .max_capacity(settings.cache_bytes)
            .weigher(|_, entry: &Arc<Entry>| u32::try_from(entry.cost()).unwrap_or(u32::MAX))
            .eviction_listener(move |_, entry: Arc<Entry>, _| {
                lock(&listener).forget(&entry.owner, entry.ticket)
            })
            .build();
        BodyCache {
            entries,
            shelves,
            turns: Arc::new(Semaphore::new(settings.disk_reads.max(1))),
            worker_bytes: settings.cache_worker_bytes,
            object_bytes: settings.cache_object_bytes.min(settings.cache_worker_bytes),
            wait: Duration::from_millis(settings.disk_wait_ms),
            chunk_bytes: settings.stream_chunk_bytes.max(4096),
            sendfile_bytes: settings.sendfile_bytes,
            packs: moka::sync::Cache::builder()
                .max_capacity(settings.open_files)
                .time_to_idle(OPEN_IDLE)
                .build(),
        }
    }

    /// Whether this body is served from memory; a larger one is sent as a [`BodyCache::part`].
    pub fn holds(&self, extent: Extent) -> bool {
        extent.size + ENTRY_BYTES <= self.object_bytes
    }

    /// The body if it is in memory now. Never waits.
    pub fn get(&self, file: File<'_>, encoding: Encoding) -> Option<Body> {
        self.entries.get(&key(file, encoding)).map(|entry| entry.body.clone())
    }

    /// Reads a body that [`BodyCache::holds`] from disk into memory. Requests for the same one read it once.
    pub async fn read(
        self: &Arc<Self>,
        version: &Arc<SiteVersion>,
        file: File<'_>,
        encoding: Encoding,
        extent: Extent,
    ) -> Result<Body, ReadError> {
        let _turn = self.turn().await?;
        let (cache, version) = (Arc::clone(self), Arc::clone(version));
        let (key, etag) = (key(file, encoding), etag(file, encoding));
        blocking(move || cache.read_blocking(&version, key, etag, extent)).await
    }

    /// A body, or a part of it, that stays on disk until it is sent.
    pub async fn part(&self, version: &Arc<SiteVersion>, extent: Extent) -> Result<FilePart, ReadError> {
        if let Some(pack) = self.packs.get(&version.serial()) {
            return Ok(FilePart::new(pack, extent));
        }
        let turn = self.turn().await?;
        let path = version.pack_path();
        let opened = blocking(move || Ok::<_, ReadError>(DiskFile::open(path))).await?;
        let pack = Arc::new(opened.map_err(|source| disk_error(version, source))?);
        drop(turn);
        self.packs.insert(version.serial(), Arc::clone(&pack));
        Ok(FilePart::new(pack, extent))
    }

    /// Reads a piece that was not in memory. As bounded as [`BodyCache::read`]: the rest of a body waits no longer.
    pub async fn read_piece(&self, piece: FilePart) -> Result<Bytes, io::Error> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.turns).acquire_owned()).await?;
        let turn = turn.map_err(io::Error::other)?;
        let read = tokio::task::spawn_blocking(move || piece.read()).await;
        drop(turn);
        read.map_err(io::Error::other)?
    }

    /// The largest piece to read at a time.
    pub fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Whether a body of this size is left to the system to send, where the connection can do that.
    pub fn leaves_to_system(&self, extent: Extent) -> bool {
        extent.size >= self.sendfile_bytes
    }

    /// Bytes held now, all Workers together, after pending evictions were done.
    pub fn held_bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        self.entries.weighted_size()
    }

    /// Bytes held now for one Worker.
    pub fn held_bytes_of(&self, owner: &str) -> u64 {
        self.entries.run_pending_tasks();
        lock(&self.shelves).by_owner.get(owner).map_or(0, |shelf| shelf.bytes)
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ReadError> {
        match tokio::time::timeout(self.wait, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            // The semaphore is never closed, so this too means that no turn came.
            Ok(Err(_)) | Err(_) => Err(ReadError::Overloaded { waited_ms: self.wait.as_millis() as u64 }),
        }
    }

    /// Takes turns to read the disk, as if it were slow.
    #[cfg(test)]
    pub async fn turns_taken(&self, count: u32) -> tokio::sync::SemaphorePermit<'_> {
        self.turns.acquire_many(count).await.expect("it is never closed")
    }

    fn read_blocking(
        &self,
        version: &SiteVersion,
        key: Key,
        etag: Bytes,
        extent: Extent,
    ) -> Result<Body, ReadError> {
        let load = || {
            let pack = DiskFile::open(version.pack_path())?;
            let body = Body { bytes: read_part(&pack, extent)?, etag };
            let owner = Arc::clone(version.owner());
            Ok(Arc::new(lock(&self.shelves).put(owner, key, body)))
        };
        let entry = self
            .entries
            .try_get_with(key, load)
            .map_err(|source| ReadError::Disk { version: version.id().into(), source })?;
        // Outside the loader and without the lock: removing calls the listener, which takes it.
        let surplus = lock(&self.shelves).take_surplus(version.owner(), self.worker_bytes);
        for key in surplus {
            self.entries.invalidate(&key);
        }
        Ok(entry.body.clone())
    }
}

/// The strong entity tag of a body, with its quotes.
pub fn etag(file: File<'_>, encoding: Encoding) -> Bytes {
    let mut tag = Vec::with_capacity(72);
    tag.push(b'"');
    let mut digits = [0; 64];
    if hex::encode_to_slice(file.digest(), &mut digits).is_ok() {
        tag.extend_from_slice(&digits);
    }
    if encoding != Encoding::Identity {
        tag.push(b'-');
        tag.extend_from_slice(encoding.name().as_bytes());
    }
    tag.push(b'"');
    Bytes::from(tag)
}

impl Entry {
    fn cost(&self) -> u64 {
        self.body.bytes.len() as u64 + ENTRY_BYTES
    }
}

impl Shelves {
    fn put(&mut self, owner: Arc<str>, key: Key, body: Body) -> Entry {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let entry = Entry { body, owner: Arc::clone(&owner), ticket };
        let shelf = self.by_owner.entry(owner).or_default();
        shelf.bytes += entry.cost();
        shelf.held.insert(ticket, (key, entry.cost()));
        entry
    }

    fn forget(&mut self, owner: &Arc<str>, ticket: u64) {
        let Some(shelf) = self.by_owner.get_mut(owner) else { return };
        if let Some((_, cost)) = shelf.held.remove(&ticket) {
            shelf.bytes -= cost;
        }
        if shelf.held.is_empty() {
            self.by_owner.remove(owner);
        }
    }

    /// The oldest bodies that a Worker must give up to keep within its share.
    fn take_surplus(&mut self, owner: &Arc<str>, limit: u64) -> Vec<Key> {
        let mut surplus = Vec::new();
        let Some(shelf) = self.by_owner.get_mut(owner) else { return surplus };
        while shelf.bytes > limit {
            let Some((_, (key, cost))) = shelf.held.pop_first() else { break };
            shelf.bytes -= cost;
            surplus.push(key);
        }
        surplus
    }
}

fn lock(shelves: &Mutex<Shelves>) -> MutexGuard<'_, Shelves> {
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(file: File<'_>, encoding: Encoding) -> Key {
    Key { serial: file.version().serial(), index: file.index(), encoding }
}

pub(super) fn read_part(pack: &DiskFile, part: Extent) -> Result<Bytes, io::Error> {
    let length = usize::try_from(part.size).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    pack.read_exact_at(&mut bytes, part.offset)?;
    Ok(Bytes::from(bytes))
}

fn disk_error(version: &SiteVersion, source: io::Error) -> ReadError {
    ReadError::Disk { version: version.id().into(), source: Arc::new(source) }
}

/// A panic in a disk task is ours: it goes on in the request that asked.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ReadError::Overloaded { waited_ms: 0 }),
        },
    }
}
