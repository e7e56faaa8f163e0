//! What rows look like as messages: rings and dead letters. Ids only, never files or variables.

use bytes::Bytes;

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

/// The dead letter of a message that stands for no deployment; one per message.
pub(super) fn invalid(stream_sequence: u64, subject_org: &str, original: Bytes, why: &str) -> DeadLetter {
    let at = time::OffsetDateTime::from_unix_timestamp(now_ms() / 1_000)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let cause = Cause::new(
        Fault::User,
        None,
        "The message was refused.",
        "See docs of the queue's message format; deployments are made by POST /deploy.",
    );
    DeadLetter {
        id: format!("invalid-{stream_sequence}"),
        class: DeadLetterClass::Invalid,
        org_id: subject_org.parse().ok(),
        original,
        cause: serde_json::to_value(cause.with_evidence(why)).unwrap_or_default(),
        attempts: 0,
        failed_step: None,
        first_failed_at: at,
        last_failed_at: at,
    }
}
