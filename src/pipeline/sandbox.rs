//! Step 3: an isolated place with the source in it, if the project has a build. Its undo is to
//! destroy the place, which cleanup does on every way out. A sandbox is never reused.

use bytes::Bytes;
use futures_util::StreamExt;

use super::build::Built;
use super::detect::{PLAIN, Plan};
use super::lockfile::mirrored;
use super::step::{Done, StepError};
use super::sync::{Source, journaled};
use super::tools::{self, Job};
use super::{Project, Walk};
use crate::control::projects::egress_hosts;
use crate::domain::egress::EgressHost;
use crate::domain::source::Recognised;
use crate::domain::{Digest, Step};
use crate::sandbox::{Sandbox, SandboxError, SandboxOrder, ToolFolders};
use crate::toolchain::Manager;

const STEP: Step = Step::Sandbox;
/// Files handed over at a time, so that memory stays bounded whatever the tree's size.
const BATCH_FILES: usize = 64;
/// Blobs read at once.
const PARALLEL: usize = 8;

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
    Build(Box<Job>),
}

/// What is not there any more can't be reused: it is built again, instead of failing each further attempt.
async fn is_stored(walk: &Walk<'_>, built: &Built) -> Result<bool, StepError> {
    for digest in [&built.manifest, &built.pack] {
        let stored = walk.control().blobs.is_stored(walk.org.as_str(), digest).await;
        if !stored.map_err(|e| StepError::blobs(STEP, e))? {
            tracing::warn!(deployment.id = %walk.row.id, "the output of an earlier attempt is gone; it is built again");
            return Ok(false);
        }
    }
    Ok(true)
}

pub async fn run(
    walk: &Walk<'_>,
    project: &Project,
    source: &Source,
    held: &mut Held,
) -> Result<Done<Work>, StepError> {
    if let Some(built) = journaled::<Built>(walk, Step::Build).await?
        && is_stored(walk, &built).await?
    {
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
            let chosen = walk.control().store.organization_sandbox_provider(&walk.org).await;
            let chosen = chosen.map_err(|e| StepError::store(STEP, e))?;
            let elsewhere = walk.pipeline.sandboxes.is_remote(chosen.as_deref());
            let job = tools::ready(walk, source, *plan, elsewhere).await?;
            let manager = job.tools.as_ref().and_then(|tools| tools.manager.as_ref());
            let order = SandboxOrder {
                id: walk.name(),
                limits: walk.control().settings.sandbox.limits(),
                node_major: job.choice.node_major,
                egress: egress(walk, project),
                tools: ToolFolders {
                    node: job.tools.as_ref().map(|tools| tools.node.folder.clone()),
                    manager: manager.map(|tool| tool.folder.clone()),
                },
            };
            let made = walk.pipeline.sandboxes.create(chosen.as_deref(), order).await;
            let sandbox = made.map_err(from_sandbox)?;
            fill(walk, source, &job, held.0.insert(sandbox)).await?;
            let recognised =
                Recognised { framework: job.plan.framework.clone(), sign: job.plan.sign.clone() };
            Ok(Done::completed(Work::Build(Box::new(job)), "Sandbox ready").with_result(&recognised))
        }
    }
}

/// What the operator allows of the project's list.
fn egress(walk: &Walk<'_>, project: &Project) -> Vec<EgressHost> {
    let most = walk.control().settings.sandbox.egress.hosts_per_project;
    let lines = egress_hosts(project);
    lines.iter().take(most).filter_map(|line| EgressHost::parse(line).ok()).collect()
}

async fn fill(
    walk: &Walk<'_>,
    source: &Source,
    job: &Job,
    sandbox: &mut Box<dyn Sandbox>,
) -> Result<(), StepError> {
    let registry = sandbox.registry();
    let lockfile = lockfile_to_lead(job);
    let files: Vec<(&String, &Digest)> = source.tree.files.iter().map(|(p, f)| (p, &f.digest)).collect();
    for batch in files.chunks(BATCH_FILES) {
        let mut read_all = futures_util::stream::iter(batch.iter().map(|(path, digest)| async move {
            read(walk, digest).await.map(|bytes| ((*path).clone(), bytes))
        }))
        .buffer_unordered(PARALLEL);
        let mut written = Vec::with_capacity(batch.len());
        while let Some(file) = read_all.next().await {
            let (path, bytes) = file?;
            let bytes = match registry.filter(|_| lockfile.as_ref() == Some(&path)) {
                Some(registry) => led(bytes, registry),
                None => bytes,
            };
            written.push((path, bytes));
        }
        sandbox.write_files(written).await.map_err(from_sandbox)?;
    }
    Ok(())
}

/// npm has an option of its own for it, and yarn 2 names registries by another way; bun.lockb is binary.
fn lockfile_to_lead(job: &Job) -> Option<String> {
    let name = match job.choice.manager {
        Manager::Pnpm | Manager::YarnClassic | Manager::Bun => job.choice.lockfile?,
        Manager::Npm | Manager::YarnBerry => return None,
    };
    let folder = &job.choice.workspace;
    Some(if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") })
}

fn led(bytes: Bytes, registry: &str) -> Bytes {
    match std::str::from_utf8(&bytes).map(|text| mirrored(text, registry)) {
        Ok(std::borrow::Cow::Owned(text)) => text.into(),
        _ => bytes,
    }
}

pub(super) async fn read(walk: &Walk<'_>, digest: &Digest) -> Result<Bytes, StepError> {
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
