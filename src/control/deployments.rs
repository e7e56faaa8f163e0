//! Deployments: recording one, and asking for its end.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::sources::SourceFile;
use super::{Control, ControlError, projects};
use crate::domain::hostname::Hostname;
use crate::domain::source::{BuildOverrides, HistoryEdit};
use crate::domain::{DeploymentId, OrgId, Principal, ProjectId, Target, UserId};
use crate::store::admission::Asked;
use crate::store::deployments::{DeploymentRow, NewDeployment, Recorded, Supersede};
use crate::store::idempotency::IdempotencyKey;
use crate::store::outcome::CancelAsked;

/// A request that was read and found to be well-formed.
#[derive(Debug)]
pub struct DeployRequest {
    pub project: ProjectId,
    pub org: OrgId,
    pub user: UserId,
    pub custom_domain: Option<Hostname>,
    pub files: Option<Vec<SourceFile>>,
    pub history: Vec<(HistoryEdit, Option<Bytes>)>,
    pub target: Target,
    pub branch: Option<String>,
    pub commit: Option<String>,
    pub message: Option<String>,
    pub env: BTreeMap<String, String>,
    pub supersede: Supersede,
    pub build: BuildOverrides,
    /// The key and the digest of the body's canonical form.
    pub idempotency: Option<(String, String)>,
}

impl Control {
    /// Records a deployment: its sources are durable first, then one transaction. The broker is
    /// not asked; the sweep rings what is recorded.
    ///
    /// # Errors
    /// Why it was refused; nothing is recorded or reserved then.
    pub async fn deployment_create(
        &self,
        who: &Principal,
        request: DeployRequest,
    ) -> Result<DeploymentRow, ControlError> {
        if request.org != who.org_id {
            return Err(ControlError::Forbidden("orgId is not the organization of this credential."));
        }
        if request.user != who.user_id {
            return Err(ControlError::Forbidden("userId is not the user of this credential."));
        }
        let scope = who.scope();
        let project = self.project_get(&scope, &request.project).await?;
        let nothing_stored = projects::stored_tree(&project).is_none();
        if request.files.is_none() && request.history.is_empty() && nothing_stored {
            let message = "This project has no stored files yet: send initFiles, or store files first.";
            return Err(ControlError::Conflict(message));
        }
        let idempotency =
            request.idempotency.map(|(key, body_digest)| self.remembered_key(who, key, &body_digest));
        let asked = Asked {
            project: &request.project,
            target: request.target,
            supersede: request.supersede,
            idempotency: idempotency.as_ref(),
            quota_limit: self.settings.quota.deployments_per_month,
            waiting_limit: self.settings.quota.waiting_deployments,
        };
        // A request that will be refused must not fill the disk first.
        if let Some(foreseen) = self.store.deployment_foresee(&scope, asked).await? {
            return recorded(foreseen);
        }
        let id = DeploymentId::random();
        let env_sealed = self.seal_env(&id, &request.env)?;
        let source = self.sources_store(&who.org_id, request.files, request.history).await?;
        let new = NewDeployment {
            id,
            project: request.project,
            user: request.user,
            target: request.target,
            source: serde_json::to_string(&source).map_err(ControlError::Json)?,
            build: serde_json::to_string(&request.build).map_err(ControlError::Json)?,
            env_sealed,
            custom_domain: request.custom_domain.map(|h| self.domain_new_claim(who.org_id.as_str(), &h)),
            branch: request.branch,
            commit: request.commit,
            message: request.message,
            supersede: request.supersede,
            idempotency,
            quota_limit: self.settings.quota.deployments_per_month,
            waiting_limit: self.settings.quota.waiting_deployments,
        };
        let row = recorded(self.store.deployment_create(&scope, new).await?)?;
        self.doorbell.notify_one();
        Ok(row)
    }

    /// Asks for a deployment's end. `Ok` is the row as it is then: `cancelled`, or still running
    /// with the request noted.
    ///
    /// # Errors
    /// [`ControlError::Conflict`] when it comes too late.
    pub async fn deployment_cancel(
        &self,
        who: &Principal,
        id: &DeploymentId,
    ) -> Result<DeploymentRow, ControlError> {
        match self.store.deployment_cancel(&who.scope(), id).await? {
            CancelAsked::Unknown => Err(ControlError::DeploymentNotFound),
            CancelAsked::Cancelled(row) => Ok(*row),
            CancelAsked::Requested(row) => {
                self.running.cancel(&row.id);
                Ok(*row)
            }
            CancelAsked::TooLate(row) if row.finished_at.is_some() => {
                Err(ControlError::Conflict("The cancel comes too late: this deployment has ended."))
            }
            CancelAsked::TooLate(_) => {
                Err(ControlError::Conflict("The cancel comes too late: the new version is live already."))
            }
        }
    }

    pub(super) fn remembered_key(&self, who: &Principal, key: String, body_digest: &str) -> IdempotencyKey {
        IdempotencyKey {
            credential_id: who.token_id.to_string(),
            key,
            // The body holds build variables: a plain digest of a weak one could be guessed from a dump.
            body_digest: self.sealer.mark("idempotency", body_digest.as_bytes()),
        }
    }

    fn seal_env(
        &self,
        id: &DeploymentId,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<String>, ControlError> {
        if env.is_empty() {
            return Ok(None);
        }
        let plain = serde_json::to_vec(env).map_err(ControlError::Json)?;
        self.sealer.seal(id.as_str(), &plain).map(Some)
    }

    /// The build variables of a deployment.
    ///
    /// # Errors
    /// If they were sealed with another key.
    pub fn open_env(&self, row: &DeploymentRow) -> Result<BTreeMap<String, String>, ControlError> {
        let Some(sealed) = &row.env_sealed else { return Ok(BTreeMap::new()) };
        let plain = self.sealer.open(&row.id, sealed)?;
        serde_json::from_slice(&plain).map_err(ControlError::Json)
    }
}

fn recorded(recorded: Recorded) -> Result<DeploymentRow, ControlError> {
    match recorded {
        Recorded::New(row) | Recorded::Remembered(row) => Ok(*row),
        Recorded::KeyConflict => Err(ControlError::Conflict(
            "This Idempotency-Key was used with another body; use a new key for another deployment.",
        )),
        Recorded::ProjectMissing => Err(ControlError::ProjectNotFound),
        Recorded::NotAMember => Err(ControlError::Forbidden("userId is not a member of this organization.")),
        Recorded::ProjectInactive => Err(ControlError::Conflict("This project is suspended.")),
        Recorded::DomainTaken => Err(ControlError::Conflict(
            "customDomain is in use by another project; remove it there or choose another one.",
        )),
        Recorded::TooManyDomains(limit, of) => Err(ControlError::TooManyDomains { limit, of }),
        Recorded::QuotaExceeded { limit } => Err(ControlError::QuotaExceeded { limit }),
        Recorded::TooManyWaiting { limit } => Err(ControlError::TooManyWaiting { limit }),
    }
}
