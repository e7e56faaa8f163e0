//! Ringing: reports this server's slots, has free ones granted by the scheduler, and publishes a ring for each
//! grant. Never rings what was not granted, and never decides who is next.

use std::time::Duration;

use tokio::time::Instant;

use super::ActorParts;
use super::letter::job_of;
use crate::domain::schedule::plan;
use crate::queue::{Connection, Ring};
use crate::store::deployments::DeploymentRow;
use crate::store::line::Look;

/// Looks in a row, where others grant at the same moment. Whoever was faster has granted what there was.
const TRIES: u32 = 5;

/// A report that failed is made again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// This server as a builder.
#[derive(Debug)]
pub(super) struct Builder {
    is_known: bool,
    next: Instant,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { is_known: false, next: Instant::now() }
    }

    /// Ends when it is time to report.
    pub(super) async fn due(&self, parts: &ActorParts) {
        tokio::select! {
            () = tokio::time::sleep_until(self.next) => {}
            () = parts.draining.cancelled(), if self.is_known => {}
        }
    }

    /// Tells the others that this server builds, or that it does not any more.
    pub(super) async fn report(&mut self, parts: &ActorParts) {
        let settings = &parts.pipeline.control.settings;
        let (store, node) = (&parts.pipeline.control.store, &parts.pipeline.node);
        self.next = Instant::now() + Duration::from_secs(settings.queue.heartbeat_seconds);
        let builds = !parts.draining.is_cancelled();
        let told = if builds {
            let slots = i32::try_from(settings.pipeline.concurrency).unwrap_or(i32::MAX);
            store.builder_report(node, slots).await
        } else if self.is_known {
            store.builder_leave(node).await
        } else {
            Ok(())
        };
        match told {
            Ok(()) => self.is_known = builds,
            Err(e) => {
                self.next = Instant::now() + AGAIN;
                // Otherwise it would be due at once again.
                self.is_known &= builds;
                tracing::warn!(error = %e, "this builder could not be reported");
            }
        }
    }
}

/// Rings whose turn it is, on every slot that is free.
pub(super) async fn ring_next(parts: &ActorParts) {
    let control = &parts.pipeline.control;
    let is_away = parts.queue.state().borrow().connection != Connection::Ready;
    control.line_note_broker(is_away);
    for _ in 0..TRIES {
        let seen = match control.store.line_read(&control.line_rules(), Look::ToGrant).await {
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(e) => return tracing::warn!(error = %e, "the line could not be looked at"),
        };
        let plan = plan(&seen.line);
        if plan.grants.is_empty() {
            return;
        }
        match control.store.line_grant(&seen, &plan).await {
            Ok(Some(rows)) => return publish(parts, rows).await,
            Ok(None) => {}
            Err(e) => return tracing::warn!(error = %e, "slots could not be granted"),
        }
    }
    control.doorbell.notify_one();
}

/// Publishes a ring for each of these.
async fn publish(parts: &ActorParts, rows: Vec<DeploymentRow>) {
    let store = &parts.pipeline.control.store;
    let mut rows = rows.into_iter();
    while let Some(row) = rows.next() {
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
                let back: Vec<String> = std::iter::once(row).chain(rows).map(|row| row.id).collect();
                if let Err(e) = store.line_give_back(&back).await {
                    tracing::warn!(error = %e, "granted slots could not be given back; they are free in a moment");
                }
                return;
            }
        }
    }
}
