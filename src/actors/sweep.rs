//! The sweep: takes no input, is idempotent, and runs by timer and by doorbell. It rings what is
//! due, ends leases that ran out, and removes what nobody holds any more.

use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::Bytes;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::domain::time::now_ms;
use crate::domain::{Cause, Fault, Step};
use crate::pipeline::{delay_ms, sweep_scratch};
use crate::queue::{
    DeadLetter, DeadLetterClass, DeployJob, JobMetadata, JobParams, JobTarget, MAX_DELIVERIES, Ring, VERSION,
};
use crate::store::deployments::{DeploymentRow, MAX_ATTEMPTS};
use crate::store::journal::Hold;

/// A step that killed its process this often is called poison.
const POISON_CRASHES: i32 = 2;
/// Messages looked at for leftovers in one thorough sweep.
const LEFTOVERS: u64 = 100;

pub struct Sweep {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
}

impl Sweep {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts, owner }
    }
}

impl Actor for Sweep {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let parts = self.parts.clone();
        let work = async move { sweep(&parts).await };
        ctx.spawn(work.into_actor(self).map(|(), _, ctx| ctx.stop()));
        let parts = self.parts.clone();
        let work = async move { sweep_thoroughly(&parts).await };
        ctx.spawn(work.into_actor(self));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::Sweep)));
    }
}

child_actor!(Sweep);

async fn sweep(parts: &ActorParts) {
    let settings = &parts.pipeline.control.settings.sweep;
    let mut tick = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !parts.draining.is_cancelled() {
        tokio::select! {
            () = parts.pipeline.control.doorbell.notified() => {}
            _ = tick.tick() => end_leases(parts, settings.batch).await,
            () = parts.draining.cancelled() => return,
        }
        ring_due(parts, settings.batch).await;
    }
}

/// Publishes a ring for every row that is due and unrung.
async fn ring_due(parts: &ActorParts, batch: u64) {
    let store = &parts.pipeline.control.store;
    let due = match store.ring_due(batch).await {
        Ok(due) => due,
        Err(e) => return tracing::warn!(error = %e, "due deployments could not be read"),
    };
    for row in due {
        let Some(job) = job_of(&row) else {
            tracing::error!(deployment.id = %row.id, "a row can't be written as a job");
            continue;
        };
        match parts.queue.ring(Ring::of_job(job)).await {
            Ok(sequence) => {
                let sequence = i64::try_from(sequence.0).unwrap_or(i64::MAX);
                if let Err(e) = store.ring_rung(&row.id, row.ring, sequence).await {
                    // It is rung again, under the same message id.
                    tracing::warn!(deployment.id = %row.id, error = %e, "a ring was not remembered");
                }
            }
            Err(e) => {
                // The others would fare no better; the next tick tries again.
                tracing::warn!(deployment.id = %row.id, error = %e, "the broker took no ring; the row stays due");
                return;
            }
        }
    }
}

/// Ends leases that ran out. A third attempt's end is a dead letter first.
async fn end_leases(parts: &ActorParts, batch: u64) {
    let control = &parts.pipeline.control;
    let expired = match control.store.lease_expired_list(batch).await {
        Ok(expired) => expired,
        Err(e) => return tracing::warn!(error = %e, "expired leases could not be read"),
    };
    for row in expired {
        let step = row.current_step.as_deref().and_then(Step::parse);
        let cause = Cause::new(
            Fault::Platform,
            step,
            "The server that ran this attempt went away.",
            "Nothing is wrong with the project. The platform tries again by itself.",
        );
        let cancelled = row.cancel_requested_at.is_some() && row.switched_at.is_none();
        if row.attempt >= MAX_ATTEMPTS && !cancelled {
            let again = row.crashed_step.is_some() && row.crashed_step == row.current_step;
            let poison = again && row.crashes_in_step + 1 >= POISON_CRASHES;
            let class = if poison { DeadLetterClass::Poison } else { DeadLetterClass::Crashed };
            let original = job_of(&row).and_then(|j| serde_json::to_vec(&j).ok()).unwrap_or_default();
            if let Some(letter) = letter(&row, &cause, class, original.into())
                && let Err(e) = parts.queue.dead_letter(letter).await
            {
                tracing::warn!(deployment.id = %row.id, error = %e, "the dead letter was not confirmed; trying again");
                continue;
            }
        }
        let delay = delay_ms(&control.settings.pipeline, row.attempt);
        match control.store.lease_expire(&Hold::of(&row), &cause, delay).await {
            Ok(true) => {
                tracing::warn!(deployment.id = %row.id, attempt = row.attempt, "an expired lease was ended")
            }
            Ok(false) => {}
            Err(e) => {
                tracing::warn!(deployment.id = %row.id, error = %e, "an expired lease could not be ended")
            }
        }
    }
}

async fn sweep_thoroughly(parts: &ActorParts) {
    let settings = &parts.pipeline.control.settings.sweep;
    let mut tick = tokio::time::interval(Duration::from_secs(settings.thorough_seconds));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !parts.draining.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = parts.draining.cancelled() => return,
        }
        let started = Instant::now();
        queue(parts, settings.batch).await;
        leftovers(parts).await;
        tracing::debug!(took_ms = started.elapsed().as_millis(), "thorough sweep finished");
    }
}

/// Streams that are gone, rings that were never answered, messages that used up their deliveries.
async fn queue(parts: &ActorParts, batch: u64) {
    let store = &parts.pipeline.control.store;
    match parts.queue.reconcile().await {
        Ok(r) if r.created_stream || r.created_consumer => match store.ring_all_again().await {
            Ok(rows) => {
                tracing::warn!(rows, "the stream or consumer was made anew; waiting rows are rung again")
            }
            Err(e) => tracing::error!(error = %e, "waiting rows could not be rung again"),
        },
        Ok(_) => {}
        Err(e) => return tracing::warn!(error = %e, "the queue could not be looked after"),
    }
    let Ok(stats) = parts.queue.inspect().await else { return };
    let nats = &parts.pipeline.control.settings.nats;
    let deliveries = u64::try_from(MAX_DELIVERIES).unwrap_or(3);
    let patience_ms = i64::try_from((deliveries + 1) * nats.ack_wait_seconds * 1_000).unwrap_or(i64::MAX);
    let unanswered = match store.ring_unanswered(patience_ms, batch).await {
        Ok(rows) => rows,
        Err(e) => return tracing::warn!(error = %e, "unanswered rings could not be read"),
    };
    for row in unanswered {
        let Some(sequence) = row.ring_sequence.and_then(|s| u64::try_from(s).ok()) else { continue };
        if sequence > stats.delivered_seq && parts.queue.message_exists(sequence).await.unwrap_or(true) {
            continue; // It waits in line behind others.
        }
        // It was delivered to somebody who died, used up its deliveries, or is lost.
        drop(parts.queue.delete_message(sequence).await);
        if let Err(e) = store.ring_again(&row.id, row.ring).await {
            tracing::warn!(deployment.id = %row.id, error = %e, "an unanswered ring could not be taken back");
        }
    }
    used_up(parts, stats.first_seq, stats.delivered_seq).await;
}

/// Messages that were delivered for the last time and never settled: their rows go on without them.
async fn used_up(parts: &ActorParts, first: u64, delivered: u64) {
    let mut sequence = first;
    for _ in 0..LEFTOVERS {
        let Ok(Some(message)) = parts.queue.next_message(sequence).await else { return };
        if message.sequence > delivered {
            return;
        }
        sequence = message.sequence + 1;
        let Ok(job) = DeployJob::read(&message.payload) else { continue };
        let row = parts.pipeline.control.store.deployment_by_id(job.deployment_id.as_str()).await;
        if let Ok(Some(row)) = row
            && (row.finished_at.is_some() || u64::try_from(row.ring).is_ok_and(|ring| ring > job.params.ring))
        {
            drop(parts.queue.delete_message(message.sequence).await);
        }
    }
}

/// Sandboxes, scratch folders, remembered keys and retired versions that nobody needs.
async fn leftovers(parts: &ActorParts) {
    let pipeline = &parts.pipeline;
    let store = &pipeline.control.store;
    let running = pipeline.control.running.names();
    let keep = move |id: &str| running.contains(id);
    match pipeline.sandboxes.sweep(&keep).await {
        Ok(report) => tracing::debug!(?report, "sandboxes swept"),
        Err(e) => tracing::warn!(error = %e, "sandboxes could not be swept"),
    }
    sweep_scratch(pipeline).await;
    if let Err(e) = store.idempotency_forget(now_ms()).await {
        tracing::warn!(error = %e, "old idempotency keys could not be forgotten");
    }
    if let Err(e) = remove_retired(parts).await {
        tracing::warn!(error = %e, "retired versions could not be removed");
    }
}

/// A retired version left the table at least one thorough sweep ago, so that no request holds it.
async fn remove_retired(parts: &ActorParts) -> Result<(), String> {
    let versions = std::sync::Arc::clone(&parts.pipeline.versions);
    let listing = std::sync::Arc::clone(&versions);
    let ids = tokio::task::spawn_blocking(move || listing.list()).await.map_err(|e| e.to_string())?;
    let settings = &parts.pipeline.control.settings.sweep;
    let age_ms = i64::try_from(settings.thorough_seconds * 1_000).unwrap_or(i64::MAX);
    let store = &parts.pipeline.control.store;
    let retired = store.version_retired_ids(now_ms() - age_ms).await.map_err(|e| e.to_string())?;
    for id in ids.map_err(|e| e.to_string())? {
        if retired.contains(id.as_str()) {
            let versions = std::sync::Arc::clone(&versions);
            let removed = tokio::task::spawn_blocking(move || versions.remove(&id)).await;
            removed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// The message that rings a row: ids only.
fn job_of(row: &DeploymentRow) -> Option<DeployJob> {
    Some(DeployJob {
        version: VERSION,
        deployment_id: row.id.parse().ok()?,
        params: JobParams {
            project_id: row.project_id.parse().ok()?,
            org_id: row.org_id.parse().ok()?,
            user_id: row.user_id.parse().ok()?,
            target: if row.target == "preview" { JobTarget::Preview } else { JobTarget::Production },
            ring: u64::try_from(row.ring).ok()?,
        },
        metadata: JobMetadata {
            timestamp: crate::domain::time::rfc3339(row.created_at),
            retry_count: u32::try_from(row.attempt).ok()?,
            priority: 1,
        },
    })
}

/// The dead letter of a deployment; one per deployment and attempt, however often it is written.
pub(super) fn letter(
    row: &DeploymentRow,
    cause: &Cause,
    class: DeadLetterClass,
    original: Bytes,
) -> Option<DeadLetter> {
    let at = |ms: i64| time::OffsetDateTime::from_unix_timestamp(ms / 1_000).ok();
    let now = now_ms();
    Some(DeadLetter {
        id: format!("{}.{}", row.id, row.attempt),
        class,
        org_id: row.org_id.parse().ok(),
        original,
        cause: serde_json::to_value(cause).ok()?,
        attempts: u32::try_from(row.attempt).ok()?,
        failed_step: cause.step.map(|s| s.as_str().to_owned()),
        first_failed_at: at(row.first_failed_at.unwrap_or(now))?,
        last_failed_at: at(now)?,
    })
}
