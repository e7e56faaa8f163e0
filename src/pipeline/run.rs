//! One attempt: the walk beside its heartbeat, then cleanup and the verdict.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::verdict::{self, Verdict};
use super::{Pipeline, StepError, Walk, cleanup, sandbox};
use crate::domain::status::CancelReason;
use crate::domain::{Cause, Fault, OrgId, Step};
use crate::store::StoreError;
use crate::store::deployments::DeploymentRow;
use crate::store::journal::{Hold, Pulse};

/// How the attempt left the row.
#[derive(Debug)]
pub enum Ended {
    /// The row is final, or waits for its next attempt: the message is done with.
    Settled,
    /// The last attempt failed for the platform's reasons: a dead letter must be confirmed, then
    /// the row is failed with this cause.
    DeadLetter(Box<Cause>),
    /// The lease was lost: somebody else decides.
    LeaseLost,
    /// The row could not be written: the message is given back with a delay.
    Unwritten(StoreError),
}

/// Why an attempt should stop before its end.
#[derive(Debug, Clone)]
pub struct Stop {
    /// The server is stopping: hand the lease over.
    pub draining: CancellationToken,
}

/// Tells the broker that the message is still held.
pub type Progress<'p> = &'p (dyn Fn() -> BoxFuture<'p, ()> + Send + Sync);

/// Runs one attempt of a claimed deployment. `progress` tells the broker that the message is held.
pub async fn run(pipeline: &Pipeline, row: &DeploymentRow, stop: &Stop, progress: Progress<'_>) -> Ended {
    let hold = Hold::of(row);
    let Ok(org) = OrgId::parse(&row.org_id) else { return Ended::LeaseLost };
    let cancel = CancellationToken::new();
    let _entered = pipeline.control.running.enter(&row.id, row.fence, cancel.clone());
    let walk = Walk { pipeline, row, hold: hold.clone(), org, cancel: cancel.clone() };
    let mut sandbox = sandbox::Held::default();
    let total = Duration::from_secs(pipeline.control.settings.pipeline.total_timeout_seconds);
    let walked = tokio::select! {
        walked = tokio::time::timeout(total, super::walk(&walk, &mut sandbox)) => match walked {
            Ok(walked) => walked,
            Err(_) => Err(overdue(pipeline, row, total).await),
        },
        () = beat(pipeline, &hold, &cancel, progress) => Err(StepError::LeaseLost),
        () = stop.draining.cancelled() => {
            cleanup::release(&walk, &mut sandbox).await;
            return match pipeline.control.store.deployment_hand_over(&hold).await {
                Ok(()) => Ended::Settled,
                Err(StoreError::FenceLost) => Ended::LeaseLost,
                Err(e) => Ended::Unwritten(e),
            };
        }
    };
    cleanup::release(&walk, &mut sandbox).await;
    if walked.is_err() {
        cleanup::journal(&walk).await;
    }
    let verdict = verdict::of(walked, row, cancel.is_cancelled());
    settle(pipeline, row, &hold, verdict).await
}

async fn settle(pipeline: &Pipeline, row: &DeploymentRow, hold: &Hold, verdict: Verdict) -> Ended {
    let store = &pipeline.control.store;
    let written = match verdict {
        Verdict::Completed { tree } => store.deployment_complete(hold, tree.as_ref()).await,
        Verdict::Failed(cause) => store.deployment_fail(hold, &cause).await,
        Verdict::Cancelled(reason) => store.deployment_cancelled(hold, reason).await,
        Verdict::Retry(cause) => {
            store.deployment_retry(hold, &cause, verdict::retry_delay_ms(pipeline, row.attempt)).await
        }
        Verdict::DeadLetter(cause) => return Ended::DeadLetter(Box::new(cause)),
        Verdict::Nothing => return Ended::LeaseLost,
    };
    // Whoever waits behind this deployment may be due now.
    pipeline.control.doorbell.notify_one();
    match written {
        Ok(()) => Ended::Settled,
        Err(StoreError::FenceLost) => Ended::LeaseLost,
        Err(e) => Ended::Unwritten(e),
    }
}

/// Keeps the lease and the message alive, and notices a cancel. Returns when the lease is lost.
async fn beat(pipeline: &Pipeline, hold: &Hold, cancel: &CancellationToken, progress: Progress<'_>) {
    let settings = &pipeline.control.settings.pipeline;
    let store = &pipeline.control.store;
    let lease = Duration::from_secs(settings.lease_seconds);
    let mut look = tokio::time::interval(Duration::from_millis(settings.look_ms));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let heartbeat = Duration::from_secs(settings.heartbeat_seconds);
    let mut extended = tokio::time::Instant::now();
    loop {
        look.tick().await;
        let due = extended.elapsed() >= heartbeat;
        let asked_at = tokio::time::Instant::now();
        let pulse = if due {
            let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
            store.lease_extend(hold, lease_ms).await
        } else {
            store.lease_look(hold).await
        };
        match pulse {
            Ok(pulse) => {
                if due {
                    extended = asked_at;
                    progress().await;
                }
                if pulse == Pulse::CancelRequested {
                    cancel.cancel();
                }
            }
            Err(StoreError::FenceLost) => return,
            Err(e) => {
                tracing::warn!(deployment.id = %hold.deployment, error = %e, "heartbeat failed");
                // By its own clock this process no longer holds the lease: stop touching anything.
                if extended.elapsed() >= lease {
                    return;
                }
                progress().await;
            }
        }
    }
}

/// The deployment's whole time is over. It is the user's doing only while the build runs.
async fn overdue(pipeline: &Pipeline, row: &DeploymentRow, total: Duration) -> StepError {
    let step = match pipeline.control.store.deployment_by_id(&row.id).await {
        Ok(Some(now)) => now.current_step.as_deref().and_then(Step::parse),
        _ => None,
    };
    let fault = if step == Some(Step::Build) { Fault::User } else { Fault::Platform };
    let summary = format!("killed: time limit {} s for the whole deployment", total.as_secs());
    let cause = Cause::new(fault, step, summary, "Make the build faster, or ask for a higher time limit.");
    StepError::Failed { cause, source: None }
}

/// Shown by a cancelled walk.
pub(super) const CANCELLED: StepError = StepError::Cancelled(CancelReason::Requested);
