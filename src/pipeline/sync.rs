//! Step 2: the source tree by the contract's rule. Content-addressed: only what the blob store
//! lacks is written. It needs no undo: an unreferenced tree is collected like any other blob.

use serde::{Deserialize, Serialize};

use super::step::{Done, StepError, persist};
use super::{Project, Walk};
use crate::blobs::BlobError;
use crate::control::ControlError;
use crate::control::projects::stored_tree;
use crate::control::templates::tree_of as template_tree;
use crate::domain::source::{SourceOrder, SourceTree};
use crate::domain::{Digest, Step};

const STEP: Step = Step::Sync;

/// The tree that is deployed.
pub struct Source {
    pub digest: Digest,
    pub tree: SourceTree,
}

/// What the journal keeps.
#[derive(Debug, Serialize, Deserialize)]
struct Journaled {
    tree: Digest,
}

pub async fn run(walk: &Walk<'_>, project: &Project) -> Result<Done<Source>, StepError> {
    let control = walk.control();
    if let Some(known) = journaled::<Journaled>(walk, STEP).await? {
        // The stored tree may have changed since the first attempt; this deployment's has not.
        match control.tree_load(&walk.org, &known.tree).await {
            Ok(tree) => {
                let line = format!("Source reused: {} files", tree.files.len());
                return Ok(Done::completed(Source { digest: known.tree, tree }, line));
            }
            // It is assembled again from what the deployment was recorded with.
            Err(ControlError::Blobs(BlobError::Missing { .. })) => {
                tracing::warn!(deployment.id = %walk.row.id, "the tree of an earlier attempt is gone; it is assembled again");
            }
            Err(e) => return Err(StepError::control(STEP, e)),
        }
    }
    let order: SourceOrder = serde_json::from_str(&walk.row.source)
        .map_err(|e| StepError::platform(STEP, "The recorded source can't be read.", e))?;
    let stored = stored_tree(project);
    let template = template_tree(project);
    let (digest, tree) = persist(STEP, || async {
        match control.sources_assemble(&walk.org, &order, stored.as_ref(), template.as_ref()).await {
            // An outage of the record only is waited out; content-addressed, so repeating is harmless.
            Err(ControlError::Store(e)) => Err(e),
            other => Ok(other),
        }
    })
    .await?
    .map_err(|e| StepError::control(STEP, e))?;
    if tree.files.is_empty() {
        return Err(StepError::user(
            STEP,
            "The project has no files.",
            "Send initFiles, or store files first.",
        ));
    }
    let line = format!("Source ready: {} files", tree.files.len());
    let result = Journaled { tree: digest.clone() };
    Ok(Done::completed(Source { digest, tree }, line).with_result(&result))
}

/// The result that an earlier attempt journaled for `step`.
pub async fn journaled<T: serde::de::DeserializeOwned>(
    walk: &Walk<'_>,
    step: Step,
) -> Result<Option<T>, StepError> {
    let rows =
        walk.control().store.deployment_steps(&walk.row.id).await.map_err(|e| StepError::store(step, e))?;
    let found = rows.into_iter().find(|r| r.step == step.as_str()).and_then(|r| r.result);
    Ok(found.and_then(|text| serde_json::from_str(&text).ok()))
}
