//! The status document that strangers may read: every string from our own fixed catalogue.

use std::collections::HashMap;

use serde::Serialize;

use super::line::QueuePlace;
use super::{Control, ControlError};
use crate::domain::source::Recognised;
use crate::domain::status::CancelReason;
use crate::domain::time::rfc3339;
use crate::domain::{Cause, DeploymentId, DeploymentStatus, Step, StepStatus};
use crate::domain::{worker_name::WorkerName, worker_name::preview_label};
use crate::store::deployments::{DeploymentRow, MAX_ATTEMPTS, StepRow};

/// Newest step lines shown.
const LOG_LINES: u64 = 200;

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepState {
    pub status: StepStatus,
    /// When the step last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    pub attempt: i32,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct StepStates {
    pub validate: StepState,
    pub sync: StepState,
    pub sandbox: StepState,
    pub build: StepState,
    pub deploy: StepState,
    pub cleanup: StepState,
}

/// `GET /deploy-status`.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeployStatus)]
pub struct StatusDocument {
    pub deployment_id: String,
    pub status: DeploymentStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_step: Option<Step>,
    /// Percent, 0 to 100; never goes back within an attempt.
    #[schema(minimum = 0, maximum = 100)]
    pub progress: i32,
    pub steps: StepStates,
    /// Short step lines, newest 200.
    pub logs: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Time of the last change.
    pub timestamp: String,
    pub attempt: i32,
    pub max_attempts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_requested: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<CancelReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// While it is queued: where it stands in line and what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,
}

impl Control {
    /// # Errors
    /// [`ControlError::DeploymentNotFound`] also for a malformed id.
    pub async fn deployment_status(&self, id: &str) -> Result<StatusDocument, ControlError> {
        let id = DeploymentId::parse(id).map_err(|_| ControlError::DeploymentNotFound)?;
        let row = self.store.deployment_by_id(id.as_str()).await?.ok_or(ControlError::DeploymentNotFound)?;
        let steps = self.store.deployment_steps(&row.id).await?;
        let logs = self.store.event_newest(&row.id, LOG_LINES).await?;
        let project = self.store.project_of_deployment(&row.org_id, &row.project_id).await?;
        let worker = project.map(|p| p.worker_name).unwrap_or_default();
        let queue = self.queue_place(&row).await;
        let document = self.document(row, steps, logs.into_iter().map(|e| e.message).collect(), &worker);
        Ok(StatusDocument { queue, ..document })
    }

    /// What the deployment's source was taken for; the sandbox step journals it.
    ///
    /// # Errors
    /// If the database can't be read.
    pub async fn deployment_recognised(&self, id: &str) -> Result<Option<Recognised>, ControlError> {
        let steps = self.store.deployment_steps(id).await?;
        let result = steps.into_iter().find(|s| s.step == Step::Sandbox.as_str()).and_then(|s| s.result);
        Ok(result.and_then(|text| serde_json::from_str(&text).ok()))
    }

    fn document(
        &self,
        row: DeploymentRow,
        steps: Vec<StepRow>,
        logs: Vec<String>,
        worker: &str,
    ) -> StatusDocument {
        let status = DeploymentStatus::parse(&row.status).unwrap_or(DeploymentStatus::Queued);
        let cause: Option<Cause> = row.cause.as_deref().and_then(|c| serde_json::from_str(c).ok());
        let live = row.switched_at.is_some() && row.target == "production";
        StatusDocument {
            url: live.then(|| self.addresses.worker(worker)),
            preview_url: row.version_id.as_ref().and_then(|_| self.preview_url(&row.id, worker)),
            current_step: row.current_step.as_deref().and_then(Step::parse),
            progress: row.progress,
            steps: step_states(&steps),
            logs,
            error: (status == DeploymentStatus::Failed)
                .then(|| cause.as_ref().map(|c| c.summary.clone()))
                .flatten(),
            timestamp: rfc3339(row.updated_at),
            attempt: row.attempt,
            max_attempts: MAX_ATTEMPTS,
            cancel_requested: row.cancel_requested_at.map(|_| true),
            cancel_reason: row.cancel_reason.as_deref().and_then(CancelReason::parse),
            cause: cause.map(|c| c.public()),
            queue: None,
            deployment_id: row.id,
            status,
        }
    }

    /// The address on which a deployment's own version answers.
    #[must_use]
    pub fn preview_url(&self, deployment: &str, worker: &str) -> Option<String> {
        let name = WorkerName::parse_shape(worker).ok()?;
        Some(self.addresses.worker(&preview_label(deployment, &name)))
    }
}

fn step_states(rows: &[StepRow]) -> StepStates {
    let by_step: HashMap<&str, &StepRow> = rows.iter().map(|r| (r.step.as_str(), r)).collect();
    let state = |step: Step| {
        let row = by_step.get(step.as_str());
        let status = row.and_then(|r| StepStatus::parse(&r.status)).unwrap_or(StepStatus::Pending);
        let started = row.and_then(|r| r.started_at).map(rfc3339);
        let finished = row.and_then(|r| r.finished_at).map(rfc3339);
        StepState {
            status,
            timestamp: finished.clone().or_else(|| started.clone()),
            error: row.and_then(|r| r.error.clone()),
            started_at: started,
            finished_at: finished,
            attempt: row.map_or(0, |r| r.attempt),
        }
    };
    StepStates {
        validate: state(Step::Validate),
        sync: state(Step::Sync),
        sandbox: state(Step::Sandbox),
        build: state(Step::Build),
        deploy: state(Step::Deploy),
        cleanup: state(Step::Cleanup),
    }
}
