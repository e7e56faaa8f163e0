//! From files to an immutable version: packed once, stored once.

use std::path::{Path, PathBuf};

use futures_util::{StreamExt, TryStreamExt};

use super::Walk;
use super::build::{Built, STEP};
use super::step::{StepError, persist};
use crate::domain::Digest;
use crate::domain::source::SourceTree;
use crate::domain::tree_path::TreePath;
use crate::runtime::site_rules::is_rules_file;
use crate::runtime::{PackError, PackedVersion, Source, pack};

/// Blobs read at once.
const PARALLEL: usize = 8;

/// A pack that is stored.
pub struct Stored {
    pub built: Built,
    /// Lines for the build log: what of `_redirects` and `_headers` is left out.
    pub notes: Vec<String>,
}

/// Packs the part of a source tree beneath `directory`.
pub async fn pack_tree(walk: &Walk<'_>, tree: &SourceTree, directory: &str) -> Result<Stored, StepError> {
    let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
    let wanted = tree.files.iter().filter_map(|(path, entry)| {
        let path = TreePath::parse(path.strip_prefix(&prefix)?).ok()?;
        Some((path, entry.digest.clone()))
    });
    let files: Vec<(TreePath, Source)> =
        futures_util::stream::iter(wanted.map(|(path, digest)| async move {
            let bytes = walk.control().blobs.get(walk.org.as_str(), &digest).await;
            bytes.map(|bytes| (path, Source::Bytes(bytes)))
        }))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
        .map_err(|e| StepError::blobs(STEP, e))?;
    pack_files(walk, files).await
}

/// Packs collected files.
pub async fn pack_folder(walk: &Walk<'_>, folder: PathBuf, paths: Vec<String>) -> Result<Stored, StepError> {
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let parsed = TreePath::parse(&path).map_err(|e| {
            StepError::user(STEP, "The output holds a file with a name that can't be served.", "Rename it.")
                .with_evidence(format!("`{}` {e}", path.escape_debug()))
        })?;
        files.push((parsed, Source::Path(folder.join(&path))));
    }
    pack_files(walk, files).await
}

async fn pack_files(walk: &Walk<'_>, files: Vec<(TreePath, Source)>) -> Result<Stored, StepError> {
    if !files.is_empty() && files.iter().all(|(path, _)| is_rules_file(path.as_str())) {
        let hint = "Add a page, for example index.html, beside _redirects and _headers.";
        return Err(StepError::user(STEP, "The output holds rules only, and no file to serve.", hint));
    }
    let folder = walk.scratch().join("pack");
    tokio::fs::create_dir_all(&folder).await.map_err(local)?;
    let settings = &walk.control().settings.runtime;
    let options = pack::Options {
        compress_file_bytes: settings.compress_file_bytes,
        threads: settings.compress_threads,
    };
    let packed = tokio::task::spawn_blocking(move || pack::build(files, &folder, options))
        .await
        .map_err(|e| StepError::platform(STEP, "Packing the output failed.", e))?
        .map_err(from_pack)?;
    let built = store(walk, &packed).await?;
    // Kept beside the pack, so that this node need not fetch what it has just made.
    let beside = manifest_beside(&packed.pack_path);
    tokio::fs::write(beside, &packed.manifest_bytes).await.map_err(local)?;
    let notes = packed.rules_report.lines().map(|line| format!("libra: {line}")).collect();
    Ok(Stored { built, notes })
}

async fn store(walk: &Walk<'_>, packed: &PackedVersion) -> Result<Built, StepError> {
    let digest_of =
        |text: &str| Digest::parse(text).map_err(|e| StepError::platform(STEP, "The pack has no digest.", e));
    let built = Built {
        manifest: digest_of(&hex::encode(packed.digest))?,
        pack: digest_of(&packed.manifest.pack_digest)?,
        pack_size: packed.manifest.pack_size,
        file_count: packed.manifest.files.len() as u64,
    };
    let blobs = &walk.control().blobs;
    let refs =
        [(built.manifest.clone(), packed.manifest_bytes.len() as u64), (built.pack.clone(), built.pack_size)];
    persist(STEP, || walk.control().store.blob_refs_add(&walk.org, &refs)).await?;
    let org = walk.org.as_str();
    let stored = futures_util::future::try_join(
        blobs.put_file(org, &built.pack, &packed.pack_path),
        blobs.put(org, &built.manifest, packed.manifest_bytes.clone()),
    );
    stored.await.map_err(|e| StepError::blobs(STEP, e))?;
    Ok(built)
}

/// Where this attempt keeps the manifest of the pack it made.
pub fn manifest_beside(pack: &Path) -> PathBuf {
    pack.with_file_name("manifest.json")
}

pub fn local(error: std::io::Error) -> StepError {
    StepError::platform(STEP, "The server's disk could not be read or written.", error)
}

fn from_pack(error: PackError) -> StepError {
    StepError::platform(STEP, "Packing the output failed.", error)
}
