//! Ending leases that ran out: the deployment waits for its next attempt, or is written off.
//! Never ends a lease that is alive, and never fails a row whose dead letter is not confirmed.

use super::ActorParts;
use super::letter::{job_of, letter};
use crate::domain::{Cause, Fault, Step};
use crate::pipeline::{FINAL_HINT, RETRY_HINT, seconds_ms};
use crate::queue::QueueError;
use crate::store::StoreError;
use crate::store::dead_letters::crash_class;
use crate::store::deployments::{DeploymentRow, MAX_ATTEMPTS};
use crate::store::journal::Hold;

/// Ends leases that ran out. A third attempt's end is a dead letter first.
pub(super) async fn end_leases(parts: &ActorParts, batch: u64) {
    let control = &parts.pipeline.control;
    let expired = match control.store.lease_expired_list(batch).await {
        Ok(expired) => expired,
        Err(e) => return tracing::warn!(error = %e, "expired leases could not be read"),
    };
    // Each unconfirmed letter takes seconds; the others need none.
    let mut broker_is_away = false;
    for row in expired {
        if broker_is_away && row.attempt >= MAX_ATTEMPTS {
            continue;
        }
        let step = row.current_step.as_deref().and_then(Step::parse);
        let hint = if row.attempt >= MAX_ATTEMPTS { FINAL_HINT } else { RETRY_HINT };
        let cause = Cause::new(Fault::Platform, step, "The server that ran this attempt went away.", hint);
        let hold = match buried(parts, &row, &cause).await {
            Ok(hold) => hold,
            Err(why) => {
                broker_is_away |= matches!(why, Unburied::Broker(_));
                tracing::warn!(deployment.id = %row.id, reason = %why, "an expired lease waits for the next sweep");
                continue;
            }
        };
        // Nothing about the deployment has failed that would be mended by waiting.
        let delay = seconds_ms(control.settings.pipeline.retry_crashed_seconds);
        match control.store.lease_expire(&hold, &cause, delay).await {
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

/// Why a lease can't be ended yet.
#[derive(Debug, thiserror::Error)]
enum Unburied {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the dead letter is not confirmed: {0}")]
    Broker(QueueError),
    #[error("somebody else acts on it")]
    Taken,
}

/// Writes the dead letter where this end is the last one. Answers the hold under which the lease
/// may be ended.
async fn buried(parts: &ActorParts, row: &DeploymentRow, cause: &Cause) -> Result<Hold, Unburied> {
    let store = &parts.pipeline.control.store;
    let hold = Hold::of(row);
    let cancelled = row.cancel_requested_at.is_some() && row.switched_at.is_none();
    if row.attempt < MAX_ATTEMPTS || cancelled {
        return Ok(hold);
    }
    if store.lease_end_completes(row).await? {
        return Ok(hold);
    }
    // With its fence the holder may still be alive, and complete what is buried here.
    let seized = store.lease_seize(&hold).await?;
    let hold = seized.as_ref().map(Hold::of).ok_or(Unburied::Taken)?;
    let original = job_of(row).and_then(|j| serde_json::to_vec(&j).ok()).unwrap_or_default();
    if let Some(letter) = letter(row, cause, crash_class(row), original.into()) {
        parts.queue.dead_letter(letter).await.map_err(Unburied::Broker)?;
    }
    Ok(hold)
}
