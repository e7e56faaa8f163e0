//! Step 6: destroy the sandbox, retire old versions. Runs on success, failure and cancel; it can't
//! fail a deployment that is live. It needs no undo: it is the undo.

use super::sandbox::Held;
use super::step::{Done, StepError};
use super::{Project, Walk};
use crate::domain::{Step, StepStatus};

pub async fn run(walk: &Walk<'_>, project: &Project, held: &mut Held) -> Result<Done<()>, StepError> {
    release(walk, held).await;
    let keep = walk.control().settings.versions.retained;
    match walk.control().store.version_retire(&project.id, keep).await {
        Ok(retired) if !retired.is_empty() => {
            tracing::info!(project.id = %project.id, versions = retired.len(), "old versions retired");
        }
        Ok(_) => {}
        // The sweep of another deployment retires them; this one is live and stays so.
        Err(e) => tracing::warn!(project.id = %project.id, error = %e, "old versions were not retired"),
    }
    Ok(Done::completed((), "Cleaned up"))
}

/// Notes the cleanup of an attempt that did not finish; `progress` stays where the walk ended.
pub async fn journal(walk: &Walk<'_>) {
    let store = &walk.control().store;
    let noted = store.step_end(&walk.hold, Step::Cleanup, StepStatus::Completed, None, "Cleaned up").await;
    if let Err(e) = noted {
        // Whoever holds the lease now cleans up after itself; the verdict says the rest.
        tracing::debug!(deployment.id = %walk.row.id, error = %e, "the cleanup was not noted");
    }
}

/// What every way out has in common: no sandbox, no scratch folder is left. Idempotent.
pub async fn release(walk: &Walk<'_>, held: &mut Held) {
    if let Some(sandbox) = held.0.take()
        && let Err(e) = sandbox.destroy().await
    {
        // The sweep finds what is left by name.
        tracing::warn!(deployment.id = %walk.row.id, error = %e, "the sandbox was not wholly removed");
    }
    match tokio::fs::remove_dir_all(walk.scratch()).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(deployment.id = %walk.row.id, error = %e, "the scratch folder was not removed");
        }
        _ => {}
    }
}
