//! An early look at whether a deployment would be recorded, so that a refused request stores nothing.
//! Only `deployment_create` decides: what this answers may have changed by then.

use entity::deployment;
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter};

use super::deployments::{Recorded, Supersede};
use super::idempotency::{self, IdempotencyKey, Remembered};
use super::{Store, StoreError, quota};
use crate::domain::{OrgScope, ProjectId, Target};

/// What the look needs to know of the request.
#[derive(Debug)]
pub struct Asked<'a> {
    pub project: &'a ProjectId,
    pub target: Target,
    pub supersede: Supersede,
    pub idempotency: Option<&'a IdempotencyKey>,
    pub quota_limit: i64,
    pub waiting_limit: u64,
}

impl Store {
    /// `None`: go on. Otherwise the answer that recording would give now.
    pub async fn deployment_foresee(
        &self,
        scope: &OrgScope,
        asked: Asked<'_>,
    ) -> Result<Option<Recorded>, StoreError> {
        let now = self.now().await?;
        let org = scope.org().as_str();
        if let Some(key) = asked.idempotency {
            match idempotency::find(&self.read, org, key, now).await? {
                Remembered::Nothing => {}
                Remembered::OtherBody => return Ok(Some(Recorded::KeyConflict)),
                Remembered::SameBody { deployment_id } => {
                    let row = self.deployment_by_id(&deployment_id).await?;
                    return Ok(row.map(|row| Recorded::Remembered(Box::new(row))));
                }
            }
        }
        if quota::is_used_up(&self.read, org, asked.quota_limit, now).await? {
            return Ok(Some(Recorded::QuotaExceeded { limit: asked.quota_limit }));
        }
        let mut waiting = deployment::Entity::find()
            .filter(deployment::Column::OrgId.eq(org))
            .filter(deployment::Column::Status.eq("queued"));
        if asked.supersede == Supersede::QueuedOlder {
            // Those will make room.
            waiting = waiting.filter(
                Condition::any()
                    .add(deployment::Column::ProjectId.ne(asked.project.as_str()))
                    .add(deployment::Column::Target.ne(asked.target.as_str())),
            );
        }
        if waiting.count(&self.read).await? >= asked.waiting_limit {
            return Ok(Some(Recorded::TooManyWaiting { limit: asked.waiting_limit }));
        }
        Ok(None)
    }
}
