//! Takes the output of a remote sandbox in: one tar archive, streamed, made by hostile code. Only regular
//! files are written, into a folder of the server's own, under names that were checked; sizes are counted
//! as they arrive, and no header is believed beyond the bounds.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tar::{Archive, Entry, EntryType};
use tokio::sync::mpsc;

use crate::sandbox::collect::{CollectLimits, Collected, CollectedFile, SkippedEntry};
use crate::sandbox::error::SandboxError;
use crate::sandbox::path;

/// Skipped entries that are remembered, as with the local provider.
const SKIPPED_REMEMBERED: usize = 100;
/// Longest header extension (a long name, or a set of attributes).
const EXTENSION_BYTES: u64 = 64 << 10;
/// Chunks of the download that wait to be unpacked.
const CHUNKS: usize = 8;

/// Unpacks into `into` (made 0700, files 0600).
pub(super) async fn unpack(
    mut stream: BoxStream<'static, Result<Bytes, std::io::Error>>,
    into: &Path,
    limits: CollectLimits,
) -> Result<Collected, SandboxError> {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let into = into.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        read_archive(Chunks { receiver, now: Bytes::new() }, &into, limits)
    });
    while let Some(chunk) = stream.next().await {
        let broken = chunk.is_err();
        // Whoever unpacks has said why it stopped.
        if sender.send(chunk).await.is_err() || broken {
            break;
        }
    }
    drop(sender);
    work.await.map_err(SandboxError::Task)?
}

/// A stream as the blocking side reads it.
struct Chunks {
    receiver: mpsc::Receiver<Result<Bytes, std::io::Error>>,
    now: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.now.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.now = chunk?,
                None => return Ok(0),
            }
        }
        let size = self.now.len().min(buffer.len());
        buffer[..size].copy_from_slice(&self.now[..size]);
        self.now.advance(size);
        Ok(size)
    }
}

/// Archives are whole blocks: a stream that ends within one was cut.
struct Blocks<R> {
    reader: R,
    read: u64,
}

impl<R: Read> Read for Blocks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const BLOCK: u64 = 512;
        let size = self.reader.read(buffer)?;
        self.read += size as u64;
        let cut = size == 0 && !buffer.is_empty() && !self.read.is_multiple_of(BLOCK);
        if cut { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(size) }
    }
}

/// The archive could not be read to its end. What is no archive was made inside; a stream that ended
/// early is the connection's.
fn broken(source: std::io::Error) -> SandboxError {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other};
    match source.kind() {
        Other | InvalidData | InvalidInput => SandboxError::OutputUnreadable { path: ".".into(), source },
        _ => SandboxError::Process { action: "read the output of the remote sandbox", source },
    }
}

fn read_archive(reader: impl Read, into: &Path, limits: CollectLimits) -> Result<Collected, SandboxError> {
    make_folder(into)?;
    let mut found = Collected::default();
    let mut taken = Taken { into, limits, total: 0, entries: 0, files: HashSet::new() };
    let mut archive = Archive::new(Blocks { reader, read: 0 });
    let mut long_name = None;
    let mut ended = false;
    // Raw: the crate reads long names whole into memory, however long they say they are.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long_name = Some(trimmed(extension(&mut entry)?)),
            EntryType::XHeader => {
                if let Some(name) = pax_path(&extension(&mut entry)?) {
                    long_name = Some(name);
                }
            }
            EntryType::GNULongLink | EntryType::XGlobalHeader => drop(extension(&mut entry)?),
            kind => {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                taken.take(&mut entry, kind, &name, &mut found)?;
                ended = true;
            }
        }
    }
    // Every archive of ours holds at least the folder itself; an empty stream is a cut one.
    if ended { Ok(found) } else { Err(broken(std::io::ErrorKind::UnexpectedEof.into())) }
}

fn extension<R: Read>(entry: &mut Entry<'_, R>) -> Result<Vec<u8>, SandboxError> {
    let mut content = Vec::new();
    entry.take(EXTENSION_BYTES + 1).read_to_end(&mut content).map_err(broken)?;
    if content.len() as u64 > EXTENSION_BYTES {
        return Err(SandboxError::BadPath {
            path: "(a header of the archive)".into(),
            why: "longer than 64 KiB",
        });
    }
    Ok(content)
}

fn trimmed(mut name: Vec<u8>) -> Vec<u8> {
    while name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// The `path` among `<length> <key>=<value>\n` records.
fn pax_path(records: &[u8]) -> Option<Vec<u8>> {
    let mut rest = records;
    let mut path = None;
    while !rest.is_empty() {
        let space = rest.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        if let Some(value) = record.strip_prefix(b"path=") {
            path = Some(value.to_vec());
        }
        rest = rest.get(length..)?;
    }
    path
}

struct Taken<'a> {
    into: &'a Path,
    limits: CollectLimits,
    total: u64,
    entries: u64,
    /// Files written so far: what a hard link may name.
    files: HashSet<String>,
}

impl Taken<'_> {
    fn take<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        kind: EntryType,
        name: &[u8],
        found: &mut Collected,
    ) -> Result<(), SandboxError> {
        let Some(path) = relative(name)? else { return Ok(()) };
        self.entries += 1;
        if self.entries > self.limits.files {
            return Err(SandboxError::TooManyFiles { limit: self.limits.files });
        }
        let skipped = match kind {
            EntryType::Regular | EntryType::Continuous => {
                let size = self.write(entry, &path)?;
                self.files.insert(path.clone());
                found.files.push(CollectedFile { path, size });
                return Ok(());
            }
            EntryType::Directory => return self.folder(&path),
            // A second name of a file that came before; it was one file inside, and becomes two here.
            EntryType::Link => {
                let target = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
                match relative(&target)? {
                    Some(target) if self.files.contains(&target) => {
                        let from = self.into.join(&target);
                        let mut source = std::fs::File::open(&from)
                            .map_err(|e| SandboxError::io("read the collected file", &from, e))?;
                        let size = self.write(&mut source, &path)?;
                        self.files.insert(path.clone());
                        found.files.push(CollectedFile { path, size });
                        return Ok(());
                    }
                    _ => "link",
                }
            }
            EntryType::Symlink => "link",
            EntryType::Fifo => "fifo",
            EntryType::Char | EntryType::Block => "device",
            _ => "other",
        };
        if found.skipped.len() < SKIPPED_REMEMBERED {
            found.skipped.push(SkippedEntry { path, kind: skipped });
        }
        Ok(())
    }

    fn write(&mut self, source: &mut impl Read, path: &str) -> Result<u64, SandboxError> {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder)?;
        }
        let allowed = self.limits.file_bytes.min(self.limits.total_bytes.saturating_sub(self.total));
        let target = self.into.join(path);
        let fail = |e| SandboxError::io("write the collected file", &target, e);
        // New: an archive that names a file twice must not replace what was counted before.
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target);
        let mut file = opened.map_err(|e| twice(path, e).unwrap_or_else(fail))?;
        let mut size = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = source.read(&mut buffer).map_err(broken)?;
            if read == 0 {
                break;
            }
            size += read as u64;
            if size > self.limits.file_bytes {
                return Err(SandboxError::FileTooLarge {
                    path: path.into(),
                    limit_bytes: self.limits.file_bytes,
                });
            }
            if size > allowed {
                return Err(SandboxError::OutputTooLarge { limit_bytes: self.limits.total_bytes });
            }
            file.write_all(&buffer[..read]).map_err(fail)?;
        }
        file.flush().map_err(fail)?;
        self.total += size;
        Ok(size)
    }

    fn folder(&self, path: &str) -> Result<(), SandboxError> {
        let folder = self.into.join(path);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| twice(path, e).unwrap_or_else(|e| SandboxError::io("make the folder", &folder, e)))
    }
}

/// A name that a file has already; no real folder holds that.
fn twice(path: &str, error: std::io::Error) -> Result<SandboxError, std::io::Error> {
    match error.kind() {
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::NotADirectory => {
            Ok(SandboxError::BadPath { path: path.to_owned(), why: "is in the output twice" })
        }
        _ => Err(error),
    }
}

/// The checked name beneath the folder; `None` is the folder itself. Nothing but folders and files of ours
/// is ever made beneath `into`, so a checked name can't lead out of it.
fn relative(name: &[u8]) -> Result<Option<String>, SandboxError> {
    let Ok(name) = std::str::from_utf8(name) else {
        let path = String::from_utf8_lossy(name).escape_debug().take(200).collect();
        return Err(SandboxError::BadPath { path, why: "is not UTF-8" });
    };
    let name = name.strip_prefix("./").unwrap_or(name);
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.is_empty() || name == "." {
        return Ok(None);
    }
    path::check(name)?;
    Ok(Some(name.to_owned()))
}

fn make_folder(folder: &Path) -> Result<(), SandboxError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|e| SandboxError::io("make the folder", folder, e))
}

#[cfg(test)]
mod tests {
    use tar::{Builder, Header};

    use super::*;

    const LIMITS: CollectLimits = CollectLimits { files: 10, total_bytes: 5_000, file_bytes: 4_000 };

    type Made = Builder<Vec<u8>>;

    /// An entry whose name is written as it is, whatever it holds.
    fn add(archive: &mut Made, kind: EntryType, name: &[u8], link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o6777);
        header.set_size(content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }

    fn unpacked(make: impl FnOnce(&mut Made)) -> (tempfile::TempDir, Result<Collected, SandboxError>) {
        let mut archive = Builder::new(Vec::new());
        add(&mut archive, EntryType::Directory, b"./", "", b"");
        make(&mut archive);
        let folder = tempfile::tempdir().unwrap();
        let into = folder.path().join("out");
        let result = read_archive(&archive.into_inner().unwrap()[..], &into, LIMITS);
        (folder, result)
    }

    #[test]
    fn only_regular_files_come_in() {
        let (folder, result) = unpacked(|archive| {
            add(archive, EntryType::Regular, b"./index.html", "", b"<h1>");
            add(archive, EntryType::Directory, b"./sub/", "", b"");
            add(archive, EntryType::Regular, b"./sub/a.txt", "", b"a");
            add(archive, EntryType::Link, b"./hard.txt", "./sub/a.txt", b"");
            add(archive, EntryType::Symlink, b"./shadow", "/etc/shadow", b"");
            add(archive, EntryType::Link, b"./outside", "/etc/passwd", b"");
            add(archive, EntryType::Fifo, b"./fifo", "", b"");
            add(archive, EntryType::Char, b"./device", "", b"");
        });
        // A hard link's target is a name like any other.
        assert!(matches!(result, Err(SandboxError::BadPath { why: "absolute", .. })), "{result:?}");
        drop(folder);
        let (folder, result) = unpacked(|archive| {
            add(archive, EntryType::Regular, b"./sub/a.txt", "", b"a");
            add(archive, EntryType::Link, b"./hard.txt", "./sub/a.txt", b"");
            add(archive, EntryType::Link, b"./never", "./not-there", b"");
            add(archive, EntryType::Symlink, b"./shadow", "/etc/shadow", b"");
            add(archive, EntryType::Fifo, b"./fifo", "", b"");
            add(archive, EntryType::Char, b"./device", "", b"");
        });
        let found = result.unwrap();
        let files: Vec<_> = found.files.iter().map(|f| (f.path.as_str(), f.size)).collect();
        assert_eq!(files, [("sub/a.txt", 1), ("hard.txt", 1)]);
        let skipped: Vec<_> = found.skipped.iter().map(|s| (s.path.as_str(), s.kind)).collect();
        assert_eq!(skipped, [("never", "link"), ("shadow", "link"), ("fifo", "fifo"), ("device", "device")]);
        use std::os::unix::fs::PermissionsExt;
        let written = std::fs::symlink_metadata(folder.path().join("out/sub/a.txt")).unwrap();
        assert_eq!(written.permissions().mode() & 0o7777, 0o600);
        assert!(!folder.path().join("out/shadow").exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [&b"../x"[..], b"/etc/x", b"a/../../x", b"a\\b", b"a\nb", b"\xff"] {
            let (folder, result) = unpacked(|archive| add(archive, EntryType::Regular, name, "", b"x"));
            assert!(matches!(result, Err(SandboxError::BadPath { .. })), "{name:?}: {result:?}");
            assert!(!folder.path().join("x").exists());
        }
    }

    #[test]
    fn a_file_behind_a_link_of_the_archive_stays_inside() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap().to_owned();
        let (folder, result) = unpacked(|archive| {
            add(archive, EntryType::Symlink, b"./way", &target, b"");
            add(archive, EntryType::Regular, b"./way/x", "", b"x");
        });
        assert_eq!(result.unwrap().files.len(), 1);
        assert!(!outside.path().join("x").exists());
        assert!(folder.path().join("out/way/x").exists());
    }

    #[test]
    fn limits_hold_whatever_the_headers_say() {
        let (_folder, many) = unpacked(|archive| {
            for i in 0..11 {
                add(archive, EntryType::Regular, format!("./{i}").as_bytes(), "", b"");
            }
        });
        assert!(matches!(many, Err(SandboxError::TooManyFiles { limit: 10 })), "{many:?}");
        let (_folder, large) = unpacked(|archive| add(archive, EntryType::Regular, b"./a", "", &[0; 4_001]));
        assert!(matches!(large, Err(SandboxError::FileTooLarge { .. })), "{large:?}");
        let (_folder, total) = unpacked(|archive| {
            add(archive, EntryType::Regular, b"./a", "", &[0; 3_000]);
            add(archive, EntryType::Link, b"./b", "./a", b"");
        });
        assert!(matches!(total, Err(SandboxError::OutputTooLarge { .. })), "{total:?}");
        let (_folder, name) = unpacked(|archive| {
            add(archive, EntryType::GNULongName, b"././@LongLink", "", &[b'a'; 70_000]);
        });
        assert!(matches!(name, Err(SandboxError::BadPath { .. })), "{name:?}");
    }

    #[test]
    fn long_names_are_read_in_both_ways() {
        let long = format!("./{}/{}", "d".repeat(120), "f".repeat(120));
        let (_folder, gnu) = unpacked(|archive| {
            add(archive, EntryType::GNULongName, b"././@LongLink", "", format!("{long}\0").as_bytes());
            add(archive, EntryType::Regular, b"./short", "", b"1");
        });
        assert_eq!(gnu.unwrap().files[0].path, long[2..]);
        let record = format!(" path={long}\n");
        let length = record.len() + 3;
        let (_folder, pax) = unpacked(|archive| {
            add(archive, EntryType::XHeader, b"./PaxHeaders/x", "", format!("{length}{record}").as_bytes());
            add(archive, EntryType::Regular, b"./short", "", b"1");
        });
        assert_eq!(pax.unwrap().files[0].path, long[2..]);
    }

    #[test]
    fn what_no_folder_can_hold_and_what_is_no_archive_is_the_users_fault() {
        let (_folder, again) = unpacked(|archive| {
            add(archive, EntryType::Regular, b"./a", "", b"1");
            add(archive, EntryType::Regular, b"./a", "", b"2");
        });
        assert!(again.is_err_and(|e| e.is_user_fault()));
        let (_folder, beneath) = unpacked(|archive| {
            add(archive, EntryType::Regular, b"./a", "", b"1");
            add(archive, EntryType::Regular, b"./a/b", "", b"2");
        });
        assert!(beneath.is_err_and(|e| e.is_user_fault()));
        let folder = tempfile::tempdir().unwrap();
        let garbage = read_archive(&[b'x'; 2_048][..], folder.path(), LIMITS);
        assert!(garbage.is_err_and(|e| e.is_user_fault()));
    }

    #[test]
    fn a_cut_archive_is_no_output() {
        let mut archive = Builder::new(Vec::new());
        add(&mut archive, EntryType::Regular, b"./a", "", &[1; 3_000]);
        let whole = archive.into_inner().unwrap();
        let folder = tempfile::tempdir().unwrap();
        for end in [0, 100, 600, 2_000] {
            let result = read_archive(&whole[..end], &folder.path().join(end.to_string()), LIMITS);
            assert!(matches!(result, Err(SandboxError::Process { .. })), "{end}: {result:?}");
        }
    }
}
