//! Owns making a real version on a real disk for tests. Never compiled into the program.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::TreePath;
use crate::runtime::pack::{self, Options, PackedVersion};
use crate::runtime::{PackSource, Settings, SiteVersion, Source, VersionId, VersionStore};

pub const OPTIONS: Options = Options { compress_file_bytes: 8 << 20, threads: 1 };

pub fn settings() -> Settings {
    Settings {
        cache_bytes: 8 << 20,
        cache_worker_bytes: 8 << 20,
        cache_object_bytes: 1 << 20,
        disk_reads: 8,
        disk_wait_ms: 10_000,
        stream_chunk_bytes: 64 << 10,
        sendfile_bytes: 128 << 10,
        open_files: 16,
        fetches: 4,
        compress_file_bytes: 8 << 20,
        compress_threads: 1,
    }
}

pub fn pack(folder: &Path, files: &[(&str, &[u8])]) -> PackedVersion {
    let files = files
        .iter()
        .map(|(path, body)| (TreePath::parse(path).unwrap(), Source::Bytes(Bytes::copy_from_slice(body))))
        .collect();
    pack::build(files, folder, OPTIONS).unwrap()
}

/// Packs, installs and opens a version under `folder`.
pub async fn install(folder: &Path, id: &str, owner: &str, files: &[(&str, &[u8])]) -> Arc<SiteVersion> {
    let out = tempfile::tempdir().unwrap();
    let packed = pack(out.path(), files);
    let store = VersionStore::open_folder(folder).unwrap();
    let id = VersionId::parse(id).unwrap();
    store.install(&id, packed.manifest_bytes, PackSource::Path(packed.pack_path)).await.unwrap();
    store.open(&id, owner, 784_111_777).unwrap()
}
