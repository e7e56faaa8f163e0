//! One attempt: the walk beside its heartbeat, then cleanup and the verdict.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
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
    /// The lease was lost: somebody else decides.
    LeaseLost,
    /// The row could not be written: the message is given back with a delay.
    Unwritten(StoreError),
}

/// Why an attempt should stop before its end.
#[derive(Debug, Clone)]
pub struct Stop {
    /// The server is stopping: hand the lease over at the next step.
    pub draining: CancellationToken,
    /// How long a step may go on from then on.
    pub grace: Duration,
}

impl Stop {
    /// Ends when what still runs is cut off.
    async fn deadline(&self) {
        self.draining.cancelled().await;
        tokio::time::sleep(self.grace).await;
    }
}

/// Tells the broker that the message is still held.
pub type Progress<'p> = &'p (dyn Fn() -> BoxFuture<'p, ()> + Send + Sync);

/// Writes the dead letter of a last attempt; answers whether it is confirmed.
pub type Bury<'p> = &'p (dyn Fn(Cause) -> BoxFuture<'p, bool> + Send + Sync);

/// Between two tries to write an outcome while the database or the broker is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs one attempt of a claimed deployment. The heartbeat goes on until the outcome is written:
/// an outage at the very end holds the deployment instead of costing it an attempt.
pub async fn run(
    pipeline: &Pipeline,
    row: &DeploymentRow,
    stop: &Stop,
    progress: Progress<'_>,
    bury: Bury<'_>,
) -> Ended {
    let hold = Hold::of(row);
    let Ok(org) = OrgId::parse(&row.org_id) else { return Ended::LeaseLost };
    let cancel = CancellationToken::new();
    let _entered = pipeline.control.running.enter(&row.id, row.fence, cancel.clone());
    let draining = stop.draining.clone();
    let walk = Walk { pipeline, row, hold: hold.clone(), org, cancel: cancel.clone(), draining };
    let mut sandbox = sandbox::Held::default();
    let total = Duration::from_secs(pipeline.control.settings.pipeline.total_timeout_seconds);
    let mut lost = pin!(beat(pipeline, &hold, &cancel, progress));
    let walked = tokio::select! {
        walked = tokio::time::timeout(total, AssertUnwindSafe(super::walk(&walk, &mut sandbox)).catch_unwind()) => {
            match walked {
                Ok(Ok(walked)) => walked,
                Ok(Err(_)) => Err(panicked(pipeline, row).await),
                Err(_) => Err(overdue(pipeline, row, total).await),
            }
        }
        () = &mut lost => Err(StepError::LeaseLost),
        () = stop.deadline() => Err(StepError::Draining),
    };
    let unfinished = walked.is_err();
    let hand_overs = pipeline.control.settings.pipeline.hand_overs;
    let verdict = verdict::of(walked, row, cancel.is_cancelled(), hand_overs);
    if matches!(verdict, Verdict::Nothing) {
        cleanup::release(&walk, &mut sandbox).await;
        return Ended::LeaseLost;
    }
    let ended = tokio::select! {
        ended = async {
            cleanup::release(&walk, &mut sandbox).await;
            if unfinished {
                cleanup::journal(&walk).await;
            }
            settle(pipeline, row, &hold, verdict, stop, bury).await
        } => ended,
        () = &mut lost => Ended::LeaseLost,
    };
    // Whoever waits behind this deployment may be due now.
    pipeline.control.doorbell.notify_one();
    ended
}

/// Writes the outcome, through outages; the heartbeat beside it bounds the wait.
async fn settle(
    pipeline: &Pipeline,
    row: &DeploymentRow,
    hold: &Hold,
    verdict: Verdict,
    stop: &Stop,
    bury: Bury<'_>,
) -> Ended {
    let mut verdict = verdict;
    if let Verdict::DeadLetter(cause) = verdict {
        // Confirmed before the row fails: what nobody will try again must be found among the dead.
        while !bury(cause.clone()).await {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.draining.cancelled() => break,
            }
        }
        // The next server makes the last attempt again, and its dead letter with it.
        let unconfirmed = stop.draining.is_cancelled() && !bury(cause.clone()).await;
        verdict = if unconfirmed { Verdict::HandOver } else { Verdict::Failed(cause) };
    }
    loop {
        match write(pipeline, row, hold, &verdict).await {
            Ok(()) => return Ended::Settled,
            Err(StoreError::FenceLost) => return Ended::LeaseLost,
            // A server that stops must not wait for a database that may never come back.
            Err(e) if !e.may_pass() || stop.draining.is_cancelled() => return Ended::Unwritten(e),
            Err(e) => {
                tracing::warn!(deployment.id = %row.id, error = %e, "the outcome could not be written; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn write(
    pipeline: &Pipeline,
    row: &DeploymentRow,
    hold: &Hold,
    verdict: &Verdict,
) -> Result<(), StoreError> {
    let store = &pipeline.control.store;
    match verdict {
        Verdict::Completed { tree } => store.deployment_complete(hold, tree.as_ref()).await,
        Verdict::Failed(cause) | Verdict::DeadLetter(cause) => store.deployment_fail(hold, cause).await,
        Verdict::Cancelled(reason) => store.deployment_cancelled(hold, *reason).await,
        Verdict::Retry(cause) => {
            store.deployment_retry(hold, cause, verdict::retry_delay_ms(pipeline, row.attempt)).await
        }
        Verdict::HandOver => store.deployment_hand_over(hold).await,
        Verdict::Nothing => Err(StoreError::FenceLost),
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
        let asked = async {
            if due {
                let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
                store.lease_extend(hold, lease_ms).await
            } else {
                store.lease_look(hold).await
            }
        };
        // By its own clock this process no longer holds the lease then, whatever the answer would be.
        let Ok(pulse) = tokio::time::timeout_at(extended + lease, asked).await else { return };
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
                progress().await;
            }
        }
    }
}

/// A defect of ours: the attempt ends like any other, and its actor and its lease live on.
async fn panicked(pipeline: &Pipeline, row: &DeploymentRow) -> StepError {
    let step = current_step(pipeline, row).await;
    let summary = "The platform met a defect of its own in this step.";
    StepError::Failed { cause: Cause::new(Fault::Unknown, step, summary, super::RETRY_HINT), source: None }
}

async fn current_step(pipeline: &Pipeline, row: &DeploymentRow) -> Option<Step> {
    match pipeline.control.store.deployment_by_id(&row.id).await {
        Ok(Some(now)) => now.current_step.as_deref().and_then(Step::parse),
        _ => None,
    }
}

/// The deployment's whole time is over. It is the user's doing only while the build runs.
async fn overdue(pipeline: &Pipeline, row: &DeploymentRow, total: Duration) -> StepError {
    let step = current_step(pipeline, row).await;
    let fault = if step == Some(Step::Build) { Fault::User } else { Fault::Platform };
    let summary = format!("killed: time limit {} s for the whole deployment", total.as_secs());
    let cause = Cause::new(fault, step, summary, "Make the build faster, or ask for a higher time limit.");
    StepError::Failed { cause, source: None }
}

/// Shown by a cancelled walk.
pub(super) const CANCELLED: StepError = StepError::Cancelled(CancelReason::Requested);
