//! Step 3: an isolated place with the source in it, if the project has a build. Its undo is to
//! destroy the place, which cleanup does on every way out. A sandbox is never reused.

use bytes::Bytes;
use futures_util::StreamExt;

use super::Walk;
use super::build::Built;
use super::detect::{self, Plan};
use super::step::{Done, StepError};
use super::sync::{Source, journaled};
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
    Build(Box<detect::BuildPlan>),
}

pub async fn run(walk: &Walk<'_>, source: &Source, held: &mut Held) -> Result<Done<Work>, StepError> {
    if let Some(built) = journaled::<Built>(walk, Step::Build).await? {
        return Ok(Done::skipped(Work::Reuse(built), "No sandbox needed: the build is reused"));
    }
    let plan = plan(walk, source).await?;
    match plan {
        Plan::Files { directory, sign } => {
            Ok(Done::skipped(Work::Files { directory, sign }, "No sandbox needed: nothing to build"))
        }
        Plan::Build(plan) => {
            let order = SandboxOrder {
                id: walk.name(),
                limits: walk.control().settings.sandbox.limits(),
                node_major: NODE_MAJOR,
            };
            let chosen = walk.control().store.organization_sandbox_provider(&walk.org).await;
            let chosen = chosen.map_err(|e| StepError::store(STEP, e))?;
            let made = walk.pipeline.sandboxes.create(chosen.as_deref(), order).await;
            let sandbox = made.map_err(from_sandbox)?;
            fill(walk, source, held.0.insert(sandbox)).await?;
            Ok(Done::completed(Work::Build(plan), "Sandbox ready"))
        }
    }
}

async fn plan(walk: &Walk<'_>, source: &Source) -> Result<Plan, StepError> {
    let overrides = serde_json::from_str(&walk.row.build)
        .map_err(|e| StepError::platform(STEP, "The recorded build settings can't be read.", e))?;
    let manifest = match detect::manifest_path(&source.tree, &overrides) {
        Some(path) => Some(read(walk, &source.tree.files[&path].digest).await?),
        None => None,
    };
    detect::detect(&source.tree, &overrides, manifest.as_deref())
        .map_err(|e| StepError::user(STEP, e.summary(), e.hint()).with_evidence(e.to_string()))
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
    let summary = match &error {
        SandboxError::Remote(_) => "The sandbox provider could not give a sandbox.",
        _ => "A sandbox could not be made on this machine.",
    };
    // What the operator must mend is worth saying to members too; other errors may name paths.
    let evidence = match &error {
        SandboxError::IsolationMissing { .. }
        | SandboxError::ToolsMissing { .. }
        | SandboxError::SlotWait { .. }
        | SandboxError::ProviderAbsent { .. }
        | SandboxError::Remote(_)
        | SandboxError::HostDisk { .. } => error.to_string(),
        _ => return StepError::platform(STEP, summary, error),
    };
    StepError::platform(STEP, summary, error).with_evidence(evidence)
}
