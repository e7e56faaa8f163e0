//! Content-addressed files over `object_store`: sources, trees, versions.
//!
//! Blobs are kept and looked up within one organization only: equal bytes of two organizations
//! are two blobs. A blob never changes; what is current stands in the database.
//! Never lists, never deletes what it was not told to by id.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, WriteMultipart};
use serde::Deserialize;
use sha2::Digest as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::domain::{Digest, Fault};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Empty: a folder beneath `data_dir`.
    pub url: String,
    /// Blobs read or written at once by one operation.
    pub parallel: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the blob store can't be opened")]
    Open(#[source] object_store::Error),
    #[error("a blob could not be written")]
    Write(#[source] object_store::Error),
    #[error("a blob could not be read")]
    Read(#[source] object_store::Error),
    #[error("blob {digest} is missing")]
    Missing { digest: Digest },
    #[error("blob {digest} does not hold what its name says")]
    Damaged { digest: Digest },
    #[error("a local file could not be read or written")]
    Local(#[source] std::io::Error),
}

impl BlobError {
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Open(_) | Self::Write(_) | Self::Read(_) | Self::Local(_) => Fault::Platform,
            Self::Missing { .. } | Self::Damaged { .. } => Fault::Unknown,
        }
    }
}

/// The blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    parallel: usize,
}

/// A part of a pack read or written at a time.
const PART_BYTES: usize = 4 * 1024 * 1024;

impl Blobs {
    /// # Errors
    /// If the folder can't be made.
    pub fn open(settings: &Settings, folder: &Path) -> Result<Self, BlobError> {
        std::fs::create_dir_all(folder).map_err(BlobError::Local)?;
        // Without fsync an acknowledged deployment could lose its source to a power cut.
        let local = LocalFileSystem::new_with_prefix(folder).map_err(BlobError::Open)?.with_fsync(true);
        Ok(Self { store: Arc::new(local), parallel: settings.parallel.max(1) })
    }

    /// Stores `bytes` under their digest. Storing the same bytes again writes nothing.
    ///
    /// # Errors
    /// If the store can't take them.
    pub async fn put(&self, org: &str, digest: &Digest, bytes: Bytes) -> Result<(), BlobError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&path(org, digest), PutPayload::from_bytes(bytes), options).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(e) => Err(BlobError::Write(e)),
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
        .buffer_unordered(self.parallel);
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
        let found = self.store.get(&path(org, digest)).await;
        let bytes = found.map_err(|e| read_error(e, digest))?.bytes().await.map_err(BlobError::Read)?;
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
        if self.store.head(&location).await.is_ok() {
            return Ok(());
        }
        let mut file = tokio::fs::File::open(file).await.map_err(BlobError::Local)?;
        let size = file.metadata().await.map_err(BlobError::Local)?.len();
        if size <= PART_BYTES as u64 {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(PART_BYTES));
            file.read_to_end(&mut bytes).await.map_err(BlobError::Local)?;
            return self.put(org, digest, bytes.into()).await;
        }
        let upload = self.store.put_multipart(&location).await.map_err(BlobError::Write)?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut part = vec![0; PART_BYTES];
        loop {
            let read = file.read(&mut part).await.map_err(BlobError::Local)?;
            if read == 0 {
                break;
            }
            writer.wait_for_capacity(self.parallel).await.map_err(BlobError::Write)?;
            writer.write(&part[..read]);
        }
        writer.finish().await.map_err(BlobError::Write)?;
        Ok(())
    }

    /// Copies a blob into a local file, checking its digest on the way.
    ///
    /// # Errors
    /// As [`Blobs::get`], or if the file can't be written.
    pub async fn get_file(&self, org: &str, digest: &Digest, into: &Path) -> Result<(), BlobError> {
        let found = self.store.get(&path(org, digest)).await.map_err(|e| read_error(e, digest))?;
        let mut file = tokio::fs::File::create(into).await.map_err(BlobError::Local)?;
        let mut hasher = sha2::Sha256::new();
        let mut stream = found.into_stream();
        while let Some(part) = stream.next().await {
            let part = part.map_err(BlobError::Read)?;
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

    /// Removes one blob by name; one that is gone already is fine.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn delete(&self, org: &str, digest: &Digest) -> Result<(), BlobError> {
        match self.store.delete(&path(org, digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(BlobError::Write(e)),
        }
    }

    /// A real probe: writes, reads and removes a small blob.
    ///
    /// # Errors
    /// What failed.
    pub async fn probe(&self) -> Result<(), BlobError> {
        let bytes = Bytes::from(crate::domain::id::random());
        let digest = Digest::of(&bytes);
        self.put("probe", &digest, bytes).await?;
        self.get("probe", &digest).await?;
        self.delete("probe", &digest).await
    }
}

/// `<org>/sha256/ab/<digest>`: two levels, so that no folder grows without bound.
fn path(org: &str, digest: &Digest) -> ObjectPath {
    let hex = digest.as_str();
    ObjectPath::from_iter([org, "sha256", &hex[..2], hex])
}

fn read_error(error: object_store::Error, digest: &Digest) -> BlobError {
    match error {
        object_store::Error::NotFound { .. } => BlobError::Missing { digest: digest.clone() },
        other => BlobError::Read(other),
    }
}
