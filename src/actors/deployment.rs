//! One of the pool: pulls one job, walks its steps, settles the message, pulls the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::BoxFuture;

use super::letter::{Refused, keep};
use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::domain::Cause;
use crate::pipeline::{Ended, Stop};
use crate::queue::{DeadLetterClass, Delivery, JobSource, QueueError};
use crate::store::StoreError;
use crate::store::claims::Claim;
use crate::store::deployments::DeploymentRow;

/// Between two tries while the database or the broker is away.
const PAUSE: Duration = Duration::from_secs(1);
/// A message whose row can't be written comes back after this.
const GIVE_BACK: Duration = Duration::from_secs(10);

pub struct DeploymentActor {
    slot: usize,
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
}

impl DeploymentActor {
    pub(super) fn new(slot: usize, parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { slot, parts, owner }
    }
}

impl Actor for DeploymentActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let parts = self.parts.clone();
        let slot = self.slot;
        let work = async move { pull(&parts, slot).await };
        ctx.spawn(work.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::Deployment(self.slot))));
    }
}

child_actor!(DeploymentActor);

/// Pulls until the server drains.
async fn pull(parts: &ActorParts, slot: usize) {
    let mut jobs = parts.queue.jobs();
    while !parts.draining.is_cancelled() {
        match next(&mut jobs, parts).await {
            Some(delivery) => one(parts, &owner(&parts.pipeline.node, slot), delivery).await,
            None => tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = parts.draining.cancelled() => {}
            },
        }
    }
}

/// Who holds a lease: one delivery alone, so that a claim which is asked for again after a lost answer is known by it.
/// Counted over the process: a fresh actor in the same slot must not be taken for the one before, whose attempt is lost.
fn owner(node: &str, slot: usize) -> String {
    static DELIVERIES: AtomicU64 = AtomicU64::new(0);
    let delivery = DELIVERIES.fetch_add(1, Ordering::Relaxed);
    format!("{node}/{slot}/{delivery}")
}

async fn next(jobs: &mut JobSource, parts: &ActorParts) -> Option<Delivery> {
    match jobs.next(&parts.draining).await {
        Ok(delivery) => Some(delivery),
        Err(QueueError::Closed) => None,
        Err(e) => {
            tracing::warn!(error = %e, "no job could be pulled");
            None
        }
    }
}

/// One message from delivery to settlement.
async fn one(parts: &ActorParts, owner: &str, delivery: Delivery) {
    let job = match delivery.job() {
        Ok(job) if job.params.org_id.as_str() == delivery.subject_org => job,
        Ok(_) => return refuse(parts, delivery, "the organization of subject and body differ").await,
        Err(e) => {
            let why = e.to_string();
            return refuse(parts, delivery, &why).await;
        }
    };
    let id = job.deployment_id.as_str().to_owned();
    let ring = i64::try_from(job.params.ring).unwrap_or(i64::MAX);
    let claim = match claim(parts, owner, &id, ring, &delivery).await {
        Ok(claim) => claim,
        Err(e) => {
            tracing::warn!(deployment.id = %id, error = %e, "the deployment could not be claimed");
            return settle(&id, delivery.nak(GIVE_BACK).await);
        }
    };
    match claim {
        Claim::Final | Claim::NotNow => settle(&id, delivery.ack().await),
        Claim::Unknown => refuse(parts, delivery, "no such deployment of this organization").await,
        Claim::Taken(row) => walk(parts, &row, delivery).await,
    }
}

/// Takes the lease. While the database is away the message is held, alive, and nothing else is pulled.
async fn claim(
    parts: &ActorParts,
    owner: &str,
    id: &str,
    ring: i64,
    delivery: &Delivery,
) -> Result<Claim, StoreError> {
    let store = &parts.pipeline.control.store;
    let lease_ms =
        i64::try_from(parts.pipeline.control.settings.pipeline.lease_seconds * 1_000).unwrap_or(i64::MAX);
    loop {
        match store.deployment_claim(id, &delivery.subject_org, ring, owner, lease_ms).await {
            Err(e) if e.may_pass() && !parts.draining.is_cancelled() => {
                tracing::warn!(deployment.id = %id, error = %e, "the database is away; holding the job");
                if let Err(e) = delivery.progress().await {
                    tracing::debug!(error = %e, "the held job could not be kept alive");
                }
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

async fn walk(parts: &ActorParts, row: &DeploymentRow, delivery: Delivery) {
    tracing::info!(deployment.id = %row.id, attempt = row.attempt, fence = row.fence, "deployment claimed");
    let stop = Stop { draining: parts.draining.clone(), grace: parts.grace };
    let held = &delivery;
    let progress = move || -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(e) = held.progress().await {
                tracing::debug!(error = %e, "progress was not acknowledged");
            }
        })
    };
    let bury = move |cause: Cause| -> BoxFuture<'_, bool> {
        Box::pin(async move { bury(parts, row, &cause, held).await })
    };
    let ended = Box::pin(crate::pipeline::run(&parts.pipeline, row, &stop, &progress, &bury)).await;
    match ended {
        Ended::Settled | Ended::LeaseLost => settle(&row.id, delivery.ack().await),
        Ended::Unwritten(e) => {
            tracing::error!(deployment.id = %row.id, error = %e, "the outcome could not be written");
            settle(&row.id, delivery.nak(GIVE_BACK).await);
        }
    }
}

/// The dead letter of a third platform failure; answers whether the broker has it.
async fn bury(parts: &ActorParts, row: &DeploymentRow, cause: &Cause, delivery: &Delivery) -> bool {
    let letter = super::letter::letter(row, cause, DeadLetterClass::Exhausted, delivery.payload.clone());
    let Some(letter) = letter else {
        tracing::error!(deployment.id = %row.id, "a row can't be written as a dead letter");
        return true;
    };
    match parts.queue.dead_letter(letter).await {
        Ok(_) => true,
        Err(e) => {
            tracing::error!(deployment.id = %row.id, error = %e, "the dead letter was not confirmed; trying again");
            false
        }
    }
}

/// A message that stands for no deployment: to the dead letters, then gone.
async fn refuse(parts: &ActorParts, delivery: Delivery, why: &str) {
    tracing::warn!(queue.sequence = delivery.stream_sequence, reason = %why, "a message was refused");
    let refused = Refused {
        sequence: delivery.stream_sequence,
        published_at: delivery.published_at,
        subject_org: &delivery.subject_org,
        payload: &delivery.payload,
        why,
    };
    match keep(parts, &refused).await {
        Ok(()) => settle("none", delivery.terminate("refused").await),
        Err(e) => {
            tracing::error!(error = %e, "a refused message could not be kept; it comes back");
            settle("none", delivery.nak(GIVE_BACK).await);
        }
    }
}

/// A settlement that was lost leaves the message to be delivered again, which finds the row final
/// or taken and settles it then.
fn settle(deployment: &str, settled: Result<(), QueueError>) {
    if let Err(e) = settled {
        tracing::warn!(deployment.id = %deployment, error = %e, "a message was not settled; it comes back");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_deliveries_claim_by_one_name_and_each_fits_its_column() {
        let node = crate::domain::id::random();
        assert_ne!(owner(&node, 0), owner(&node, 0));
        assert!(format!("{node}/{}/{}", 64, u64::MAX).len() <= 64, "VARCHAR(64)");
    }
}
