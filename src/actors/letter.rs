//! What rows look like as messages: rings and dead letters. Ids only, never files or variables.

use std::time::SystemTime;

use bytes::Bytes;

use super::ActorParts;
use crate::control::dead_letters::RefusedMessage;
use crate::domain::time::now_ms;
use crate::domain::{Cause, Fault};
use crate::queue::{DeadLetter, DeadLetterClass, DeployJob, JobMetadata, JobParams, JobTarget, VERSION};
use crate::store::deployments::DeploymentRow;

/// The message that rings a row: ids only.
pub(super) fn job_of(row: &DeploymentRow) -> Option<DeployJob> {
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

/// The dead letter of a deployment; one for each time that it was driven, however often it is written.
pub(super) fn letter(
    row: &DeploymentRow,
    cause: &Cause,
    class: DeadLetterClass,
    original: Bytes,
) -> Option<DeadLetter> {
    let at = |ms: i64| time::OffsetDateTime::from_unix_timestamp(ms / 1_000).ok();
    let now = now_ms();
    Some(DeadLetter {
        id: format!("{}.{}", row.id, row.redrives),
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

/// A message that stands for no deployment.
pub(super) struct Refused<'m> {
    pub sequence: u64,
    pub published_at: SystemTime,
    pub subject_org: &'m str,
    pub payload: &'m Bytes,
    pub why: &'m str,
}

impl Refused<'_> {
    /// Names the message, also in a stream made anew, whose numbers begin again.
    fn id(&self) -> String {
        let nanoseconds =
            self.published_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("invalid-{nanoseconds}-{}", self.sequence)
    }

    fn cause(&self) -> Cause {
        let cause = Cause::new(
            Fault::User,
            None,
            "The message was refused.",
            "See docs of the queue's message format; deployments are made by POST /deploy.",
        );
        cause.with_evidence(self.why)
    }

    /// One per message.
    fn letter(&self) -> DeadLetter {
        let at = time::OffsetDateTime::from_unix_timestamp(now_ms() / 1_000)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        DeadLetter {
            id: self.id(),
            class: DeadLetterClass::Invalid,
            org_id: self.subject_org.parse().ok(),
            original: self.payload.clone(),
            cause: serde_json::to_value(self.cause()).unwrap_or_default(),
            attempts: 0,
            failed_step: None,
            first_failed_at: at,
            last_failed_at: at,
        }
    }
}

/// Keeps a message that stands for no deployment, at the broker and then at the desk: only then may it be removed.
pub(super) async fn keep(parts: &ActorParts, refused: &Refused<'_>) -> Result<(), String> {
    parts.queue.dead_letter(refused.letter()).await.map_err(|e| e.to_string())?;
    let message = RefusedMessage {
        source_key: refused.id(),
        subject_org: refused.subject_org.to_owned(),
        cause: refused.cause(),
        original: refused.payload.clone(),
        sequence: refused.sequence,
    };
    parts.pipeline.control.dead_letter_refused(&message).await.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_same_number_in_a_stream_made_anew_is_another_message() {
        let payload = Bytes::from_static(b"x");
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let id = |published_at| {
            Refused { sequence: 7, published_at, subject_org: "_", payload: &payload, why: "w" }.letter().id
        };
        assert_eq!(id(at(1)), "invalid-1000000000-7");
        assert_ne!(id(at(1)), id(at(2)));
    }
}
