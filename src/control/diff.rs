//! History messages: which file changes a conversation holds, and replaying them over a tree.

use serde::Deserialize;

use super::error::FieldProblem;
use crate::domain::Digest;
use crate::domain::source::{HistoryEdit, SourceTree, TreeEntry};
use crate::domain::tree_path::TreePath;
use bytes::Bytes;

#[derive(Debug, Deserialize)]
struct DiffMessage {
    #[serde(rename = "type")]
    kind: String,
    diff: Vec<DiffEntry>,
}

#[derive(Debug, Deserialize)]
struct DiffEntry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    modified: Option<String>,
}

/// The edits of one message, and the new blobs they need. A message that is not a diff has none:
/// it is context.
///
/// # Errors
/// With the problems of a message that says it is a diff and can't be replayed.
pub fn edits_of(field: &str, content: &str) -> Result<Vec<(HistoryEdit, Option<Bytes>)>, Vec<FieldProblem>> {
    // Only an object that says it is a diff is one; anything else is conversation.
    let Ok(value) = serde_json::from_str::<serde_json::Value>(content) else { return Ok(Vec::new()) };
    if value.get("type").and_then(|t| t.as_str()) != Some("diff") {
        return Ok(Vec::new());
    }
    let message: DiffMessage = serde_json::from_value(value).map_err(|_| {
        vec![FieldProblem::new(field, "says it is a diff but has no list `diff` of {type, path, modified}")]
    })?;
    debug_assert_eq!(message.kind, "diff");
    let mut problems = Vec::new();
    let mut edits = Vec::with_capacity(message.diff.len());
    for (i, entry) in message.diff.into_iter().enumerate() {
        if let Err(e) = TreePath::parse(&entry.path) {
            problems.push(FieldProblem::new(format!("{field}.diff[{i}].path"), format!("the path {e}")));
            continue;
        }
        match entry.kind.as_str() {
            "create" | "edit" => {
                let bytes = Bytes::from(entry.modified.unwrap_or_default());
                let digest = Digest::of(&bytes);
                let edit = HistoryEdit::Write { path: entry.path, digest, size: bytes.len() as u64 };
                edits.push((edit, Some(bytes)));
            }
            "delete" => edits.push((HistoryEdit::Delete { path: entry.path }, None)),
            _ => problems.push(FieldProblem::new(
                format!("{field}.diff[{i}].type"),
                "must be one of create, edit, delete",
            )),
        }
    }
    if problems.is_empty() { Ok(edits) } else { Err(problems) }
}

/// Replays edits over `tree`, in order. Deleting what is not there changes nothing.
pub fn replay(tree: &mut SourceTree, edits: Vec<HistoryEdit>) {
    for edit in edits {
        match edit {
            HistoryEdit::Write { path, digest, size } => {
                tree.files.insert(path, TreeEntry { digest, size });
            }
            HistoryEdit::Delete { path } => {
                tree.files.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversation_is_context_and_diffs_are_replayed_in_order() {
        assert!(edits_of("m", "Create a simple website").unwrap().is_empty());
        assert!(edits_of("m", r#"{"type":"plan","diff":1}"#).unwrap().is_empty());
        let content = r#"{"type":"diff","diff":[{"type":"edit","path":"a","modified":"1"},
            {"type":"create","path":"b","modified":"2"},{"type":"delete","path":"a"}]}"#;
        let edits = edits_of("m", content).unwrap().into_iter().map(|(e, _)| e).collect();
        let mut tree = SourceTree::default();
        replay(&mut tree, edits);
        assert_eq!(tree.files.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn diffs_with_bad_paths_or_kinds_are_refused_by_field() {
        let content = r#"{"type":"diff","diff":[{"type":"edit","path":"../x"},{"type":"move","path":"b"}]}"#;
        let problems = edits_of("historyMessages[0].content", content).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(
            fields,
            ["historyMessages[0].content.diff[0].path", "historyMessages[0].content.diff[1].type"]
        );
    }
}
