//! Step 3: an isolated place with the source in it, if the project has a build. Its undo is to
//! destroy the place, which cleanup does on every way out. A sandbox is never reused.

use bytes::Bytes;
use futures_util::StreamExt;

use super::build::Built;
use super::detect::{BuildPlan, PLAIN, Plan};
use super::step::{Done, StepError};
use super::sync::{Source, journaled};
use super::{Project, Walk};
use crate::control::projects::egress_hosts;
use crate::domain::egress::EgressHost;
use crate::domain::source::Recognised;
use crate::domain::{Digest, Step};
use crate::sandbox::{Sandbox, SandboxError, SandboxOrder};

const STEP: Step = Step::Sandbox;
/// Files handed over at a time, so that memory stays bounded whatever the tree's size.
const BATCH_FILES: usize = 64;
/// Blobs read at once.
const PARALLEL: usize = 8;
/// The Node that builds run on.
const NODE_MAJOR: u32 = 24;

/// The sandbox of an attempt, if it has one.
#[derive(Default)]
pub struct Held(pub Option<Box<dyn Sandbox>>);

/// What build has to do.
pub enum Work {
    /// An earlier attempt built it already.
    Reuse(Built),
    /// The files are the site.
    Files {
        directory: String,
        sign: String,
    },
    Build(Box<BuildPlan>),
}

pub async fn run(
    walk: &Walk<'_>,
    project: &Project,
    source: &Source,
    held: &mut Held,
) -> Result<Done<Work>, StepError> {
    if let Some(built) = journaled::<Built>(walk, Step::Build).await? {
        return Ok(Done::skipped(Work::Reuse(built), "No sandbox needed: the build is reused"));
    }
    let plan = super::plan::make(walk, source).await?;
    match plan {
        Plan::Files { directory, sign } => {
            let recognised = Recognised { framework: PLAIN.to_owned(), sign: sign.clone() };
            let work = Work::Files { directory, sign };
            Ok(Done::skipped(work, "No sandbox needed: nothing to build").with_result(&recognised))
        }
        Plan::Build(plan) => {
            let order = SandboxOrder {
                id: walk.name(),
                limits: walk.control().settings.sandbox.limits(),
                node_major: NODE_MAJOR,
                egress: egress(walk, project),
            };
            let sandbox = walk.pipeline.sandboxes.create(order).await.map_err(from_sandbox)?;
            fill(walk, source, held.0.insert(sandbox)).await?;
            let recognised = Recognised { framework: plan.framework.clone(), sign: plan.sign.clone() };
            Ok(Done::completed(Work::Build(plan), "Sandbox ready").with_result(&recognised))
        }
    }
}

/// What the operator allows of the project's list.
fn egress(walk: &Walk<'_>, project: &Project) -> Vec<EgressHost> {
    let most = walk.control().settings.sandbox.egress.hosts_per_project;
    let lines = egress_hosts(project);
    lines.iter().take(most).filter_map(|line| EgressHost::parse(line).ok()).collect()
}

async fn fill(walk: &Walk<'_>, source: &Source, sandbox: &mut Box<dyn Sandbox>) -> Result<(), StepError> {
    let files: Vec<(&String, &Digest)> = source.tree.files.iter().map(|(p, f)| (p, &f.digest)).collect();
    for batch in files.chunks(BATCH_FILES) {
        let mut read_all = futures_util::stream::iter(batch.iter().map(|(path, digest)| async move {
            read(walk, digest).await.map(|bytes| ((*path).clone(), bytes))
        }))
        .buffer_unordered(PARALLEL);
        let mut written = Vec::with_capacity(batch.len());
        while let Some(file) = read_all.next().await {
            written.push(file?);
        }
        sandbox.write_files(written).await.map_err(from_sandbox)?;
    }
    Ok(())
}

async fn read(walk: &Walk<'_>, digest: &Digest) -> Result<Bytes, StepError> {
    walk.control().blobs.get(walk.org.as_str(), digest).await.map_err(|e| StepError::blobs(STEP, e))
}

fn from_sandbox(error: SandboxError) -> StepError {
    let summary = "A sandbox could not be made on this machine.";
    // What the operator must mend is worth saying to members too; other errors may name paths.
    let evidence = match &error {
        SandboxError::IsolationMissing { .. }
        | SandboxError::ToolsMissing { .. }
        | SandboxError::SlotWait { .. }
        | SandboxError::HostDisk { .. } => error.to_string(),
        _ => return StepError::platform(STEP, summary, error),
    };
    StepError::platform(STEP, summary, error).with_evidence(evidence)
}
