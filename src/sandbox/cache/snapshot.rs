//! One kept thing while somebody uses it, and the small file that says what it is.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::harden::Size;
use super::name::Name;
use super::{Found, Method};
use crate::sandbox::tree;

const MANIFEST: &str = "manifest.json";
/// Far more than one ever has.
const MANIFEST_BYTES: u64 = 64 * 1024;

/// Held: nobody removes it as long as this lives.
#[derive(Debug)]
pub(in crate::sandbox) struct Snapshot {
    pub(super) name: Name,
    pub(super) folder: PathBuf,
    pub(super) manifest: Manifest,
    pub(super) lock: File,
    /// Its name in `staging`, where it is its holder's alone and goes with it.
    pub(super) private: Option<String>,
}

#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Manifest {
    pub bytes: u64,
    pub files: u64,
    pub kept_at_ms: i64,
    /// For framework caches: which folders these are.
    pub folders: Vec<String>,
    /// The start of the host since which its files may be in memory only.
    pub boot: String,
    pub synced: bool,
}

impl Snapshot {
    /// What is laid under a work folder.
    pub(in crate::sandbox) fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    pub(super) fn found(&self, method: Method) -> Found {
        Found {
            key: self.name.short(),
            bytes: self.manifest.bytes,
            files: self.manifest.files,
            kept_at_ms: self.manifest.kept_at_ms,
            method,
        }
    }
}

impl Manifest {
    pub(super) fn new(size: Size, folders: Vec<String>) -> Self {
        let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        Self {
            bytes: size.bytes,
            files: size.files,
            kept_at_ms: i64::try_from(now).unwrap_or(i64::MAX),
            folders,
            boot: boot(),
            synced: false,
        }
    }

    /// A power cut may have left files without their content; a killed server has not.
    pub(super) fn is_whole(&self) -> bool {
        self.synced || (!self.boot.is_empty() && self.boot == boot())
    }

    pub(super) fn read(folder: &OwnedFd) -> Option<Self> {
        let file = tree::open_beneath(folder, MANIFEST, OFlags::RDONLY, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).take(MANIFEST_BYTES).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Aside first, so that a reader finds the old one or the new one.
    pub(super) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let aside = folder.join("manifest.new");
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        std::fs::rename(&aside, folder.join(MANIFEST))
    }
}

fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_of_an_earlier_boot_is_believed_only_if_it_was_written_out() {
        let young = Manifest::new(Size::default(), Vec::new());
        assert!(young.is_whole());
        let older = Manifest { boot: "another".into(), ..young.clone() };
        assert!(!older.is_whole() && Manifest { synced: true, ..older }.is_whole());
        assert!(!Manifest { boot: String::new(), ..young }.is_whole());
    }
}
