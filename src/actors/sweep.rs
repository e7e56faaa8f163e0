//! The sweep: takes no input, is idempotent, and runs by timer and by doorbell. It rings what is
//! due, ends leases that ran out, and removes what nobody holds any more.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::leases::end_leases;
use super::letter::{Refused, keep};
use super::strays::Strays;
use super::{ActorParts, Child, ChildStopped, child_actor, ringing, watch};
use crate::pipeline::{Pipeline, sweep_scratch};
use crate::queue::{DeployJob, StoredMessage};
use crate::store::StoreError;
use crate::store::journal::Hold;

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

/// Goes on while the server stops, until the last deployment is handed over: who takes it must hear of it.
async fn sweep(parts: &ActorParts) {
    let settings = &parts.pipeline.control.settings.sweep;
    let interval = Duration::from_millis(settings.interval_ms);
    let mut due = tokio::time::Instant::now();
    let mut builder = ringing::Builder::new();
    while !parts.stopping.is_cancelled() {
        tokio::select! {
            () = parts.pipeline.control.doorbell.notified() => {}
            () = builder.due(parts) => builder.report(parts).await,
            () = tokio::time::sleep_until(due) => {
                let began = tokio::time::Instant::now();
                end_leases(parts, settings.batch).await;
                watch::quickly(parts, settings.batch).await;
                due = began + next_look(parts, interval).await;
            }
            () = parts.stopping.cancelled() => return,
        }
        ringing::ring_next(parts).await;
    }
}

/// When the next lease runs out, or a while from now.
async fn next_look(parts: &ActorParts, interval: Duration) -> Duration {
    match parts.pipeline.control.store.lease_next_end_ms().await {
        // A moment behind its end.
        Ok(Some(ms)) => Duration::from_millis(u64::try_from(ms).unwrap_or(0) + 5).min(interval),
        Ok(None) | Err(_) => interval,
    }
}

async fn sweep_thoroughly(parts: &ActorParts) {
    let settings = &parts.pipeline.control.settings.sweep;
    let mut tick = tokio::time::interval(Duration::from_secs(settings.thorough_seconds));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut strays = Strays::default();
    while !parts.draining.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = parts.draining.cancelled() => return,
        }
        let started = Instant::now();
        queue(parts, settings.batch).await;
        leftovers(parts).await;
        strays.sweep(parts).await;
        tracing::debug!(took_ms = started.elapsed().as_millis(), "thorough sweep finished");
    }
}

/// Streams that are gone, rings that were lost, messages that used up their deliveries.
async fn queue(parts: &ActorParts, batch: u64) {
    let store = &parts.pipeline.control.store;
    match parts.queue.reconcile().await {
        Ok(r) if r.created_stream || r.created_consumer => match store.ring_all_again().await {
            // As at every first start.
            Ok(0) => {}
            Ok(rows) => {
                tracing::warn!(rows, "the stream or consumer was made anew; waiting rows are rung again")
            }
            Err(e) => tracing::error!(error = %e, "waiting rows could not be rung again"),
        },
        Ok(_) => {}
        // What is wrong with its settings is no reason to leave its messages alone.
        Err(e) => tracing::warn!(error = %e, "the queue could not be looked after"),
    }
    watch::thoroughly(parts, batch).await;
    let Ok(stats) = parts.queue.inspect().await else { return };
    used_up(parts, stats.first_seq, stats.delivered_seq).await;
}

/// Messages that were delivered and never settled: those whose row goes on without them are removed,
/// those without a row are buried. What somebody still holds is settled the same way by both.
async fn used_up(parts: &ActorParts, first: u64, delivered: u64) {
    let mut sequence = first;
    for _ in 0..LEFTOVERS {
        let Ok(Some(message)) = parts.queue.next_message(sequence).await else { return };
        if message.sequence > delivered {
            return;
        }
        sequence = message.sequence + 1;
        match superfluous(parts, &message).await {
            Ok(true) => drop(parts.queue.delete_message(message.sequence).await),
            Ok(false) => {}
            Err(e) => return tracing::warn!(error = %e, "delivered messages could not be looked after"),
        }
    }
}

/// Whether a delivered message has nothing more to say; one without a row is buried first.
async fn superfluous(parts: &ActorParts, message: &StoredMessage) -> Result<bool, StoreError> {
    let why = match DeployJob::read(&message.payload) {
        Err(e) => e.to_string(),
        Ok(job) => {
            let row = parts.pipeline.control.store.deployment_by_id(job.deployment_id.as_str()).await?;
            match row {
                Some(row) if row.org_id == message.subject_org => {
                    let older = u64::try_from(row.ring).is_ok_and(|ring| ring > job.params.ring);
                    return Ok(row.finished_at.is_some() || older);
                }
                _ => "no such deployment of this organization".to_owned(),
            }
        }
    };
    let refused = Refused {
        sequence: message.sequence,
        published_at: message.published_at,
        subject_org: &message.subject_org,
        payload: &message.payload,
        why: &why,
    };
    match keep(parts, &refused).await {
        Ok(()) => Ok(true),
        Err(e) => {
            tracing::warn!(error = %e, "a refused message could not be kept; the next sweep tries again");
            Ok(false)
        }
    }
}

/// Sandboxes, scratch folders, remembered keys and retired versions that nobody needs.
async fn leftovers(parts: &ActorParts) {
    let pipeline = &parts.pipeline;
    let store = &pipeline.control.store;
    sweep_sandboxes(pipeline).await;
    if let Err(e) = sweep_scratch(pipeline).await {
        tracing::warn!(error = %e, "scratch folders could not be swept");
    }
    if let Err(e) = store.line_forget().await {
        tracing::warn!(error = %e, "spent grants could not be forgotten");
    }
    if let Err(e) = store.idempotency_forget().await {
        tracing::warn!(error = %e, "old idempotency keys could not be forgotten");
    }
    if let Err(e) = pipeline.control.dead_letters_forget_env(&parts.draining).await {
        tracing::warn!(error = %e, "build variables of old failures could not be forgotten");
    }
    if let Err(e) = forget_changes(parts).await {
        tracing::warn!(error = %e, "old marks of changed hosts could not be forgotten");
    }
    if let Err(e) = remove_retired(parts).await {
        tracing::warn!(error = %e, "retired versions could not be removed");
    }
}

/// Marks of changed hosts that every server has read long since.
async fn forget_changes(parts: &ActorParts) -> Result<(), StoreError> {
    let control = &parts.pipeline.control;
    let kept_ms = i64::try_from(control.settings.routes.changes_kept_hours * 3_600_000).unwrap_or(i64::MAX);
    let mut is_more = true;
    while is_more && !parts.draining.is_cancelled() {
        is_more = control.store.host_forget(kept_ms, control.settings.sweep.batch).await?.is_more;
    }
    Ok(())
}

/// Here and at remote providers. Without the record nobody knows what other servers use there.
async fn sweep_sandboxes(pipeline: &Pipeline) {
    let running = pipeline.control.running.names();
    let held = match pipeline.control.store.lease_holds().await {
        Ok(held) => Some(held.iter().map(Hold::name).collect::<HashSet<_>>()),
        Err(e) => {
            tracing::warn!(error = %e, "leases could not be read; remote sandboxes are not swept");
            None
        }
    };
    let here = |id: &str| running.contains(id);
    let anywhere = |id: &str| running.contains(id) || held.as_ref().is_none_or(|held| held.contains(id));
    for (provider, swept) in pipeline.sandboxes.sweep(&here, &anywhere).await {
        match swept {
            Ok(report) => tracing::debug!(sandbox.provider = provider, ?report, "sandboxes swept"),
            Err(e) => tracing::warn!(sandbox.provider = provider, error = %e, "sandboxes could not be swept"),
        }
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
    let ids = ids.map_err(|e| e.to_string())?;
    let names: Vec<String> = ids.iter().map(|id| id.as_str().to_owned()).collect();
    let retired = store.version_retired_among(&names, age_ms).await.map_err(|e| e.to_string())?;
    for id in ids {
        if retired.contains(id.as_str()) {
            let versions = std::sync::Arc::clone(&versions);
            let removed = tokio::task::spawn_blocking(move || versions.remove(&id)).await;
            removed.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
