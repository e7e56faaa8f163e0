//! One step: journal, bound in time, stop when asked. And why a step failed.

use std::future::Future;
use std::time::Duration;

use super::Walk;
use super::faults::Side;
use crate::blobs::BlobError;
use crate::control::ControlError;
use crate::domain::status::CancelReason;
use crate::domain::{Cause, Fault, Step, StepStatus};
use crate::store::StoreError;

/// Between two tries while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// What to do after a platform failure that is tried again.
pub const RETRY_HINT: &str = "Nothing is wrong with the project. The platform tries again by itself.";
/// What to do after the last one.
pub const FINAL_HINT: &str =
    "Nothing is wrong with the project. Deploy again; if it stays, tell the operator the deployment's id.";

/// Why a step did not finish.
#[derive(Debug)]
pub enum StepError {
    /// With the cause that is shown, and what it was for the log.
    Failed {
        cause: Cause,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    Cancelled(CancelReason),
    /// Another claim holds the deployment: nothing more may be written.
    LeaseLost,
    /// The server is stopping.
    Draining,
}

/// What a step came to.
pub struct Done<T> {
    pub value: T,
    pub status: StepStatus,
    /// What a later attempt may reuse, as JSON.
    pub result: Option<String>,
    /// A line of the fixed catalogue.
    pub line: String,
}

impl<T> Done<T> {
    pub fn completed(value: T, line: impl Into<String>) -> Self {
        Self { value, status: StepStatus::Completed, result: None, line: line.into() }
    }

    pub fn skipped(value: T, line: impl Into<String>) -> Self {
        Self { value, status: StepStatus::Skipped, result: None, line: line.into() }
    }

    pub fn with_result<R: serde::Serialize>(mut self, result: &R) -> Self {
        self.result = serde_json::to_string(result).ok();
        self
    }
}

impl StepError {
    pub fn user(step: Step, summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed { cause: Cause::new(Fault::User, Some(step), summary, hint), source: None }
    }

    pub fn platform<E>(step: Step, summary: impl Into<String>, source: E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self::Failed {
            cause: Cause::new(Fault::Platform, Some(step), summary, RETRY_HINT),
            source: Some(source.into()),
        }
    }

    pub fn with_evidence(self, evidence: impl Into<String>) -> Self {
        match self {
            Self::Failed { cause, source } => Self::Failed { cause: cause.with_evidence(evidence), source },
            other => other,
        }
    }

    pub fn store(step: Step, error: StoreError) -> Self {
        match error {
            StoreError::FenceLost => Self::LeaseLost,
            other => Self::platform(step, "The database could not be reached or written.", other),
        }
    }

    pub fn blobs(step: Step, error: BlobError) -> Self {
        Self::platform(step, "The blob store could not be read or written.", error)
    }

    pub fn control(step: Step, error: ControlError) -> Self {
        match error {
            ControlError::Store(e) => Self::store(step, e),
            ControlError::Blobs(e) => Self::blobs(step, e),
            ControlError::Invalid(problems) => {
                let evidence = problems
                    .iter()
                    .map(|p| format!("{}: {}", p.field, p.message))
                    .collect::<Vec<_>>()
                    .join("\n");
                Self::user(
                    step,
                    "The source can't be deployed as it is.",
                    "See the evidence for each problem.",
                )
                .with_evidence(evidence)
            }
            ControlError::ProjectNotFound => {
                Self::user(step, "The project no longer exists.", "Create it again and deploy once more.")
            }
            other => Self::platform(step, "The platform could not do this step.", other),
        }
    }
}

/// Runs one step between its two journal entries.
pub async fn run<T>(
    walk: &Walk<'_>,
    step: Step,
    work: impl Future<Output = Result<Done<T>, StepError>>,
) -> Result<T, StepError> {
    let store = &walk.control().store;
    if walk.cancel.is_cancelled() {
        return Err(StepError::Cancelled(CancelReason::Requested));
    }
    // What is live is finished here: nothing of it is left to another server but to tidy up.
    if walk.draining.is_cancelled() && step != Step::Cleanup {
        return Err(StepError::Draining);
    }
    persist(step, || store.step_begin(&walk.hold, step)).await?;
    walk.pipeline.faults.reach(walk, step, Side::Begin).await?;
    let limit = timeout(walk, step);
    // Boxed: the futures of six steps in one state machine would be large.
    let worked = tokio::select! {
        worked = tokio::time::timeout(limit, Box::pin(work)) => worked,
        () = stoppable(walk, step) => return Err(StepError::Cancelled(CancelReason::Requested)),
    };
    let done = match worked {
        Ok(done) => done?,
        Err(_) => return Err(timed_out(step, limit)),
    };
    walk.pipeline.faults.reach(walk, step, Side::End).await?;
    persist(step, || store.step_end(&walk.hold, step, done.status, done.result.clone(), &done.line)).await?;
    tracing::info!(deployment.id = %walk.row.id, step = %step, status = %done.status, "step finished");
    Ok(done.value)
}

/// Writes to the record, through outages: what was worked for is not thrown away because another
/// process holds the write lock for a while. Bounded by the heartbeat, which ends the walk when the
/// lease is lost. `write` must be harmless to repeat.
pub(super) async fn persist<T, F>(step: Step, write: impl Fn() -> F) -> Result<T, StepError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match write().await {
            Ok(value) => return Ok(value),
            Err(e) if e.may_pass() => {
                tracing::warn!(step = %step, error = %e, "the database is away; holding the step");
                tokio::time::sleep(PAUSE).await;
            }
            Err(e) => return Err(StepError::store(step, e)),
        }
    }
}

/// Ends when the step may be dropped where it stands, because a cancel was asked: waiting for a slot
/// must not outlast it. Build kills its commands itself; deploy looks before its switch.
async fn stoppable(walk: &Walk<'_>, step: Step) {
    match step {
        Step::Validate | Step::Sync | Step::Sandbox => walk.cancel.cancelled().await,
        Step::Build | Step::Deploy | Step::Cleanup => std::future::pending().await,
    }
}

fn timeout(walk: &Walk<'_>, step: Step) -> Duration {
    let settings = &walk.control().settings.pipeline;
    Duration::from_secs(match step {
        Step::Validate => settings.validate_timeout_seconds,
        Step::Sync => settings.sync_timeout_seconds,
        Step::Sandbox => settings.sandbox_timeout_seconds,
        Step::Build => settings.build_timeout_seconds,
        Step::Deploy => settings.deploy_timeout_seconds,
        Step::Cleanup => settings.cleanup_timeout_seconds,
    })
}

fn timed_out(step: Step, limit: Duration) -> StepError {
    let summary = format!("killed: time limit {} s", limit.as_secs());
    match step {
        // Only the build's length is the user's doing.
        Step::Build => {
            StepError::user(step, summary, "Make the build faster, or ask for a higher time limit.")
        }
        _ => StepError::platform(step, summary, "the step's time was over"),
    }
}
