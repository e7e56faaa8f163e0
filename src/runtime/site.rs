//! Owns one immutable version as it lies in memory: small enough that ten thousand fit, ready to be looked up.
//! Never holds file bodies; those are in the cache or on disk.

use std::mem::size_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::runtime::hashed_name::is_named_by_content;
use crate::runtime::manifest::{Manifest, ManifestError, digest_from_hex};
use crate::runtime::media_type;
use crate::runtime::site_rules::{SiteRules, is_rules_file};

/// The content codings a body may be stored in, in the order of the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    Identity,
    #[serde(rename = "br")]
    Brotli,
    Zstd,
    Gzip,
}

impl Encoding {
    pub const ALL: [Encoding; 4] = [Encoding::Identity, Encoding::Brotli, Encoding::Zstd, Encoding::Gzip];

    /// The name used in `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Identity => "identity",
            Encoding::Brotli => "br",
            Encoding::Zstd => "zstd",
            Encoding::Gzip => "gzip",
        }
    }
}

/// A version of a static site. Requests share it behind an `Arc` and keep it until they end.
#[derive(Debug)]
pub struct SiteVersion {
    id: Box<str>,
    owner: Arc<str>,
    folder: Box<Path>,
    created_at_seconds: u64,
    last_modified: Bytes,
    serial: u64,
    paths: Box<str>,
    media_types: Box<[&'static str]>,
    files: Box<[FileEntry]>,
    /// `None` for the many sites that have none.
    rules: Option<Box<SiteRules>>,
}

/// 64 bytes: a site of 20 files costs a good kilobyte.
#[derive(Debug)]
struct FileEntry {
    digest: [u8; 32],
    offset: u64,
    path_start: u32,
    path_bytes: u16,
    /// Index of the media type, and [`NAMED_BY_CONTENT`]: judged once, because every answer asks.
    media_type: u16,
    /// By [`Encoding`]; `ABSENT` where there is no such copy.
    sizes: [u32; 4],
}

/// No stored body has this size: compressed copies are never empty, and the identity copy always exists.
const ABSENT: u32 = 0;

/// The bit beside the index; there are at most 1024 media types.
const NAMED_BY_CONTENT: u16 = 1 << 15;

/// One file of a version.
#[derive(Debug, Clone, Copy)]
pub struct File<'v> {
    version: &'v SiteVersion,
    index: u32,
}

/// Where one body lies in the version's pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset: u64,
    pub size: u64,
}

impl SiteVersion {
    /// `owner` is the Worker on whose account cached bytes are counted;
    /// `created_at_seconds` (Unix time) becomes `Last-Modified`.
    pub fn new(
        id: &str,
        owner: Arc<str>,
        folder: PathBuf,
        created_at_seconds: u64,
        manifest: &Manifest,
    ) -> Result<SiteVersion, ManifestError> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let mut paths = String::with_capacity(manifest.files.iter().map(|file| file.path.len()).sum());
        let mut media_types: Vec<&'static str> = Vec::new();
        let mut files = Vec::with_capacity(manifest.files.len());
        for file in &manifest.files {
            let bad_type = || ManifestError::MediaType { path: file.path.clone() };
            let bad_layout = || ManifestError::Layout { path: file.path.clone() };
            let kind = media_type::intern(&file.media_type).ok_or_else(bad_type)?;
            let kind_at = media_types.iter().position(|known| *known == kind).unwrap_or_else(|| {
                media_types.push(kind);
                media_types.len() - 1
            });
            let mut sizes = [ABSENT; 4];
            for body in &file.bodies {
                sizes[body.encoding as usize] = u32::try_from(body.size).map_err(|_| bad_layout())?;
            }
            files.push(FileEntry {
                digest: digest_from_hex(&file.digest)
                    .ok_or_else(|| ManifestError::Digest { what: file.path.clone() })?,
                offset: file.bodies.first().ok_or_else(bad_layout)?.offset,
                path_start: u32::try_from(paths.len()).map_err(|_| ManifestError::TooLarge)?,
                path_bytes: u16::try_from(file.path.len()).map_err(|_| ManifestError::TooLarge)?,
                media_type: u16::try_from(kind_at).map_err(|_| bad_type())?
                    | if is_named_by_content(&file.path) { NAMED_BY_CONTENT } else { 0 },
                sizes,
            });
            paths.push_str(&file.path);
        }
        Ok(SiteVersion {
            id: id.into(),
            owner,
            folder: folder.into_boxed_path(),
            created_at_seconds,
            last_modified: http_date(created_at_seconds),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            paths: paths.into_boxed_str(),
            media_types: media_types.into_boxed_slice(),
            files: files.into_boxed_slice(),
            rules: None,
        })
    }

    /// The version with what its `_redirects` and `_headers` say.
    #[must_use]
    pub fn with_rules(self, rules: Option<Box<SiteRules>>) -> SiteVersion {
        SiteVersion { rules, ..self }
    }

    pub fn rules(&self) -> Option<&SiteRules> {
        self.rules.as_deref()
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn owner(&self) -> &Arc<str> {
        &self.owner
    }

    pub fn created_at_seconds(&self) -> u64 {
        self.created_at_seconds
    }

    /// The same time as HTTP writes it, made once.
    pub fn last_modified(&self) -> &Bytes {
        &self.last_modified
    }

    /// Tells two loaded versions apart within this process, also two loads of one id.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    pub fn pack_path(&self) -> PathBuf {
        self.folder.join(crate::runtime::store::PACK_FILE)
    }

    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    pub fn files(&self) -> impl Iterator<Item = File<'_>> {
        (0..self.files.len()).map(|at| File { version: self, index: at as u32 })
    }

    /// The file at exactly this path; files of rules are nobody's to see.
    pub fn file(&self, path: &str) -> Option<File<'_>> {
        if is_rules_file(path) {
            return None;
        }
        let at = self.files.binary_search_by(|entry| self.path_of(entry).cmp(path)).ok()?;
        Some(File { version: self, index: at as u32 })
    }

    /// Bytes of memory this version takes, without the allocator's own share.
    pub fn memory_bytes(&self) -> usize {
        size_of::<SiteVersion>()
            + self.id.len()
            + self.folder.as_os_str().len()
            + self.last_modified.len()
            + self.paths.len()
            + self.media_types.len() * size_of::<&str>()
            + self.files.len() * size_of::<FileEntry>()
            + self.rules.as_ref().map_or(0, |rules| rules.memory_bytes())
    }

    fn path_of(&self, entry: &FileEntry) -> &str {
        let start = entry.path_start as usize;
        &self.paths[start..start + usize::from(entry.path_bytes)]
    }
}

impl<'v> File<'v> {
    pub fn version(self) -> &'v SiteVersion {
        self.version
    }

    pub fn index(self) -> u32 {
        self.index
    }

    pub fn path(self) -> &'v str {
        self.version.path_of(self.entry())
    }

    /// SHA-256 of the file as it was built, whatever encoding is sent.
    pub fn digest(self) -> &'v [u8; 32] {
        &self.entry().digest
    }

    pub fn media_type(self) -> &'static str {
        self.version.media_types[usize::from(self.entry().media_type & !NAMED_BY_CONTENT)]
    }

    /// See [`crate::runtime::hashed_name`].
    pub fn is_named_by_content(self) -> bool {
        self.entry().media_type & NAMED_BY_CONTENT != 0
    }

    pub fn has(self, encoding: Encoding) -> bool {
        encoding == Encoding::Identity || self.entry().sizes[encoding as usize] != ABSENT
    }

    pub fn has_compressed(self) -> bool {
        self.entry().sizes[1..].iter().any(|size| *size != ABSENT)
    }

    pub fn extent(self, encoding: Encoding) -> Option<Extent> {
        let entry = self.entry();
        let before: u64 = entry.sizes[..encoding as usize].iter().map(|size| u64::from(*size)).sum();
        let extent = Extent { offset: entry.offset + before, size: entry.sizes[encoding as usize].into() };
        self.has(encoding).then_some(extent)
    }

    fn entry(self) -> &'v FileEntry {
        &self.version.files[self.index as usize]
    }
}

fn http_date(seconds: u64) -> Bytes {
    // The form has four digits for the year; the crate panics beyond.
    const LAST_SECOND: u64 = 253_402_300_799;
    Bytes::from(httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))))
}
