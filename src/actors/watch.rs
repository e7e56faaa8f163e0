//! Owns noticing rings that nobody answers: lost with their stream, or delivered to a server that died before its claim.
//! Never takes back one that waits in line behind others.

use super::ActorParts;
use crate::queue::QueueStats;
use crate::store::deployments::DeploymentRow;

/// A ring that is in the queue no more, and was not answered for so long, is lost. A claim takes milliseconds.
const LOST_MS: i64 = 2_000;

/// Those whose message is gone by the broker's own counts, or was delivered a lease ago.
pub(super) async fn quickly(parts: &ActorParts, batch: u64) {
    look(parts, batch, false).await;
}

/// Looks at each message as well: one may have been deleted from the middle of the line, and in a stream made anew its
/// number may be another deployment's.
pub(super) async fn thoroughly(parts: &ActorParts, batch: u64) {
    look(parts, batch, true).await;
}

async fn look(parts: &ActorParts, batch: u64, thoroughly: bool) {
    let store = &parts.pipeline.control.store;
    let rows = match store.ring_unanswered(LOST_MS, batch).await {
        Ok(rows) if rows.is_empty() => return,
        Ok(rows) => rows,
        Err(e) => return tracing::warn!(error = %e, "unanswered rings could not be read"),
    };
    let (Ok(stats), Ok(now)) = (parts.queue.inspect().await, store.now().await) else { return };
    let lease = &parts.pipeline.control.settings.pipeline.lease_seconds;
    let claimed_by = now - i64::try_from(lease * 1_000).unwrap_or(i64::MAX);
    for row in rows {
        let Some(sequence) = row.ring_sequence.and_then(|s| u64::try_from(s).ok()) else { continue };
        let mut place = Place::of(sequence, &stats);
        if thoroughly && place != Place::Gone {
            let Ok(message) = parts.queue.read_message(sequence).await else { continue };
            if message.is_none_or(|m| m.message_id.as_deref() != Some(&ring_id(&row))) {
                place = Place::Gone;
            }
        }
        match place {
            Place::InLine => continue,
            // Whoever got it may be about to claim it.
            Place::Delivered if row.rung_at.is_some_and(|at| at > claimed_by) => continue,
            // The message itself is an older ring from here on, and is settled as one.
            Place::Delivered | Place::Gone => {}
        }
        tracing::info!(deployment.id = %row.id, queue.sequence = sequence, ?place, "nobody answered a ring; ringing again");
        if let Err(e) = store.ring_again(&row.id, row.ring).await {
            tracing::warn!(deployment.id = %row.id, error = %e, "an unanswered ring could not be taken back");
        }
    }
}

/// Where a ring's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    InLine,
    Delivered,
    Gone,
}

impl Place {
    fn of(sequence: u64, stats: &QueueStats) -> Place {
        if !(stats.first_seq..=stats.last_seq).contains(&sequence) {
            Place::Gone
        } else if sequence > stats.delivered_seq {
            Place::InLine
        } else {
            Place::Delivered
        }
    }
}

/// The id under which the row's current ring was published.
fn ring_id(row: &DeploymentRow) -> String {
    format!("{}.{}", row.id, row.ring)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(sequence: u64, first_seq: u64, last_seq: u64, delivered_seq: u64) -> Place {
        let stats = QueueStats {
            messages: 0,
            bytes: 0,
            first_seq,
            last_seq,
            delivered_seq,
            ack_pending: 0,
            undelivered: 0,
            waiting_pulls: 0,
            consumers: 1,
            dead_letters: 0,
            stream_created_at: std::time::SystemTime::UNIX_EPOCH,
        };
        Place::of(sequence, &stats)
    }

    #[test]
    fn where_a_message_is_follows_from_the_brokers_counts() {
        assert_eq!(place(7, 3, 9, 6), Place::InLine);
        assert_eq!(place(6, 3, 9, 6), Place::Delivered);
        assert_eq!(place(2, 3, 9, 6), Place::Gone);
        assert_eq!(place(10, 3, 9, 6), Place::Gone, "of a stream that was lost");
        assert_eq!(place(9, 10, 9, 9), Place::Gone, "an empty one begins behind its end");
    }
}
