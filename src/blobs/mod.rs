//! Content-addressed files over `object_store`: sources, trees, versions.
//!
//! Blobs are kept and looked up within one organization only: equal bytes of two organizations
//! are two blobs. A blob never changes; what is current stands in the database.
//! Never lists, never deletes what it was not told to by id.

mod error;
mod memory;
mod s3;
mod settings;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::domain::Digest;
use error::{Doing, of_store};

pub use error::{BlobError, Reason};
pub use settings::Settings;

/// The blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Of a store on another machine only: the kernel keeps a folder's files in memory anyway.
    memory: Option<memory::Memory>,
    limits: Limits,
    /// What this process writes to see whether the store takes it: always the same blob, so that a
    /// probe cut short leaves one behind and no more.
    probe: Bytes,
}

/// How much at once, and for how long.
#[derive(Debug, Clone, Copy)]
struct Limits {
    parallel: usize,
    part_bytes: usize,
    part_parallel: usize,
    retries: usize,
    backoff_min: Duration,
    backoff_max: Duration,
    retry_total: Duration,
    operation: Duration,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            parallel: settings.parallel.max(1),
            part_bytes: settings.part_bytes,
            part_parallel: settings.part_parallel.max(1),
            retries: settings.retries,
            backoff_min: Duration::from_millis(settings.retry_backoff_min_ms),
            backoff_max: Duration::from_millis(settings.retry_backoff_max_ms),
            retry_total: settings.retry_total(),
            operation: settings.operation_timeout(),
        }
    }
}

/// From here on a file costs more to send than to ask for, in bytes.
const ASKED_FROM: u64 = 1024 * 1024;

/// The name space of probes; no organization is called so.
const PROBES: &str = "probe";

impl Blobs {
    /// Makes the folder, or the client of `blobs.url`; asks neither anything.
    ///
    /// # Errors
    /// If the folder can't be made, or the settings make no client.
    pub fn open(settings: &Settings, folder: &Path) -> Result<Self, BlobError> {
        let (store, memory) = match settings.bucket() {
            Some(bucket) => (s3::open(settings, &bucket)?, Some(memory::Memory::new(settings))),
            None => (open_folder(folder)?, None),
        };
        let probe = Bytes::from(crate::domain::id::random());
        Ok(Self { store, memory, limits: Limits::of(settings), probe })
    }

    /// Stores `bytes` under their digest. Storing the same bytes again writes nothing.
    ///
    /// # Errors
    /// If the store can't take them.
    pub async fn put(&self, org: &str, digest: &Digest, bytes: Bytes) -> Result<(), BlobError> {
        let location = path(org, digest);
        if self.remembered(&location).is_some() {
            return Ok(());
        }
        self.tried(|| self.put_once(&location, bytes.clone())).await?;
        self.remember(&location, &bytes);
        Ok(())
    }

    fn remembered(&self, location: &ObjectPath) -> Option<Bytes> {
        self.memory.as_ref().and_then(|memory| memory.get(location))
    }

    fn remember(&self, location: &ObjectPath, bytes: &Bytes) {
        if let Some(memory) = &self.memory {
            memory.keep(location, bytes);
        }
    }

    async fn put_once(&self, location: &ObjectPath, bytes: Bytes) -> Result<(), BlobError> {
        let size = bytes.len() as u64;
        let payload = PutPayload::from_bytes(bytes);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(location, payload.clone(), create).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => {}
            Err(error) => return Err(of_store(Doing::Writing, &error)),
        }
        // Cut off by a disk that was full, or S3's word for another writer that is not done and may fail.
        if self.stored_size(location).await? == Some(size) {
            return Ok(());
        }
        let written = self.store.put_opts(location, payload, PutOptions::default()).await;
        written.map(drop).map_err(|error| of_store(Doing::Writing, &error))
    }

    async fn stored_size(&self, location: &ObjectPath) -> Result<Option<u64>, BlobError> {
        match self.store.head(location).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(of_store(Doing::Writing, &error)),
        }
    }

    /// Stores several blobs, a few at a time; what is there already is not written again.
    ///
    /// # Errors
    /// The first failure; what was written by then stays, unreferenced.
    pub async fn put_all(&self, org: &str, blobs: Vec<(Digest, Bytes)>) -> Result<(), BlobError> {
        let mut puts = futures_util::stream::iter(
            blobs.into_iter().map(|(digest, bytes)| async move { self.put(org, &digest, bytes).await }),
        )
        .buffer_unordered(self.limits.parallel);
        while let Some(done) = puts.next().await {
            done?;
        }
        Ok(())
    }

    /// Reads a blob and checks that it holds what its name says.
    ///
    /// # Errors
    /// [`BlobError::Missing`] or [`BlobError::Damaged`], or that the store can't be read.
    pub async fn get(&self, org: &str, digest: &Digest) -> Result<Bytes, BlobError> {
        let location = path(org, digest);
        if let Some(bytes) = self.remembered(&location) {
            return Ok(bytes);
        }
        let bytes = self.tried(|| self.get_once(&location, digest)).await?;
        self.remember(&location, &bytes);
        Ok(bytes)
    }

    async fn get_once(&self, location: &ObjectPath, digest: &Digest) -> Result<Bytes, BlobError> {
        let failed = |error: object_store::Error| of_store(Doing::Reading(digest), &error);
        let found = self.store.get(location).await.map_err(failed)?;
        let bytes = found.bytes().await.map_err(failed)?;
        if &Digest::of(&bytes) == digest {
            Ok(bytes)
        } else {
            Err(BlobError::Damaged { digest: digest.clone() })
        }
    }

    /// Stores a local file under `digest`, which the caller computed; a large one in parts.
    ///
    /// # Errors
    /// If the file can't be read or the store can't take it.
    pub async fn put_file(&self, org: &str, digest: &Digest, file: &Path) -> Result<(), BlobError> {
        let location = path(org, digest);
        self.tried(|| self.put_file_once(&location, file)).await
    }

    async fn put_file_once(&self, location: &ObjectPath, file: &Path) -> Result<(), BlobError> {
        let mut file = tokio::fs::File::open(file).await.map_err(BlobError::Local)?;
        let size = file.metadata().await.map_err(BlobError::Local)?.len();
        // Another size under this name is a blob that was cut off: it is written again, whole.
        if size > ASKED_FROM && self.stored_size(location).await? == Some(size) {
            return Ok(());
        }
        if size <= self.limits.part_bytes as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(self.limits.part_bytes));
            file.read_to_end(&mut bytes).await.map_err(BlobError::Local)?;
            return self.put_once(location, bytes.into()).await;
        }
        let begun = self.store.put_multipart(location).await;
        let upload = upload::Upload::new(begun.map_err(|error| of_store(Doing::Writing, &error))?);
        upload.send(&mut file, self.limits.part_bytes, self.limits.part_parallel).await
    }

    /// Copies a blob into a local file, checking its digest on the way.
    ///
    /// # Errors
    /// As [`Blobs::get`], or if the file can't be written.
    pub async fn get_file(&self, org: &str, digest: &Digest, into: &Path) -> Result<(), BlobError> {
        let location = path(org, digest);
        self.tried(|| self.get_file_once(&location, digest, into)).await
    }

    async fn get_file_once(
        &self,
        location: &ObjectPath,
        digest: &Digest,
        into: &Path,
    ) -> Result<(), BlobError> {
        let failed = |error: object_store::Error| of_store(Doing::Reading(digest), &error);
        let found = self.store.get(location).await.map_err(failed)?;
        let mut file = tokio::fs::File::create(into).await.map_err(BlobError::Local)?;
        let mut hasher = sha2::Sha256::new();
        let mut stream = found.into_stream();
        while let Some(part) = stream.next().await {
            let part = part.map_err(failed)?;
            hasher.update(&part);
            file.write_all(&part).await.map_err(BlobError::Local)?;
        }
        file.sync_all().await.map_err(BlobError::Local)?;
        if hex::encode(hasher.finalize()) == digest.as_str() {
            Ok(())
        } else {
            Err(BlobError::Damaged { digest: digest.clone() })
        }
    }

    /// Whether the store itself has a blob, whatever is remembered of it.
    ///
    /// # Errors
    /// If the store does not say.
    pub async fn is_stored(&self, org: &str, digest: &Digest) -> Result<bool, BlobError> {
        let location = path(org, digest);
        Ok(self.tried(|| self.stored_size(&location)).await?.is_some())
    }

    /// Removes one blob by name; one that is gone already is fine.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn delete(&self, org: &str, digest: &Digest) -> Result<(), BlobError> {
        let location = path(org, digest);
        if let Some(memory) = &self.memory {
            memory.forget(&location);
        }
        self.tried(|| async {
            match self.store.delete(&location).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(of_store(Doing::Writing, &error)),
            }
        })
        .await
    }

    /// A real probe: writes, reads and removes a small blob.
    ///
    /// # Errors
    /// What failed.
    pub async fn probe(&self) -> Result<(), BlobError> {
        let digest = Digest::of(&self.probe);
        let location = path(PROBES, &digest);
        self.tried(|| async {
            let payload = PutPayload::from_bytes(self.probe.clone());
            // Over whatever an earlier probe left, so that it is a write each time.
            let written = self.store.put_opts(&location, payload, PutOptions::default()).await;
            written.map(drop).map_err(|error| of_store(Doing::Writing, &error))
        })
        .await?;
        // Not what is remembered: the store itself has to answer.
        self.tried(|| self.get_once(&location, &digest)).await?;
        self.delete(PROBES, &digest).await
    }

    /// Does one thing with one blob, within `operation_timeout_seconds`. Tries again where the library
    /// does not: it can't know that our writes may be repeated, nor that what it read is cut off.
    async fn tried<T, F>(&self, work: impl Fn() -> F) -> Result<T, BlobError>
    where
        F: Future<Output = Result<T, BlobError>>,
    {
        let limits = self.limits;
        let started = Instant::now();
        let trying = async {
            let mut backoff = limits.backoff_min;
            let mut left = limits.retries;
            loop {
                match work().await {
                    Err(error)
                        if error.is_worth_another_try()
                            && left > 0
                            && started.elapsed() < limits.retry_total =>
                    {
                        left -= 1;
                        tracing::warn!(error = %error, left, "a blob is tried again");
                        sleep(backoff).await;
                        backoff = backoff.saturating_mul(2).min(limits.backoff_max);
                    }
                    done => return done,
                }
            }
        };
        timeout(limits.operation, trying).await.unwrap_or_else(|_| {
            let source = Reason::new(format!("not done within {} s", limits.operation.as_secs()));
            Err(BlobError::Unavailable { source, again: false })
        })
    }
}

fn open_folder(folder: &Path) -> Result<Arc<dyn ObjectStore>, BlobError> {
    std::fs::create_dir_all(folder).map_err(BlobError::Local)?;
    let local = LocalFileSystem::new_with_prefix(folder);
    // Without fsync an acknowledged deployment could lose its source to a power cut.
    Ok(Arc::new(local.map_err(|error| BlobError::Open(Reason::of(&error)))?.with_fsync(true)))
}

/// `<org>/sha256/ab/<digest>`: two levels, so that no folder grows without bound.
fn path(org: &str, digest: &Digest) -> ObjectPath {
    let hex = digest.as_str();
    ObjectPath::from_iter([org, "sha256", &hex[..2], hex])
}

#[cfg(test)]
mod tests;
