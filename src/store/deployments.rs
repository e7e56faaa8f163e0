//! Recording a deployment, and reading it.

use std::sync::atomic::{AtomicBool, Ordering};

use entity::{deployment, deployment_step, membership, project, project_target};
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::domains::{Claimed, NewClaim};
use super::idempotency::{self, IdempotencyKey, Remembered};
use super::link::recording_alone;
use super::{Store, StoreError, clock, events, outcome, quota};
use crate::domain::{
    DeploymentId, DeploymentStatus, OrgScope, ProjectId, Step, StepStatus, Target, UserId,
    status::CancelReason,
};

pub use entity::deployment::Model as DeploymentRow;
pub use entity::deployment_step::Model as StepRow;

/// Attempts in all; a fourth is refused (contract §7).
pub const MAX_ATTEMPTS: i32 = 3;

/// A deployment to be recorded. Its blobs are durable already.
#[derive(Debug, Clone)]
pub struct NewDeployment {
    pub id: DeploymentId,
    pub project: ProjectId,
    pub user: UserId,
    pub target: Target,
    /// JSON of [`SourceOrder`](crate::domain::source::SourceOrder).
    pub source: String,
    /// JSON of [`BuildOverrides`](crate::domain::source::BuildOverrides).
    pub build: String,
    pub env_sealed: Option<String>,
    pub custom_domain: Option<NewClaim>,
    pub branch: Option<String>,
    pub commit: Option<String>,
    pub message: Option<String>,
    /// Whether this one cancels queued older ones of the same project and target.
    pub supersede: Supersede,
    pub idempotency: Option<IdempotencyKey>,
    /// Deployments an organization may make in a calendar month.
    pub quota_limit: i64,
    /// Deployments of one organization that may wait at once.
    pub waiting_limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supersede {
    QueuedOlder,
    Nothing,
}

/// What recording came to.
#[derive(Debug)]
pub enum Recorded {
    New(Box<DeploymentRow>),
    /// The idempotency key stands for this one already.
    Remembered(Box<DeploymentRow>),
    KeyConflict,
    ProjectMissing,
    NotAMember,
    ProjectInactive,
    DomainTaken,
    QuotaExceeded {
        limit: i64,
    },
    TooManyWaiting {
        limit: u64,
    },
    TooManyDomains(u64, &'static str),
}

/// One page of deployments, newest first; `before` is the `(created_at, id)` of the last one seen.
#[derive(Debug, Clone, Default)]
pub struct DeploymentFilter {
    pub project: Option<ProjectId>,
    pub status: Option<DeploymentStatus>,
    pub before: Option<(i64, String)>,
    pub limit: u64,
}

impl Store {
    /// One transaction: idempotency key, quota, superseding, sequence number, row, steps, event.
    ///
    /// # Errors
    /// If the database can't take it; nothing is recorded or reserved then.
    pub async fn deployment_create(
        &self,
        scope: &OrgScope,
        new: NewDeployment,
    ) -> Result<Recorded, StoreError> {
        // Whether a commit was asked for: then no error says that nothing was recorded.
        let is_asked = AtomicBool::new(false);
        let recorded = self.repeating(|tried| self.create_once(scope, new.clone(), tried, &is_asked)).await;
        match recorded {
            Err(e @ StoreError::Unavailable(_)) if is_asked.load(Ordering::Relaxed) => {
                match self.deployment_by_id(new.id.as_str()).await {
                    Ok(Some(row)) => Ok(Recorded::New(Box::new(row))),
                    // A commit may still be on its way to a database that does not answer.
                    Ok(None) | Err(_) => Err(StoreError::Unsure(Box::new(e))),
                }
            }
            recorded => recorded,
        }
    }

    async fn create_once(
        &self,
        scope: &OrgScope,
        new: NewDeployment,
        tried: u32,
        is_asked: &AtomicBool,
    ) -> Result<Recorded, StoreError> {
        let tx = self.begin().await?;
        if tried > 0
            && let Some(row) = deployment::Entity::find_by_id(new.id.as_str()).one(&tx).await?
        {
            // The connection died after it was recorded: its id was never anybody else's.
            tx.rollback().await?;
            return Ok(Recorded::New(Box::new(row)));
        }
        let recorded = create_in(&tx, scope, new).await?;
        match recorded {
            Recorded::New(_) => {
                is_asked.store(true, Ordering::Relaxed);
                tx.commit().await?;
            }
            // Nothing of a refused deployment may stay behind.
            _ => tx.rollback().await?,
        }
        Ok(recorded)
    }

    pub async fn deployment_get(
        &self,
        scope: &OrgScope,
        id: &DeploymentId,
    ) -> Result<Option<DeploymentRow>, StoreError> {
        Ok(deployment::Entity::find_by_id(id.as_str())
            .filter(deployment::Column::OrgId.eq(scope.org().as_str()))
            .one(&self.read)
            .await?)
    }

    /// For the public status page and the pipeline: no organization is asked, so what it shows
    /// must be fit for strangers.
    pub async fn deployment_by_id(&self, id: &str) -> Result<Option<DeploymentRow>, StoreError> {
        Ok(deployment::Entity::find_by_id(id).one(&self.read).await?)
    }

    pub async fn deployment_list(
        &self,
        scope: &OrgScope,
        filter: &DeploymentFilter,
    ) -> Result<Vec<DeploymentRow>, StoreError> {
        let mut query = deployment::Entity::find()
            .filter(deployment::Column::OrgId.eq(scope.org().as_str()))
            .order_by_desc(deployment::Column::CreatedAt)
            .order_by_desc(deployment::Column::Id)
            .limit(filter.limit);
        if let Some(project) = &filter.project {
            query = query.filter(deployment::Column::ProjectId.eq(project.as_str()));
        }
        if let Some(status) = filter.status {
            query = query.filter(deployment::Column::Status.eq(status.as_str()));
        }
        if let Some((at, id)) = &filter.before {
            query = query.filter(
                Condition::any().add(deployment::Column::CreatedAt.lt(*at)).add(
                    Condition::all()
                        .add(deployment::Column::CreatedAt.eq(*at))
                        .add(deployment::Column::Id.lt(id.as_str())),
                ),
            );
        }
        Ok(query.all(&self.read).await?)
    }

    /// The six journal rows, in no particular order.
    pub async fn deployment_steps(&self, id: &str) -> Result<Vec<StepRow>, StoreError> {
        Ok(deployment_step::Entity::find()
            .filter(deployment_step::Column::DeploymentId.eq(id))
            .all(&self.read)
            .await?)
    }
}

async fn create_in(
    tx: &DatabaseTransaction,
    scope: &OrgScope,
    new: NewDeployment,
) -> Result<Recorded, StoreError> {
    let org = scope.org().to_string();
    recording_alone(tx, &org).await?;
    let now = clock::now(tx).await?;
    if let Some(key) = &new.idempotency {
        match idempotency::find(tx, &org, key, now).await? {
            Remembered::Nothing => {}
            Remembered::OtherBody => return Ok(Recorded::KeyConflict),
            Remembered::SameBody { deployment_id } => {
                let row = deployment::Entity::find_by_id(deployment_id)
                    .one(tx)
                    .await?
                    .ok_or(StoreError::Corrupt { what: "idempotency key" })?;
                return Ok(Recorded::Remembered(Box::new(row)));
            }
        }
    }
    let project = project::Entity::find_by_id(new.project.as_str())
        .filter(project::Column::OrgId.eq(&org))
        .one(tx)
        .await?;
    let Some(project) = project else { return Ok(Recorded::ProjectMissing) };
    if project.status != "active" {
        return Ok(Recorded::ProjectInactive);
    }
    if membership::Entity::find_by_id((org.clone(), new.user.to_string())).one(tx).await?.is_none() {
        return Ok(Recorded::NotAMember);
    }
    if let Some(claim) = &new.custom_domain {
        match super::domains::claim(tx, &org, &project.id, claim, now).await? {
            Claimed::Taken => return Ok(Recorded::DomainTaken),
            Claimed::TooMany { limit, of } => return Ok(Recorded::TooManyDomains(limit, of)),
            Claimed::New(_) | Claimed::Known(_) | Claimed::ProjectMissing | Claimed::Redirect(_) => {}
        }
    }
    let target = new.target.as_str();
    let superseded = match new.supersede {
        Supersede::QueuedOlder => lock_queued(tx, &project.id, target).await?,
        Supersede::Nothing => Vec::new(),
    };
    if !quota::reserve(tx, &org, new.id.as_str(), new.quota_limit, now).await? {
        return Ok(Recorded::QuotaExceeded { limit: new.quota_limit });
    }
    for row in superseded {
        outcome::cancel_queued(tx, &row, CancelReason::Superseded, now).await?;
    }
    let waiting = deployment::Entity::find()
        .filter(deployment::Column::OrgId.eq(&org))
        .filter(deployment::Column::Status.eq("queued"))
        .count(tx)
        .await?;
    if waiting >= new.waiting_limit {
        return Ok(Recorded::TooManyWaiting { limit: new.waiting_limit });
    }
    let row = DeploymentRow {
        id: new.id.to_string(),
        org_id: org.clone(),
        seq: next_seq(tx, &org, &project.id, target).await?,
        project_id: project.id,
        user_id: new.user.to_string(),
        target: target.into(),
        status: "queued".into(),
        current_step: None,
        progress: 0,
        attempt: 0,
        fence: 0,
        ring: 1,
        rung_at: None,
        ring_sequence: None,
        due_at: now,
        lease_owner: None,
        lease_until: None,
        cancel_requested_at: None,
        cancel_reason: None,
        source: new.source,
        build: new.build,
        env_sealed: new.env_sealed,
        custom_domain: new.custom_domain.map(|claim| claim.hostname),
        branch: new.branch,
        commit_ref: new.commit,
        message: new.message,
        event_seq: 0,
        version_id: None,
        switched_at: None,
        cause: None,
        crashed_step: None,
        crashes_in_step: 0,
        first_failed_at: None,
        last_failed_at: None,
        created_at: now,
        updated_at: now,
        finished_at: None,
        redrives: 0,
        hand_overs: 0,
        resume_from: None,
    };
    deployment::Entity::insert(deployment::ActiveModel::from(row.clone())).exec_without_returning(tx).await?;
    let steps = Step::ALL.iter().map(|step| deployment_step::ActiveModel {
        deployment_id: Set(row.id.clone()),
        step: Set(step.as_str().into()),
        status: Set(StepStatus::Pending.as_str().into()),
        attempt: Set(0),
        started_at: Set(None),
        finished_at: Set(None),
        result: Set(None),
        error: Set(None),
    });
    deployment_step::Entity::insert_many(steps).exec_without_returning(tx).await?;
    events::add(tx, &row.id, now, events::Kind::Queued, "Deployment queued", serde_json::json!({})).await?;
    if let Some(key) = &new.idempotency {
        idempotency::remember(tx, &org, key, &row.id, now).await?;
    }
    Ok(Recorded::New(Box::new(row)))
}

/// The next sequence number of a project and target: whoever holds a lower one can't go live later.
pub(super) async fn next_seq(
    tx: &DatabaseTransaction,
    org: &str,
    project: &str,
    target: &str,
) -> Result<i64, StoreError> {
    let fresh = project_target::ActiveModel {
        project_id: Set(project.into()),
        target: Set(target.into()),
        org_id: Set(org.into()),
        last_seq: Set(1),
        live_seq: Set(0),
        live_version_id: Set(None),
        route_epoch: Set(0),
    };
    let raise = OnConflict::columns([project_target::Column::ProjectId, project_target::Column::Target])
        .value(
            project_target::Column::LastSeq,
            Expr::col((project_target::Entity, project_target::Column::LastSeq)).add(1),
        )
        .to_owned();
    project_target::Entity::insert(fresh).on_conflict(raise).exec_without_returning(tx).await?;
    let row = project_target::Entity::find_by_id((project.to_owned(), target.to_owned())).one(tx).await?;
    row.map(|r| r.last_seq).ok_or(StoreError::Corrupt { what: "sequence number" })
}

/// What waits of this project and target, locked. Everybody locks deployments before the quota and
/// several of them in order of their ids, so that nobody waits for somebody who waits for him.
pub(super) async fn lock_queued(
    tx: &DatabaseTransaction,
    project: &str,
    target: &str,
) -> Result<Vec<DeploymentRow>, StoreError> {
    Ok(deployment::Entity::find()
        .filter(deployment::Column::ProjectId.eq(project))
        .filter(deployment::Column::Target.eq(target))
        .filter(deployment::Column::Status.eq("queued"))
        // One that is live already and waits to finish can't be taken back.
        .filter(deployment::Column::SwitchedAt.is_null())
        .order_by_asc(deployment::Column::Id)
        .lock_exclusive()
        .all(tx)
        .await?)
}
