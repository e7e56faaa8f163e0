//! The walk: validate → sync → sandbox → build → deploy → cleanup.
//!
//! Each step is idempotent and journals its result, so that a new attempt resumes after the last
//! one that can be reused. Knows no framework, no SQL and no broker.

mod faults;
mod run;
mod step;
mod verdict;

mod build;
mod cleanup;
mod collect;
mod dependencies;
mod deploy;
mod detect;
mod diagnose;
mod inputs;
mod lockfile;
mod log;
mod manager;
mod mask;
mod output;
mod plan;
mod probe;
mod sandbox;
mod sync;
mod tools;
mod validate;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::domain::{Digest, OrgId, Step};
use crate::store::StoreError;
use crate::store::deployments::DeploymentRow;
use crate::store::journal::Hold;
use crate::store::projects::ProjectRow;

pub use crate::control::live::RefreshRoutes;
pub use detect::names as frameworks;
pub use faults::{Action, Faults, Point};
pub use probe::{ProbeError, Prober};
pub use run::{Ended, Stop, run};
pub use step::{FINAL_HINT, RETRY_HINT, StepError};
pub use verdict::seconds_ms;

/// What the walk works with. Made once, in the composition root.
#[derive(Clone)]
pub struct Pipeline {
    pub control: Arc<Control>,
    pub sandboxes: Arc<crate::sandbox::Providers>,
    pub toolchain: Arc<crate::toolchain::Toolchain>,
    pub versions: Arc<crate::runtime::VersionStore>,
    pub refresh_routes: RefreshRoutes,
    pub prober: Arc<Prober>,
    pub faults: Arc<Faults>,
    /// This process, as lease owner and as edge.
    pub node: String,
    /// Where outputs are collected and packed; emptied at every start and by the sweep.
    pub scratch: PathBuf,
}

/// One attempt on its way.
pub(crate) struct Walk<'a> {
    pub pipeline: &'a Pipeline,
    pub row: &'a DeploymentRow,
    pub hold: Hold,
    pub org: OrgId,
    pub cancel: CancellationToken,
    /// The server is stopping: no further step begins.
    pub draining: CancellationToken,
}

/// The six lines. `sandbox` outlives the walk, so that cleanup can destroy it whatever happened.
async fn walk(walk: &Walk<'_>, sandbox: &mut sandbox::Held) -> Result<Option<Digest>, StepError> {
    let project = step::run(walk, Step::Validate, validate::run(walk)).await?;
    let source = step::run(walk, Step::Sync, sync::run(walk, &project)).await?;
    let plan = step::run(walk, Step::Sandbox, sandbox::run(walk, &project, &source, sandbox)).await?;
    let output = step::run(walk, Step::Build, build::run(walk, &source, plan, sandbox)).await?;
    step::run(walk, Step::Deploy, deploy::run(walk, &project, &output)).await?;
    match step::run(walk, Step::Cleanup, cleanup::run(walk, &project, sandbox)).await {
        Err(StepError::LeaseLost) => Err(StepError::LeaseLost),
        Err(e) => {
            // It is live and was fetched: nothing that comes after can fail it.
            tracing::warn!(deployment.id = %walk.row.id, error = ?e, "cleanup did not finish; the sweep goes on");
            Ok(Some(source.digest))
        }
        Ok(()) => Ok(Some(source.digest)),
    }
}

impl Walk<'_> {
    fn control(&self) -> &Control {
        &self.pipeline.control
    }

    /// A folder of this attempt alone; another attempt of the same deployment has another one.
    fn scratch(&self) -> PathBuf {
        self.pipeline.scratch.join(self.name())
    }

    fn name(&self) -> String {
        self.hold.name()
    }
}

/// What `ProjectRow` is to the steps: the project as validate found it.
pub(crate) type Project = ProjectRow;

/// Removes scratch folders of attempts that hold no lease any more, whoever left them.
///
/// # Errors
/// If the record can't be read; nothing is removed then.
pub async fn sweep_scratch(pipeline: &Pipeline) -> Result<(), StoreError> {
    /// Other files are temporary copies, made and removed within a minute.
    const LEFTOVER: std::time::Duration = std::time::Duration::from_secs(3_600);
    let Ok(mut entries) = tokio::fs::read_dir(&pipeline.scratch).await else { return Ok(()) };
    let mut found = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        found.push(entry);
    }
    // Asked after the folders were listed: an attempt holds its lease before it makes its folder.
    let held = pipeline.control.store.lease_holds().await?;
    for entry in found {
        let name = entry.file_name();
        let attempt = name.to_str().and_then(hold_of_name);
        let keep = match &attempt {
            Some(hold) => held.contains(hold) || pipeline.control.running.names().contains(&hold.name()),
            None => {
                let modified = entry.metadata().await.and_then(|m| m.modified());
                !modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFTOVER))
            }
        };
        if keep {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type().await {
            Ok(kind) if kind.is_dir() => tokio::fs::remove_dir_all(&path).await,
            _ => tokio::fs::remove_file(&path).await,
        };
        match removed {
            // Another server on this folder sweeps it too.
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(error = %e, "a leftover scratch folder was not removed");
            }
            _ => {}
        }
    }
    Ok(())
}

fn hold_of_name(name: &str) -> Option<Hold> {
    let (deployment, fence) = name.split_once('.')?;
    Some(Hold { deployment: deployment.to_owned(), fence: fence.parse().ok()? })
}
