//! The mirror's files: written aside and renamed, so that a reader sees whole files only, and removed
//! by age of use once they are too many bytes. File names come from checked names alone.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::fs;

use super::MirrorError;
use super::asset::Asset;
use super::document::{Origin, Origins};
use super::upstream::Tarball;

pub(super) struct Store {
    folder: PathBuf,
    total_bytes: u64,
    /// Bytes written since the folder was last added up; begins full, so that the first write does it.
    unsurveyed: AtomicU64,
}

/// No fetch takes as long as this.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A file of the mirror, open.
pub(super) struct Kept {
    pub file: fs::File,
    pub size: u64,
}

impl Store {
    pub(super) fn open(folder: &Path, total_bytes: u64) -> Result<Self, MirrorError> {
        let temporary = folder.join("temporary");
        std::fs::create_dir_all(&temporary).map_err(disk("make its folder"))?;
        // What a killed server left half written; younger files may be another live server's.
        let mut aside = Vec::new();
        list(&temporary, &mut aside);
        for (written, _, path) in aside {
            if written.elapsed().is_ok_and(|age| age > ABANDONED) {
                drop(std::fs::remove_file(path));
            }
        }
        Ok(Self { folder: folder.to_owned(), total_bytes, unsurveyed: AtomicU64::new(u64::MAX / 2) })
    }

    /// The file if it is there and, for a document, not older than `fresh`.
    pub(super) async fn find(
        &self,
        asset: &Asset,
        fresh: Option<Duration>,
    ) -> Result<Option<Kept>, MirrorError> {
        let file = match fs::File::open(self.folder.join(asset.key())).await {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(disk("open a file")(other)),
        };
        let about = file.metadata().await.map_err(disk("look at a file"))?;
        let age = about.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        match (asset, fresh) {
            (Asset::Document { .. }, Some(fresh)) if age > fresh => return Ok(None),
            // The time of a tarball is that of its last use; once an hour is exact enough.
            (Asset::Tarball { .. }, _) if age > Duration::from_secs(3600) => {
                let file = file.try_clone().await.map_err(disk("open a file"))?.into_std().await;
                drop(file.set_modified(SystemTime::now()));
            }
            _ => {}
        }
        Ok(Some(Kept { size: about.len(), file }))
    }

    pub(super) async fn keep_document(
        &self,
        asset: &Asset,
        served: Vec<u8>,
        origins: Vec<u8>,
    ) -> Result<(), MirrorError> {
        if let Asset::Document { name, .. } = asset {
            self.write(&self.origins_path(name), &origins).await?;
        }
        self.write(&self.folder.join(asset.key()), &served).await
    }

    async fn write(&self, path: &Path, content: &[u8]) -> Result<(), MirrorError> {
        let aside = self.temporary().await?;
        fs::write(&aside, content).await.map_err(disk("write a file"))?;
        self.place(&aside, path, u64::try_from(content.len()).unwrap_or(u64::MAX)).await
    }

    fn origins_path(&self, name: &str) -> PathBuf {
        self.folder.join("documents").join(name).join("origins.json")
    }

    /// Where a tarball came from, if its package document was ever seen.
    pub(super) async fn origin(&self, name: &str, file: &str) -> Option<Origin> {
        let text = fs::read(self.origins_path(name)).await.ok()?;
        serde_json::from_slice::<Origins>(&text).ok()?.remove(file)
    }

    /// A fresh name to write to before the file is whole.
    pub(super) async fn temporary(&self) -> Result<PathBuf, MirrorError> {
        let folder = self.folder.join("temporary");
        fs::create_dir_all(&folder).await.map_err(disk("make its folder"))?;
        Ok(folder.join(uuid::Uuid::new_v4().simple().to_string()))
    }

    /// Keeps a tarball that matched its digest; anything else is handed out once and forgotten.
    pub(super) async fn keep_tarball(
        &self,
        asset: &Asset,
        aside: PathBuf,
        fetched: Result<Tarball, MirrorError>,
    ) -> Result<Option<Kept>, MirrorError> {
        match fetched {
            Ok(Tarball::Verified { size }) => {
                self.place(&aside, &self.folder.join(asset.key()), size).await.map(|()| None)
            }
            Ok(Tarball::Unverified { size }) => {
                let opened = fs::File::open(&aside).await.map_err(disk("open a file"));
                drop(fs::remove_file(&aside).await);
                Ok(Some(Kept { file: opened?, size }))
            }
            Err(error) => {
                drop(fs::remove_file(&aside).await);
                Err(error)
            }
        }
    }

    async fn place(&self, aside: &Path, path: &Path, size: u64) -> Result<(), MirrorError> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).await.map_err(disk("make a folder"))?;
        }
        fs::rename(aside, path).await.map_err(disk("put a file in place"))?;
        let written = self.unsurveyed.fetch_add(size, Ordering::Relaxed).saturating_add(size);
        // Adding up costs a walk over all files, so it waits for a sixteenth of the bound.
        if written >= self.total_bytes / 16 {
            self.unsurveyed.store(0, Ordering::Relaxed);
            let (folder, total) = (self.folder.clone(), self.total_bytes);
            tokio::task::spawn_blocking(move || evict(&folder, total)).await.map_err(MirrorError::Task)??;
        }
        Ok(())
    }
}

/// Removes the files used longest ago until nine tenths of the bound are left.
fn evict(folder: &Path, total_bytes: u64) -> Result<(), MirrorError> {
    let mut files = Vec::new();
    for part in ["documents", "tarballs"] {
        list(&folder.join(part), &mut files);
    }
    let mut kept: u64 = files.iter().map(|(_, size, _)| size).sum();
    if kept <= total_bytes {
        return Ok(());
    }
    files.sort_by_key(|(used, _, _)| *used);
    for (_, size, path) in files {
        if kept <= total_bytes / 10 * 9 {
            break;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => kept -= size,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => kept -= size,
            Err(other) => return Err(disk("remove an old file")(other)),
        }
    }
    Ok(())
}

fn list(folder: &Path, files: &mut Vec<(SystemTime, u64, PathBuf)>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() {
            list(&entry.path(), files);
        } else {
            files.push((about.modified().unwrap_or(SystemTime::UNIX_EPOCH), about.len(), entry.path()));
        }
    }
}

pub(super) fn disk(action: &'static str) -> impl Fn(std::io::Error) -> MirrorError {
    move |source| MirrorError::Disk { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_files_go_first() {
        let home = tempfile::tempdir().unwrap();
        for (index, name) in ["old", "middle", "new"].iter().enumerate() {
            let path = home.path().join("tarballs").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, [0; 100]).unwrap();
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + u64::try_from(index).unwrap());
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(at).unwrap();
        }
        evict(home.path(), 250).unwrap();
        let left = |name| home.path().join("tarballs").join(name).exists();
        assert!(!left("old") && left("middle") && left("new"));
    }
}
