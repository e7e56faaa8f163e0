//! Owns the written form of a version's manifest and its rules.
//! Never trusts what it reads: a manifest comes back from blob storage, and a wrong offset would serve another file's bytes.

use serde::{Deserialize, Serialize};

use crate::domain::{TreePath, TreePathError};
use crate::runtime::site::Encoding;

pub const FORMAT: u32 = 1;
/// Bytes of one body; four sizes of this width keep a file's entry in memory at 64 bytes.
pub const MAX_BODY_BYTES: u64 = u32::MAX as u64;
/// Bytes of a manifest, far above that of 100,000 files with ordinary names.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    pub version: u32,
    /// Sorted by path.
    pub files: Vec<ManifestFile>,
    /// SHA-256 of the pack, 64 hex digits.
    pub pack_digest: String,
    pub pack_size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestFile {
    pub path: String,
    /// SHA-256 of the file as it was built, 64 hex digits.
    pub digest: String,
    pub size: u64,
    pub media_type: String,
    /// The file as it was built first, then its compressed copies in the order br, zstd, gzip, end to end.
    pub bodies: Vec<ManifestBody>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManifestBody {
    pub encoding: Encoding,
    pub offset: u64,
    pub size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is larger than 64 MiB")]
    TooLarge,
    #[error("the manifest is no valid JSON of its form")]
    Json(#[source] serde_json::Error),
    #[error("the manifest has format {0}, this program reads format 1")]
    Format(u32),
    #[error("the manifest holds a path that is not allowed: {path}")]
    Path {
        path: String,
        #[source]
        source: TreePathError,
    },
    #[error("the manifest's files are not sorted by path, or one appears twice: {path}")]
    Order { path: String },
    #[error("the manifest's digest of {what} is not 64 lower-case hex digits")]
    Digest { what: String },
    #[error("the manifest's bodies of {path} do not lie end to end in the pack")]
    Layout { path: String },
    #[error("the manifest's media type of {path} can't be a header value")]
    MediaType { path: String },
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes that are stored; the same manifest always gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of texts and numbers always becomes JSON")
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.version != FORMAT {
            return Err(ManifestError::Format(self.version));
        }
        digest_from_hex(&self.pack_digest)
            .ok_or_else(|| ManifestError::Digest { what: "the pack".to_owned() })?;
        let mut end = 0u64;
        let mut previous: Option<&str> = None;
        for file in &self.files {
            TreePath::parse(&file.path)
                .map_err(|source| ManifestError::Path { path: file.path.clone(), source })?;
            if previous.is_some_and(|previous| previous >= file.path.as_str()) {
                return Err(ManifestError::Order { path: file.path.clone() });
            }
            previous = Some(&file.path);
            digest_from_hex(&file.digest).ok_or_else(|| ManifestError::Digest { what: file.path.clone() })?;
            end = file
                .end_if_laid_out_from(end)
                .ok_or_else(|| ManifestError::Layout { path: file.path.clone() })?;
        }
        if end == self.pack_size {
            Ok(())
        } else {
            Err(ManifestError::Layout { path: "the last file".to_owned() })
        }
    }
}

impl ManifestFile {
    fn end_if_laid_out_from(&self, start: u64) -> Option<u64> {
        let first = self.bodies.first()?;
        if first.encoding != Encoding::Identity || first.size != self.size {
            return None;
        }
        let mut end = start;
        for (at, body) in self.bodies.iter().enumerate() {
            let in_order = at == 0 || self.bodies[at - 1].encoding < body.encoding;
            if !in_order || body.offset != end || body.size > MAX_BODY_BYTES || (at > 0 && body.size == 0) {
                return None;
            }
            end = end.checked_add(body.size)?;
        }
        Some(end)
    }
}

/// Exactly 64 lower-case hex digits.
pub fn digest_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut digest).is_ok()).then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let body = |encoding, offset, size| ManifestBody { encoding, offset, size };
        let file = |path: &str, bodies: Vec<ManifestBody>| ManifestFile {
            path: path.to_owned(),
            digest: "ab".repeat(32),
            size: bodies[0].size,
            media_type: "text/plain; charset=utf-8".to_owned(),
            bodies,
        };
        Manifest {
            version: 1,
            files: vec![
                file("a", vec![body(Encoding::Identity, 0, 10), body(Encoding::Gzip, 10, 5)]),
                file("b", vec![body(Encoding::Identity, 15, 0)]),
            ],
            pack_digest: "cd".repeat(32),
            pack_size: 15,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(Manifest::parse(&manifest().to_bytes()).unwrap(), manifest());
    }

    #[test]
    fn a_manifest_that_would_serve_other_bytes_is_refused() {
        let breaks: [fn(&mut Manifest); 9] = [
            |m| m.version = 2,
            |m| m.files[0].path = "../a".to_owned(),
            |m| m.files.swap(0, 1),
            |m| m.files[1].path = "a".to_owned(),
            |m| m.files[0].bodies[1].offset = 0,
            |m| m.files[0].bodies[0].encoding = Encoding::Brotli,
            |m| m.files[0].size = 9,
            |m| m.pack_size = 16,
            |m| m.files[0].digest = "AB".repeat(32),
        ];
        for (at, spoil) in breaks.into_iter().enumerate() {
            let mut bad = manifest();
            spoil(&mut bad);
            assert!(Manifest::parse(&bad.to_bytes()).is_err(), "break number {at} went unnoticed");
        }
    }
}
