//! Owns making a version: one file with every body end to end, and the manifest that says where each lies.
//! Never publishes or switches anything, and never follows a link: what it is given is what it stores.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::domain::TreePath;
use crate::runtime::manifest::{FORMAT, MAX_BODY_BYTES, Manifest, ManifestBody, ManifestFile};
use crate::runtime::site::Encoding;
use crate::runtime::site_rules::{self, Report, SiteRules};
use crate::runtime::store::PACK_FILE;
use crate::runtime::{compress, media_type};

/// Bytes of source files held in memory at once; their copies come on top.
const BATCH_BYTES: u64 = 32 * 1024 * 1024;
const BATCH_FILES: usize = 256;
const COPY_BYTES: usize = 256 * 1024;

/// Where the bytes of one file come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A regular file; a link in its place is refused.
    Path(PathBuf),
    Bytes(Bytes),
}

/// Bounds of one packing, taken from [`crate::runtime::Settings`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub compress_file_bytes: u64,
    /// 0 means one per processor.
    pub threads: usize,
}

/// A finished pack, not yet known to anybody.
#[derive(Debug, Clone)]
pub struct PackedVersion {
    pub manifest: Manifest,
    /// What must be stored beside the pack, byte for byte.
    pub manifest_bytes: Bytes,
    /// SHA-256 of `manifest_bytes`, and so of everything: the version's digest.
    pub digest: [u8; 32],
    pub pack_path: PathBuf,
    /// What can't be used of `_redirects` and `_headers`; the version is good without it.
    pub rules_report: Report,
}

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("{path} could not be read")]
    Read {
        path: TreePath,
        #[source]
        source: io::Error,
    },
    #[error("{path} is no regular file")]
    NotRegular { path: TreePath },
    #[error("{path} is larger than 4 GiB")]
    TooLarge { path: TreePath },
    #[error("{path} was given twice")]
    Twice { path: TreePath },
    #[error("the pack could not be written")]
    Write(#[source] io::Error),
}

/// Packs `files` into `out_dir` (which must exist). Blocking, uses several threads: call it in `spawn_blocking`.
/// The same files give the same bytes, whatever their order.
pub fn build(
    mut files: Vec<(TreePath, Source)>,
    out_dir: &Path,
    options: Options,
) -> Result<PackedVersion, PackError> {
    files.sort_by(|left, right| left.0.cmp(&right.0));
    if let Some(pair) = files.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(PackError::Twice { path: pair[0].0.clone() });
    }
    let pack_path = out_dir.join(PACK_FILE);
    let mut pack = PackWriter::create(&pack_path).map_err(PackError::Write)?;
    let mut entries = Vec::with_capacity(files.len());
    let mut rest = files.as_slice();
    while let Some((path, source)) = rest.first() {
        let taken = batch_length(rest, options)?;
        if taken == 0 {
            entries.push(pack.stream(path, source)?);
            rest = &rest[1..];
            continue;
        }
        for prepared in prepare_batch(&rest[..taken], options)? {
            entries.push(pack.append(prepared)?);
        }
        rest = &rest[taken..];
    }
    let (pack_digest, pack_size) = pack.finish().map_err(PackError::Write)?;
    let manifest =
        Manifest { version: FORMAT, files: entries, pack_digest: hex::encode(pack_digest), pack_size };
    let manifest_bytes = Bytes::from(manifest.to_bytes());
    let digest = Sha256::digest(&manifest_bytes).into();
    let rules_report = rules_report(&files)?;
    Ok(PackedVersion { manifest, manifest_bytes, digest, pack_path, rules_report })
}

fn rules_report(files: &[(TreePath, Source)]) -> Result<Report, PackError> {
    let read = |name: &str| {
        let Some((path, source)) = files.iter().find(|(path, _)| path.as_str() == name) else {
            return Ok(None);
        };
        let mut content = Vec::new();
        // One byte more than is read tells that there are more.
        let limit = site_rules::MAX_FILE_BYTES as u64 + 1;
        let read = source_reader(path, source)?.take(limit).read_to_end(&mut content);
        read.map_err(|source| PackError::Read { path: path.clone(), source })?;
        Ok(Some(content))
    };
    let (redirects, headers) = (read(site_rules::REDIRECTS_FILE)?, read(site_rules::HEADERS_FILE)?);
    Ok(SiteRules::parse(redirects.as_deref(), headers.as_deref()).1)
}

fn source_reader<'s>(path: &TreePath, source: &'s Source) -> Result<Box<dyn Read + 's>, PackError> {
    Ok(match source {
        Source::Bytes(body) => Box::new(&body[..]),
        Source::Path(file) => Box::new(open_regular(path, file)?),
    })
}

/// One file ready to be written: its bytes and its copies.
struct Prepared {
    path: TreePath,
    media_type: String,
    digest: [u8; 32],
    bodies: Vec<(Encoding, Bytes)>,
}

/// How many of the next files are prepared together; 0 when the next one is streamed alone.
fn batch_length(files: &[(TreePath, Source)], options: Options) -> Result<usize, PackError> {
    let mut bytes = 0u64;
    for (at, (path, source)) in files.iter().take(BATCH_FILES).enumerate() {
        let size = match source {
            Source::Bytes(body) => body.len() as u64,
            Source::Path(file) => file
                .symlink_metadata()
                .map_err(|source| PackError::Read { path: path.clone(), source })?
                .len(),
        };
        bytes = bytes.saturating_add(size);
        if size > options.compress_file_bytes || bytes > BATCH_BYTES {
            // A file that alone exceeds the batch is streamed too.
            return Ok(at);
        }
    }
    Ok(files.len().min(BATCH_FILES))
}

fn prepare_batch(batch: &[(TreePath, Source)], options: Options) -> Result<Vec<Prepared>, PackError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if options.threads == 0 { processors } else { options.threads };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, source)) = batch.get(at) else { return Ok(done) };
            done.push((at, prepare(path, source)?));
        }
    };
    let results: Vec<Result<Vec<(usize, Prepared)>, PackError>> = std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(batch.len())).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let mut results: Vec<_> = helpers
            .into_iter()
            .map(|helper| helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.push(mine);
        results
    });
    let mut prepared = Vec::with_capacity(batch.len());
    for result in results {
        prepared.extend(result?);
    }
    prepared.sort_by_key(|(at, _)| *at);
    Ok(prepared.into_iter().map(|(_, file)| file).collect())
}

fn prepare(path: &TreePath, source: &Source) -> Result<Prepared, PackError> {
    let failed = |source| PackError::Read { path: path.clone(), source };
    let body = match source {
        Source::Bytes(body) => body.clone(),
        Source::Path(file) => {
            let mut content = Vec::new();
            open_regular(path, file)?.read_to_end(&mut content).map_err(failed)?;
            Bytes::from(content)
        }
    };
    let media_type = media_type::for_path(path.as_str());
    let digest = Sha256::digest(&body).into();
    let mut bodies = vec![(Encoding::Identity, body.clone())];
    if media_type::is_compressible(&media_type) {
        let copies = compress::copies(&body).map_err(failed)?;
        bodies.extend(copies.into_iter().map(|(encoding, copy)| (encoding, Bytes::from(copy))));
    }
    Ok(Prepared { path: path.clone(), media_type, digest, bodies })
}

fn open_regular(path: &TreePath, file: &Path) -> Result<File, PackError> {
    // A FIFO would block the open and a link could lead out of the build's folder.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(file)
        .map_err(|source| PackError::Read { path: path.clone(), source })?;
    let kind = opened.metadata().map_err(|source| PackError::Read { path: path.clone(), source })?;
    if kind.is_file() { Ok(opened) } else { Err(PackError::NotRegular { path: path.clone() }) }
}

/// Writes bodies end to end and digests the whole on the way.
struct PackWriter {
    out: io::BufWriter<File>,
    digest: Sha256,
    size: u64,
}

impl PackWriter {
    fn create(path: &Path) -> io::Result<PackWriter> {
        let out = io::BufWriter::with_capacity(COPY_BYTES, File::create(path)?);
        Ok(PackWriter { out, digest: Sha256::new(), size: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.out.write_all(bytes).map_err(PackError::Write)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn append(&mut self, file: Prepared) -> Result<ManifestFile, PackError> {
        let mut bodies = Vec::with_capacity(file.bodies.len());
        for (encoding, body) in &file.bodies {
            bodies.push(ManifestBody { encoding: *encoding, offset: self.size, size: body.len() as u64 });
            self.write(body)?;
        }
        Ok(ManifestFile {
            path: file.path.as_str().to_owned(),
            digest: hex::encode(file.digest),
            size: bodies[0].size,
            media_type: file.media_type,
            bodies,
        })
    }

    /// A file too large to be held: stored as it is, in pieces.
    fn stream(&mut self, path: &TreePath, source: &Source) -> Result<ManifestFile, PackError> {
        let mut reader = source_reader(path, source)?;
        let offset = self.size;
        let mut digest = Sha256::new();
        let mut piece = vec![0; COPY_BYTES];
        loop {
            let read =
                reader.read(&mut piece).map_err(|source| PackError::Read { path: path.clone(), source })?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            self.write(&piece[..read])?;
            if self.size - offset > MAX_BODY_BYTES {
                return Err(PackError::TooLarge { path: path.clone() });
            }
        }
        let size = self.size - offset;
        Ok(ManifestFile {
            path: path.as_str().to_owned(),
            digest: hex::encode(digest.finalize()),
            size,
            media_type: media_type::for_path(path.as_str()),
            bodies: vec![ManifestBody { encoding: Encoding::Identity, offset, size }],
        })
    }

    fn finish(mut self) -> io::Result<([u8; 32], u64)> {
        self.out.flush()?;
        Ok((self.digest.finalize().into(), self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const OPTIONS: Options = Options { compress_file_bytes: 100_000, threads: 2 };

    fn file(path: &str, body: &[u8]) -> (TreePath, Source) {
        (TreePath::parse(path).unwrap(), Source::Bytes(Bytes::copy_from_slice(body)))
    }

    #[test]
    fn same_files_in_any_order_give_the_same_version() {
        let folder = tempfile::tempdir().unwrap();
        let text = "hello, world. ".repeat(100);
        let mut files: Vec<_> =
            (0..50).map(|at| file(&format!("f{at}.txt"), format!("{text}{at}").as_bytes())).collect();
        files.push(file("big.txt", &vec![b'x'; 100_001]));
        let first = build(files.clone(), folder.path(), OPTIONS).unwrap();
        let bytes = std::fs::read(&first.pack_path).unwrap();
        files.reverse();
        let second = build(files, folder.path(), Options { threads: 1, ..OPTIONS }).unwrap();
        assert_eq!(first.digest, second.digest);
        assert_eq!(bytes, std::fs::read(&second.pack_path).unwrap());
        assert_eq!(Manifest::parse(&first.manifest_bytes).unwrap(), first.manifest);
    }

    #[test]
    fn every_body_in_the_pack_is_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let text = "some text that repeats. ".repeat(200);
        let on_disk = folder.path().join("source");
        std::fs::write(&on_disk, &text).unwrap();
        let files = vec![
            file("empty.txt", b""),
            file("big.bin", &vec![7; 300_000]),
            (TreePath::parse("page.html").unwrap(), Source::Path(on_disk)),
        ];
        let packed = build(files, folder.path(), OPTIONS).unwrap();
        let pack = File::open(&packed.pack_path).unwrap();
        for entry in &packed.manifest.files {
            for body in &entry.bodies {
                let mut bytes = vec![0; body.size as usize];
                pack.read_exact_at(&mut bytes, body.offset).unwrap();
                let plain = compress::decompress(&bytes, body.encoding, entry.size as usize).unwrap();
                assert_eq!(hex::encode(Sha256::digest(plain)), entry.digest, "{} {:?}", entry.path, body);
            }
        }
        let encodings = packed.manifest.files.iter().map(|f| f.bodies.len()).collect::<Vec<_>>();
        assert_eq!(encodings, [1, 1, 4]);
    }

    #[test]
    fn links_and_duplicates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        let path = TreePath::parse("a.txt").unwrap();
        let linked = build(vec![(path.clone(), Source::Path(link))], folder.path(), OPTIONS);
        assert!(matches!(linked, Err(PackError::Read { .. })), "{linked:?}");
        let twice = build(vec![file("a.txt", b"1"), file("a.txt", b"2")], folder.path(), OPTIONS);
        assert!(matches!(twice, Err(PackError::Twice { .. })), "{twice:?}");
        let inside = build(vec![(path, Source::Path(folder.path().into()))], folder.path(), OPTIONS);
        assert!(matches!(inside, Err(PackError::NotRegular { .. })), "{inside:?}");
    }

    #[test]
    fn twenty_small_files_pack_quickly() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..20)
            .map(|at| {
                let body: String = (0..150).map(|line| format!("<p>line {line} of {at}</p>\n")).collect();
                file(&format!("page{at}.html"), body.as_bytes())
            })
            .collect();
        let started = std::time::Instant::now();
        build(files, folder.path(), OPTIONS).unwrap();
        let took = started.elapsed();
        println!("20 files packed in {took:?}");
        // Ten times the figure measured on an idle machine, so that only a real regression fails.
        assert!(took < std::time::Duration::from_millis(300), "{took:?}");
    }
}
