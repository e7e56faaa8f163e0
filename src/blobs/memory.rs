//! Small blobs that were stored or read a moment ago, so that a deployment on S3 neither asks for what the
//! request brought nor sends what the last one sent.
//!
//! Never answers for another organization: the place of a blob is its key. Never claims for longer than
//! `memory_seconds` that the store has a blob, so that one which was removed there is written again.

use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;

use super::settings::Settings;

/// What an entry costs besides its body: the place, handles and the cache's own records.
const ENTRY_BYTES: usize = 512;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    blobs: moka::sync::Cache<ObjectPath, Bytes>,
    largest: usize,
}

impl Memory {
    pub(super) fn new(settings: &Settings) -> Self {
        let weigh = |_: &ObjectPath, bytes: &Bytes| {
            u32::try_from(bytes.len().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX)
        };
        let blobs = moka::sync::Cache::builder()
            .max_capacity(settings.memory_bytes)
            .weigher(weigh)
            .time_to_live(Duration::from_secs(settings.memory_seconds))
            .build();
        Self { blobs, largest: settings.memory_blob_bytes }
    }

    pub(super) fn get(&self, place: &ObjectPath) -> Option<Bytes> {
        self.blobs.get(place)
    }

    /// Only for bytes that are stored at `place` and have its digest.
    pub(super) fn keep(&self, place: &ObjectPath, bytes: &Bytes) {
        if bytes.len() <= self.largest {
            // A copy: the bytes may be a corner of a whole request.
            self.blobs.insert(place.clone(), Bytes::copy_from_slice(bytes));
        }
    }

    pub(super) fn forget(&self, place: &ObjectPath) {
        self.blobs.invalidate(place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::super::{BlobError, Blobs, Limits, path};
    use super::*;
    use crate::domain::Digest;

    fn blobs(changes: &str) -> (Blobs, Arc<InMemory>) {
        let defaults: toml::Table = crate::config::DEFAULTS.parse().unwrap();
        let mut table = defaults["blobs"].as_table().unwrap().clone();
        table.extend(changes.parse::<toml::Table>().unwrap());
        let settings: Settings = table.try_into().unwrap();
        let store = Arc::new(InMemory::new());
        let memory = Some(Memory::new(&settings));
        let blobs =
            Blobs { store: store.clone(), memory, limits: Limits::of(&settings), probe: Bytes::new() };
        (blobs, store)
    }

    #[tokio::test]
    async fn what_was_stored_is_neither_sent_nor_asked_for_again() {
        let (blobs, store) = blobs("");
        let bytes = Bytes::from_static(b"page");
        let digest = Digest::of(&bytes);
        blobs.put("org", &digest, bytes.clone()).await.unwrap();
        assert!(store.head(&path("org", &digest)).await.is_ok());
        // Gone behind our back: who is asked again would notice.
        store.delete(&path("org", &digest)).await.unwrap();
        assert_eq!(blobs.get("org", &digest).await.unwrap(), bytes);
        blobs.put("org", &digest, bytes.clone()).await.unwrap();
        assert!(store.head(&path("org", &digest)).await.is_err());
        // What we remove ourselves is forgotten.
        blobs.delete("org", &digest).await.unwrap();
        assert!(matches!(blobs.get("org", &digest).await, Err(BlobError::Missing { .. })));
        blobs.put("org", &digest, bytes).await.unwrap();
        assert!(store.head(&path("org", &digest)).await.is_ok());
    }

    #[tokio::test]
    async fn another_organization_finds_nothing_of_it() {
        let (blobs, store) = blobs("");
        let bytes = Bytes::from_static(b"page");
        let digest = Digest::of(&bytes);
        blobs.put("mine", &digest, bytes.clone()).await.unwrap();
        assert!(matches!(blobs.get("other", &digest).await, Err(BlobError::Missing { .. })));
        blobs.put("other", &digest, bytes).await.unwrap();
        assert!(store.head(&path("other", &digest)).await.is_ok());
    }

    #[tokio::test]
    async fn large_blobs_are_not_kept_and_the_bound_can_be_nothing() {
        for (changes, size) in [("memory_blob_bytes = 3", 4), ("memory_bytes = 0", 4)] {
            let (blobs, store) = blobs(changes);
            let bytes = Bytes::from(vec![b'x'; size]);
            let digest = Digest::of(&bytes);
            blobs.put("org", &digest, bytes).await.unwrap();
            blobs.memory.as_ref().unwrap().blobs.run_pending_tasks();
            store.delete(&path("org", &digest)).await.unwrap();
            assert!(matches!(blobs.get("org", &digest).await, Err(BlobError::Missing { .. })), "{changes}");
        }
    }
}
