//! Source trees: storing what a request brings, and making the tree that a deployment builds.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;

use super::error::FieldProblem;
use super::{Control, ControlError, diff};
use crate::domain::source::{HistoryEdit, SourceOrder, SourceTree, TreeEntry};
use crate::domain::tree_path::{TreePath, find_conflicts};
use crate::domain::{Digest, OrgId};

/// A file as a request brought it; its path is parsed already.
#[derive(Debug, Clone)]
pub struct SourceFile {
    pub path: TreePath,
    pub content: Bytes,
}

/// Blobs that a request needs stored, each once.
#[derive(Debug, Default)]
struct Needed {
    seen: HashSet<Digest>,
    blobs: Vec<(Digest, Bytes)>,
}

impl Needed {
    fn add(&mut self, bytes: Bytes) -> TreeEntry {
        let digest = Digest::of(&bytes);
        let size = bytes.len() as u64;
        if self.seen.insert(digest.clone()) {
            self.blobs.push((digest.clone(), bytes));
        }
        TreeEntry { digest, size }
    }
}

impl Control {
    /// Makes the sources of a request durable: reference rows first, then blobs. Answers what the
    /// deployment's row will name.
    ///
    /// # Errors
    /// If the database or the blob store can't take them.
    pub async fn sources_store(
        &self,
        org: &OrgId,
        files: Option<Vec<SourceFile>>,
        history: Vec<(HistoryEdit, Option<Bytes>)>,
    ) -> Result<SourceOrder, ControlError> {
        let mut needed = Needed::default();
        let mut order = SourceOrder::default();
        if let Some(files) = files {
            let entries: BTreeMap<String, TreeEntry> =
                files.into_iter().map(|f| (f.path.as_str().to_owned(), needed.add(f.content))).collect();
            order.tree = Some(needed.add(to_json(&SourceTree::new(entries))?).digest);
        }
        if !history.is_empty() {
            let mut edits = Vec::with_capacity(history.len());
            for (edit, bytes) in history {
                if let Some(bytes) = bytes {
                    needed.add(bytes);
                }
                edits.push(edit);
            }
            order.history = Some(needed.add(to_json(&edits)?).digest);
        }
        self.store_blobs(org, needed.blobs).await?;
        Ok(order)
    }

    /// The tree by the contract's rule: what the request brought replaces the stored one, above the
    /// project's template; then the history is replayed. Answers the tree and its digest; it is stored.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if the result can't be a tree, or what the stores report.
    pub async fn sources_assemble(
        &self,
        org: &OrgId,
        order: &SourceOrder,
        stored: Option<&Digest>,
        template: Option<&Digest>,
    ) -> Result<(Digest, SourceTree), ControlError> {
        let mut tree = match order.tree.as_ref().or(stored) {
            Some(digest) => self.tree_load(org, digest).await?,
            None => SourceTree::new(BTreeMap::new()),
        };
        if let (Some(_), Some(template)) = (&order.tree, template) {
            tree = self.beneath(org, template, tree).await?;
        }
        if let Some(history) = &order.history {
            let bytes = self.blobs.get(org.as_str(), history).await?;
            let edits: Vec<HistoryEdit> = serde_json::from_slice(&bytes).map_err(ControlError::Json)?;
            diff::replay(&mut tree, edits);
        }
        self.tree_check(&tree)?;
        let bytes = to_json(&tree)?;
        let digest = Digest::of(&bytes);
        if stored != Some(&digest) && order.tree.as_ref() != Some(&digest) {
            self.store_blobs(org, vec![(digest.clone(), bytes)]).await?;
        }
        Ok((digest, tree))
    }

    pub async fn tree_load(&self, org: &OrgId, digest: &Digest) -> Result<SourceTree, ControlError> {
        let bytes = self.blobs.get(org.as_str(), digest).await?;
        serde_json::from_slice(&bytes).map_err(ControlError::Json)
    }

    /// Whether `tree` can lie on a disk: no bad path, no two that fold to one, within the limits.
    fn tree_check(&self, tree: &SourceTree) -> Result<(), ControlError> {
        let limits = &self.settings.sources;
        let mut problems = Vec::new();
        let mut paths = Vec::with_capacity(tree.files.len());
        for path in tree.files.keys() {
            match TreePath::parse(path) {
                Ok(path) => paths.push(path),
                Err(e) => problems.push(FieldProblem::new("source", format!("the path {e}"))),
            }
        }
        for (_, conflict) in find_conflicts(&paths) {
            problems.push(FieldProblem::new("source", conflict.to_string()));
        }
        if tree.files.len() > limits.max_files {
            let message = format!("{} files; at most {} are allowed", tree.files.len(), limits.max_files);
            problems.push(FieldProblem::new("source", message));
        }
        if tree.total_bytes() > limits.max_total_bytes {
            let message =
                format!("{} bytes; at most {} are allowed", tree.total_bytes(), limits.max_total_bytes);
            problems.push(FieldProblem::new("source", message));
        }
        if problems.is_empty() { Ok(()) } else { Err(ControlError::Invalid(problems)) }
    }

    async fn store_blobs(&self, org: &OrgId, blobs: Vec<(Digest, Bytes)>) -> Result<(), ControlError> {
        let refs: Vec<(Digest, u64)> = blobs.iter().map(|(d, b)| (d.clone(), b.len() as u64)).collect();
        self.store.blob_refs_add(org, &refs).await?;
        self.blobs.put_all(org.as_str(), blobs).await?;
        Ok(())
    }
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Bytes, ControlError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(ControlError::Json)
}
