//! Owns the keys of the `[runtime]` section. Never holds a default: the embedded `config.toml` does.

use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Bytes of file bodies kept in memory, all Workers together.
    pub cache_bytes: u64,
    /// Bytes of the cache that one Worker (all its versions) may hold.
    pub cache_worker_bytes: u64,
    /// Bodies larger than this are streamed from disk and never held whole in memory.
    pub cache_object_bytes: u64,
    /// Reads of version files that may run at once; more wait.
    pub disk_reads: usize,
    /// Milliseconds a request waits for its turn to read before it is refused as overloaded.
    pub disk_wait_ms: u64,
    /// Bytes read from disk at a time while streaming.
    pub stream_chunk_bytes: usize,
    /// Bodies from this many bytes on are left to the system to send, over connections that can do that.
    pub sendfile_bytes: u64,
    /// Files of versions that are kept open.
    pub open_files: u64,
    /// Versions that one edge brings to its disk at once.
    pub fetches: usize,
    /// Files larger than this are stored as they are, without compressed copies.
    pub compress_file_bytes: u64,
    /// Threads that compress one version; 0 means one per processor.
    pub compress_threads: usize,
}
