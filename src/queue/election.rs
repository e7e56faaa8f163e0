//! Which of several `libra serve` on one `data_dir` owns the embedded broker: who holds a file lock.
//!
//! The lock lives as long as the process: the kernel gives it back however the process ends.
//! It never waits and never breaks a lock that somebody else holds.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::error::QueueError;

/// Ownership of the broker, held until dropped. Children don't inherit it: the file is close-on-exec.
#[derive(Debug)]
pub(super) struct OwnerLock {
    _file: File,
}

/// Takes the lock, or answers `None` when another process holds it.
pub(super) fn try_own(path: &Path) -> Result<Option<OwnerLock>, QueueError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(QueueError::file("open", path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(OwnerLock { _file: file })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(QueueError::file("lock", path)(errno.into())),
    }
}
