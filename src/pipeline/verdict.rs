//! What an attempt's end means for the deployment.

use super::{FINAL_HINT, Pipeline, StepError};
use crate::domain::cause::chain;
use crate::domain::status::CancelReason;
use crate::domain::{Cause, Digest, Fault};
use crate::store::deployments::{DeploymentRow, MAX_ATTEMPTS};

/// The decision; nothing is written yet.
#[derive(Debug)]
pub enum Verdict {
    Completed {
        tree: Option<Digest>,
    },
    /// Final at once: the user's failure.
    Failed(Cause),
    Cancelled(CancelReason),
    Retry(Cause),
    /// The server is stopping: the attempt does not count.
    HandOver,
    /// The third platform failure.
    DeadLetter(Cause),
    /// The lease is somebody else's.
    Nothing,
}

/// Decides. A cancel that was asked beats a failure that its own kill provoked. After `hand_overs` of them, a server
/// that stops costs an attempt: what never comes to its end between two stops must end all the same.
pub fn of(
    walked: Result<Option<Digest>, StepError>,
    row: &DeploymentRow,
    cancelled: bool,
    hand_overs: i32,
) -> Verdict {
    match walked {
        Ok(tree) => Verdict::Completed { tree },
        Err(StepError::LeaseLost) => Verdict::Nothing,
        Err(StepError::Draining) if cancelled => Verdict::Cancelled(CancelReason::Requested),
        Err(StepError::Draining) if row.hand_overs < hand_overs => Verdict::HandOver,
        Err(StepError::Draining) => {
            let summary = format!("Servers stopped {} times while this was built.", row.hand_overs + 1);
            let cause = Cause::new(Fault::Platform, None, summary, super::RETRY_HINT);
            platform(row, cause)
        }
        Err(StepError::Cancelled(reason)) => Verdict::Cancelled(reason),
        Err(StepError::Failed { .. }) if cancelled => Verdict::Cancelled(CancelReason::Requested),
        Err(StepError::Failed { cause, source }) => {
            let step = cause.step.map_or("none", |s| s.as_str());
            tracing::warn!(
                deployment.id = %row.id,
                step = %step,
                attempt = row.attempt,
                class = %cause.class,
                summary = %cause.summary,
                error = source.as_deref().map(|e| chain(e)),
                "attempt failed"
            );
            match cause.class {
                Fault::User => Verdict::Failed(cause),
                Fault::Platform | Fault::Unknown => platform(row, cause),
            }
        }
    }
}

fn platform(row: &DeploymentRow, cause: Cause) -> Verdict {
    if row.attempt >= MAX_ATTEMPTS {
        Verdict::DeadLetter(Cause { hint: FINAL_HINT.into(), ..cause })
    } else {
        Verdict::Retry(cause)
    }
}

/// Five seconds after the first failure, thirty after the second (settings).
pub fn retry_delay_ms(pipeline: &Pipeline, attempt: i32) -> i64 {
    let settings = &pipeline.control.settings.pipeline;
    seconds_ms(if attempt <= 1 { settings.retry_first_seconds } else { settings.retry_second_seconds })
}

pub fn seconds_ms(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Step;

    fn row(attempt: i32) -> DeploymentRow {
        DeploymentRow {
            id: "d".into(),
            org_id: String::new(),
            project_id: String::new(),
            user_id: String::new(),
            target: "production".into(),
            seq: 1,
            status: "in_progress".into(),
            current_step: None,
            progress: 0,
            attempt,
            fence: 1,
            ring: 1,
            rung_at: None,
            ring_sequence: None,
            due_at: 0,
            lease_owner: None,
            lease_until: None,
            cancel_requested_at: None,
            cancel_reason: None,
            source: String::new(),
            build: String::new(),
            env_sealed: None,
            custom_domain: None,
            branch: None,
            commit_ref: None,
            message: None,
            event_seq: 0,
            version_id: None,
            switched_at: None,
            cause: None,
            crashed_step: None,
            crashes_in_step: 0,
            first_failed_at: None,
            last_failed_at: None,
            created_at: 0,
            updated_at: 0,
            finished_at: None,
            redrives: 0,
            hand_overs: 0,
            resume_from: None,
        }
    }

    #[test]
    fn users_failures_are_final_and_the_third_platform_failure_is_a_dead_letter() {
        let user = || Err(StepError::user(Step::Build, "s", "h"));
        let platform = || Err(StepError::platform(Step::Build, "s", "e"));
        assert!(matches!(of(user(), &row(1), false, 10), Verdict::Failed(_)));
        assert!(matches!(of(platform(), &row(1), false, 10), Verdict::Retry(_)));
        assert!(matches!(of(platform(), &row(2), false, 10), Verdict::Retry(_)));
        assert!(matches!(of(platform(), &row(3), false, 10), Verdict::DeadLetter(_)));
    }

    #[test]
    fn a_cancel_beats_the_failure_it_provokes_and_a_lost_lease_decides_nothing() {
        let failed = Err(StepError::user(Step::Build, "s", "h"));
        assert!(matches!(of(failed, &row(1), true, 10), Verdict::Cancelled(CancelReason::Requested)));
        assert!(matches!(of(Err(StepError::LeaseLost), &row(3), true, 10), Verdict::Nothing));
    }
    #[test]
    fn a_hand_over_costs_nothing_until_it_is_one_of_many() {
        let stopped = || Err(StepError::Draining);
        let often = |attempt| DeploymentRow { hand_overs: 10, ..row(attempt) };
        assert!(matches!(of(stopped(), &row(3), false, 10), Verdict::HandOver));
        assert!(matches!(of(stopped(), &row(1), true, 10), Verdict::Cancelled(CancelReason::Requested)));
        assert!(matches!(of(stopped(), &often(1), false, 10), Verdict::Retry(_)));
        assert!(matches!(of(stopped(), &often(3), false, 10), Verdict::DeadLetter(_)));
    }
}
