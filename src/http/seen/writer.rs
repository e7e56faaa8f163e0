//! Owns the one thread that writes the access log, its file and its rotation.
//! Never makes a serving thread wait: what does not fit is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

/// Between two lines of the server's own log about the same trouble.
const NOTICE: Duration = Duration::from_secs(60);

/// As the settings `log.access.*` name them.
#[derive(Debug, Clone)]
pub struct AccessLogSettings {
    pub file: PathBuf,
    /// Then it is renamed to `.1` and a new one begun.
    pub file_bytes: u64,
    pub flush: Duration,
    pub buffer_bytes: usize,
    /// Full ones that may wait for the disk.
    pub buffers: usize,
    /// Of one thread, about what was no request.
    pub bare_per_second: u32,
}

struct Chunk {
    bytes: Vec<u8>,
    lines: u64,
}

/// Where serving threads hand their lines on.
#[derive(Debug, Clone)]
pub struct AccessLog {
    sender: SyncSender<Chunk>,
    spare: Arc<ArrayQueue<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
    flush: Duration,
    buffer_bytes: usize,
    bare_per_second: u32,
}

/// The writing thread. It ends when no [`AccessLog`] is left.
#[derive(Debug)]
pub struct Writing(std::thread::JoinHandle<()>);

impl Writing {
    /// Waits until everything handed on is written, at most so long.
    pub async fn finish(self, limit: Duration) {
        let joining = tokio::task::spawn_blocking(move || self.0.join());
        if !matches!(tokio::time::timeout(limit, joining).await, Ok(Ok(Ok(())))) {
            tracing::warn!("the access log was not written to its end in time");
        }
    }
}

impl AccessLog {
    /// # Errors
    /// If the file or the thread can't be had.
    pub fn start(settings: AccessLogSettings) -> io::Result<(AccessLog, Writing)> {
        let (sender, receiver) = sync_channel(settings.buffers.max(1));
        let spare = Arc::new(ArrayQueue::new(settings.buffers.max(1)));
        let dropped = Arc::new(AtomicU64::new(0));
        let log = AccessLog {
            sender,
            spare: Arc::clone(&spare),
            dropped: Arc::clone(&dropped),
            flush: settings.flush,
            buffer_bytes: settings.buffer_bytes,
            bare_per_second: settings.bare_per_second,
        };
        let output = Output::open(settings.file, settings.file_bytes)?;
        let writer = Writer { output, spare, dropped, told: None };
        let thread = std::thread::Builder::new().name("access-log".into());
        Ok((log, Writing(thread.spawn(move || writer.run(&receiver))?)))
    }

    /// Lines that were lost since the start.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }

    pub(super) fn flush_interval(&self) -> Duration {
        self.flush
    }

    pub(super) fn bare_per_second(&self) -> u32 {
        self.bare_per_second
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    pub(super) fn empty_buffer(&self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn hand_on(&self, bytes: Vec<u8>, lines: u64) {
        if self.sender.try_send(Chunk { bytes, lines }).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

struct Writer {
    output: Output,
    spare: Arc<ArrayQueue<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
    told: Option<Instant>,
}

impl Writer {
    fn run(mut self, chunks: &Receiver<Chunk>) {
        let mut known = 0;
        while let Ok(Chunk { mut bytes, lines }) = chunks.recv() {
            let written = self.output.write(&bytes);
            if written.is_err() {
                self.dropped.fetch_add(lines, Ordering::Relaxed);
            }
            let dropped = self.dropped.load(Ordering::Relaxed);
            if dropped != known && self.told.is_none_or(|told| told.elapsed() >= NOTICE) {
                let error =
                    written.err().map_or_else(|| "the disk is too slow".to_owned(), |e| e.to_string());
                tracing::error!(lines = dropped - known, error, "lines of the access log were dropped");
                (known, self.told) = (dropped, Some(Instant::now()));
            }
            bytes.clear();
            drop(self.spare.push(bytes));
        }
    }
}

struct Output {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// The last line may have been cut off.
    is_torn: bool,
}

impl Output {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = open(&path)?;
        let size = file.metadata()?.len();
        // A server that was killed may have left half a line.
        let is_torn = size > 0 && !ends_a_line(&path, size);
        Ok(Self { path, file, size, limit, is_torn })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.limit {
            self.rotate()?;
        }
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.size += bytes.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.is_torn = true;
                self.size = self.file.metadata().map_or(self.size, |of| of.len());
                Err(e)
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        match std::fs::rename(&self.path, &older) {
            Ok(()) => {}
            // Moved by somebody else, or by us before a new one could be had.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.file = open(&self.path)?;
        (self.size, self.is_torn) = (0, false);
        Ok(())
    }
}

/// Only this user may read who asked for what.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Where that can't be read, one empty line more does no harm.
fn ends_a_line(path: &Path, size: u64) -> bool {
    use std::os::unix::fs::FileExt;
    let mut last = [0];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut last, size - 1));
    read.is_ok() && last == *b"\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path) -> AccessLogSettings {
        AccessLogSettings {
            file: folder.join("access.log"),
            file_bytes: 10,
            flush: Duration::from_millis(10),
            buffer_bytes: 1,
            buffers: 8,
            bare_per_second: 3,
        }
    }

    #[test]
    fn a_full_file_moves_aside_and_the_end_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (log, writing) = AccessLog::start(settings(folder.path())).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.hand_on(line.into(), 1);
        }
        let dropped = log.dropped();
        drop(log);
        writing.0.join().unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log.1")).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("access.log")).unwrap(), "three\n");
        assert_eq!(dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_disk_costs_lines_and_nothing_else() {
        let file = PathBuf::from("/dev/full");
        let (log, writing) =
            AccessLog::start(AccessLogSettings { file, file_bytes: 1000, ..settings(Path::new("/")) })
                .unwrap();
        log.hand_on("lost\n".into(), 1);
        log.hand_on("lost\nlost\n".into(), 2);
        let dropped = log.dropped();
        drop(log);
        writing.0.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    }
}
