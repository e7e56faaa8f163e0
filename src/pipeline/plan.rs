//! Reads what detection needs of a source tree, within bounds, and has it decide.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Walk;
use super::detect::{self, DetectError, Plan};
use super::step::StepError;
use super::sync::Source;
use crate::domain::Step;
use crate::domain::source::{BuildOverrides, SourceTree};

const STEP: Step = Step::Sandbox;

/// What is to be done with the source.
pub async fn make(walk: &Walk<'_>, source: &Source) -> Result<Plan, StepError> {
    let deployment = overrides(walk, STEP)?;
    let settings = &walk.control().settings.pipeline;
    let tree = &source.tree;
    let (deployment, only) = detect::located(tree, deployment);
    let path = detect::project_file(tree, &deployment).map_err(refused)?;
    let text = match &path {
        Some(path) => Some(read(walk, tree, path, settings.project_file_bytes).await?),
        None => None,
    };
    let file = path.as_deref().zip(text.as_deref());
    let wishes = detect::wishes(&deployment, file).map_err(refused)?;
    let mut files = BTreeMap::new();
    for path in detect::sources(tree, &wishes).map_err(refused)? {
        let bytes = read(walk, tree, &path, settings.manifest_bytes).await?;
        files.insert(path, bytes);
    }
    let mut plan = detect::detect(tree, &wishes, &files).map_err(refused)?;
    if let Some(folder) = only {
        let words = format!(" (in {folder}, the project's only package)");
        match &mut plan {
            Plan::Files { sign, .. } => sign.push_str(&words),
            Plan::Build(plan) => plan.sign.push_str(&words),
        }
    }
    Ok(plan)
}

/// What the deployment itself says of its build.
pub fn overrides(walk: &Walk<'_>, step: Step) -> Result<BuildOverrides, StepError> {
    serde_json::from_str(&walk.row.build)
        .map_err(|e| StepError::platform(step, "The recorded build settings can't be read.", e))
}

async fn read(walk: &Walk<'_>, tree: &SourceTree, path: &str, limit: usize) -> Result<Bytes, StepError> {
    let Some(entry) = tree.files.get(path) else { return Ok(Bytes::new()) };
    if entry.size > limit as u64 {
        return Err(refused(DetectError::TooLarge { path: path.to_owned(), limit }));
    }
    let read = walk.control().blobs.get(walk.org.as_str(), &entry.digest).await;
    read.map_err(|e| StepError::blobs(STEP, e))
}

fn refused(error: DetectError) -> StepError {
    StepError::user(STEP, error.summary(), error.hint()).with_evidence(error.to_string())
}
