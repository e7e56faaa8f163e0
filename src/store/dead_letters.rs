//! Dead letters as rows: written in the transaction of the failure they tell of, listed, and buried.
//! What drives one anew is `redrives`'. Never asks the broker.

use entity::{dead_letter, deployment};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, DatabaseTransaction, EntityTrait, FromQueryResult, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect, Select,
};

use super::deployments::DeploymentRow;
use super::{Store, StoreError, clock};
use crate::domain::{
    Cause, DeadLetterClass, DeadLetterState, Digest, ProjectId, UserId, fingerprint, id, time,
};

pub use entity::dead_letter::Model as DeadLetterRow;

/// A step that killed its process this often is called poison.
const POISON_CRASHES: i32 = 2;

/// Why a deployment whose third attempt's lease ran out is dead.
#[must_use]
pub fn crash_class(row: &DeploymentRow) -> DeadLetterClass {
    let again = row.crashed_step.is_some() && row.crashed_step == row.current_step;
    let poison = again && row.crashes_in_step + 1 >= POISON_CRASHES;
    if poison { DeadLetterClass::Poison } else { DeadLetterClass::Crashed }
}

/// Writes the letter of a deployment that has just failed for good; `row` is what it was before.
/// One per deployment and redrive, however often it is written.
pub(super) async fn add(
    tx: &DatabaseTransaction,
    row: &DeploymentRow,
    class: DeadLetterClass,
    cause: &Cause,
    now: i64,
) -> Result<(), StoreError> {
    let before = dead_letter::Entity::find()
        .filter(dead_letter::Column::DeploymentId.eq(&row.id))
        .filter(dead_letter::Column::Generation.eq(row.redrives - 1))
        .one(tx)
        .await?;
    insert(
        tx,
        DeadLetterRow {
            id: id::random(),
            org_id: Some(row.org_id.clone()),
            deployment_id: Some(row.id.clone()),
            project_id: Some(row.project_id.clone()),
            generation: Some(row.redrives),
            source_key: None,
            class: class.as_str().into(),
            fingerprint: fingerprint(class, cause).to_string(),
            failed_step: cause.step.map(|step| step.as_str().to_owned()),
            attempts: row.attempt,
            cause: serde_json::to_string(cause).unwrap_or_default(),
            original: message_of(row),
            sequence: row.ring_sequence,
            first_failed_at: row.first_failed_at.unwrap_or(now),
            last_failed_at: now,
            created_at: now,
            state: DeadLetterState::Open.as_str().into(),
            state_at: None,
            state_by: None,
            changed: None,
            // What was forgotten before it was driven anew has not come back.
            env_forgotten_at: before.and_then(|letter| letter.env_forgotten_at),
        },
    )
    .await
}

/// The message that rang it: ids only, so the row says all that stood in it.
fn message_of(row: &DeploymentRow) -> String {
    serde_json::json!({
        "version": 1,
        "deploymentId": row.id,
        "params": {
            "projectId": row.project_id,
            "orgId": row.org_id,
            "userId": row.user_id,
            "target": row.target,
            "ring": row.ring,
        },
        "metadata": {
            "timestamp": time::rfc3339(row.created_at),
            "retryCount": row.attempt - 1,
            "priority": 1,
        },
    })
    .to_string()
}

async fn insert(tx: &DatabaseTransaction, row: DeadLetterRow) -> Result<(), StoreError> {
    let written = dead_letter::Entity::insert(dead_letter::ActiveModel::from(row))
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx)
        .await;
    match written {
        Ok(_) | Err(sea_orm::DbErr::RecordNotInserted) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A message that was refused before a deployment existed.
#[derive(Debug, Clone)]
pub struct RefusedMessage {
    /// The id of the broker's letter: one row for each.
    pub source_key: String,
    /// The organization of its subject, whether there is one of that name or not.
    pub subject_org: String,
    pub cause: Cause,
    /// JSON.
    pub original: String,
    pub sequence: u64,
}

/// Whose letters are meant.
#[derive(Debug, Clone)]
pub struct LetterScope {
    pub org: String,
    /// Whether those that belong to no organization are among them.
    pub nobodys: bool,
}

/// One page of letters, newest first; `before` is the `(created_at, id)` of the last one seen.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    pub class: Option<DeadLetterClass>,
    pub project: Option<ProjectId>,
    pub fingerprint: Option<Digest>,
    pub state: Option<DeadLetterState>,
    pub before: Option<(i64, String)>,
    pub limit: u64,
}

/// Open letters of one kind.
#[derive(Debug, Clone)]
pub struct LetterGroup {
    pub count: i64,
    pub newest: DeadLetterRow,
}

/// What burying came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buried {
    Done,
    Redriven,
    Unknown,
}

impl Store {
    /// Keeps a refused message at the desk. Beyond `most` open ones of its organization only the broker keeps it.
    pub async fn dead_letter_refused(&self, message: &RefusedMessage, most: u64) -> Result<(), StoreError> {
        self.repeating(|_| self.refused_once(message, most)).await
    }

    async fn refused_once(&self, message: &RefusedMessage, most: u64) -> Result<(), StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let known = entity::organization::Entity::find_by_id(message.subject_org.as_str()).one(&tx).await?;
        let org_id = known.map(|org| org.id);
        let of_org = match &org_id {
            Some(org) => dead_letter::Column::OrgId.eq(org),
            None => dead_letter::Column::OrgId.is_null(),
        };
        let open = dead_letter::Entity::find()
            .filter(of_org)
            .filter(dead_letter::Column::State.eq("open"))
            .filter(dead_letter::Column::Class.eq("invalid"))
            .count(&tx)
            .await?;
        if open < most {
            let class = DeadLetterClass::Invalid;
            let row = DeadLetterRow {
                id: id::random(),
                org_id,
                deployment_id: None,
                project_id: None,
                generation: None,
                source_key: Some(message.source_key.clone()),
                class: class.as_str().into(),
                fingerprint: fingerprint(class, &message.cause).to_string(),
                failed_step: None,
                attempts: 0,
                cause: serde_json::to_string(&message.cause).unwrap_or_default(),
                original: message.original.clone(),
                sequence: i64::try_from(message.sequence).ok(),
                first_failed_at: now,
                last_failed_at: now,
                created_at: now,
                state: DeadLetterState::Open.as_str().into(),
                state_at: None,
                state_by: None,
                changed: None,
                env_forgotten_at: None,
            };
            insert(&tx, row).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    pub async fn dead_letter_list(
        &self,
        scope: &LetterScope,
        filter: &LetterFilter,
    ) -> Result<Vec<DeadLetterRow>, StoreError> {
        let mut query = matching(scope, filter)
            .order_by_desc(dead_letter::Column::CreatedAt)
            .order_by_desc(dead_letter::Column::Id)
            .limit(filter.limit);
        if let Some((at, id)) = &filter.before {
            query = query.filter(
                Condition::any().add(dead_letter::Column::CreatedAt.lt(*at)).add(
                    Condition::all()
                        .add(dead_letter::Column::CreatedAt.eq(*at))
                        .add(dead_letter::Column::Id.lt(id.as_str())),
                ),
            );
        }
        Ok(query.all(&self.read).await?)
    }

    /// Letters of deployments that match, oldest first.
    pub async fn dead_letter_ids(
        &self,
        scope: &LetterScope,
        filter: &LetterFilter,
    ) -> Result<Vec<String>, StoreError> {
        Ok(matching(scope, filter)
            .filter(dead_letter::Column::DeploymentId.is_not_null())
            .order_by_asc(dead_letter::Column::CreatedAt)
            .order_by_asc(dead_letter::Column::Id)
            .limit(filter.limit)
            .select_only()
            .column(dead_letter::Column::Id)
            .into_tuple()
            .all(&self.read)
            .await?)
    }

    /// The largest groups of equal failures.
    pub async fn dead_letter_groups(
        &self,
        scope: &LetterScope,
        filter: &LetterFilter,
    ) -> Result<Vec<LetterGroup>, StoreError> {
        #[derive(FromQueryResult)]
        struct Counted {
            fingerprint: String,
            count: i64,
        }
        let counted = matching(scope, filter)
            .select_only()
            .column(dead_letter::Column::Fingerprint)
            .column_as(dead_letter::Column::Id.count(), "count")
            .group_by(dead_letter::Column::Fingerprint)
            .order_by_desc(dead_letter::Column::Id.count())
            .order_by_asc(dead_letter::Column::Fingerprint)
            .limit(filter.limit)
            .into_model::<Counted>()
            .all(&self.read)
            .await?;
        let mut groups = Vec::with_capacity(counted.len());
        for group in counted {
            let newest = matching(scope, filter)
                .filter(dead_letter::Column::Fingerprint.eq(group.fingerprint))
                .order_by_desc(dead_letter::Column::CreatedAt)
                .order_by_desc(dead_letter::Column::Id)
                .one(&self.read)
                .await?;
            groups.extend(newest.map(|newest| LetterGroup { count: group.count, newest }));
        }
        Ok(groups)
    }

    pub async fn dead_letter_get(
        &self,
        scope: &LetterScope,
        id: &str,
    ) -> Result<Option<DeadLetterRow>, StoreError> {
        Ok(visible(scope).filter(dead_letter::Column::Id.eq(id)).one(&self.read).await?)
    }

    /// Closes an open letter for good; the deployment stays failed, and its build variables are forgotten.
    pub async fn dead_letter_bury(
        &self,
        scope: &LetterScope,
        id: &str,
        by: &UserId,
    ) -> Result<Buried, StoreError> {
        self.repeating(|_| self.bury_once(scope, id, by)).await
    }

    async fn bury_once(&self, scope: &LetterScope, id: &str, by: &UserId) -> Result<Buried, StoreError> {
        let tx = self.begin().await?;
        let Some(letter) = locked(&tx, scope, id).await? else { return Ok(Buried::Unknown) };
        match DeadLetterState::parse(&letter.state) {
            Some(DeadLetterState::Open) => {}
            Some(DeadLetterState::Redriven) => return Ok(Buried::Redriven),
            Some(DeadLetterState::Buried) | None => return Ok(Buried::Done),
        }
        let now = clock::now(&tx).await?;
        close(&tx, id, DeadLetterState::Buried, by, None, now).await?;
        if let Some(deployment) = &letter.deployment_id {
            deployment::Entity::update_many()
                .col_expr(deployment::Column::EnvSealed, Expr::value(Option::<String>::None))
                .filter(deployment::Column::Id.eq(deployment))
                .filter(deployment::Column::Status.eq("failed"))
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(Buried::Done)
    }

    /// Forgets the build variables of deployments that failed longer than `kept_ms` ago. Answers how many.
    pub async fn dead_letter_forget_env(&self, kept_ms: i64, batch: u64) -> Result<u64, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let old: Vec<String> = deployment::Entity::find()
            .select_only()
            .column(deployment::Column::Id)
            .filter(deployment::Column::Status.eq("failed"))
            .filter(deployment::Column::EnvSealed.is_not_null())
            .filter(deployment::Column::FinishedAt.lt(now - kept_ms))
            .order_by_asc(deployment::Column::Id)
            .limit(batch)
            .lock_exclusive()
            .into_tuple()
            .all(&tx)
            .await?;
        let mut forgotten = 0;
        for ids in old.chunks(500) {
            forgotten += deployment::Entity::update_many()
                .col_expr(deployment::Column::EnvSealed, Expr::value(Option::<String>::None))
                .filter(deployment::Column::Id.is_in(ids))
                .filter(deployment::Column::Status.eq("failed"))
                .exec(&tx)
                .await?
                .rows_affected;
            dead_letter::Entity::update_many()
                .col_expr(dead_letter::Column::EnvForgottenAt, Expr::value(now))
                .filter(dead_letter::Column::DeploymentId.is_in(ids))
                .filter(dead_letter::Column::State.eq("open"))
                .exec(&tx)
                .await?;
        }
        tx.commit().await?;
        Ok(forgotten)
    }
}

fn visible(scope: &LetterScope) -> Select<dead_letter::Entity> {
    let mut whose = Condition::any().add(dead_letter::Column::OrgId.eq(&scope.org));
    if scope.nobodys {
        whose = whose.add(dead_letter::Column::OrgId.is_null());
    }
    dead_letter::Entity::find().filter(whose)
}

fn matching(scope: &LetterScope, filter: &LetterFilter) -> Select<dead_letter::Entity> {
    let mut query = visible(scope);
    if let Some(state) = filter.state {
        query = query.filter(dead_letter::Column::State.eq(state.as_str()));
    }
    if let Some(class) = filter.class {
        query = query.filter(dead_letter::Column::Class.eq(class.as_str()));
    }
    if let Some(project) = &filter.project {
        query = query.filter(dead_letter::Column::ProjectId.eq(project.as_str()));
    }
    if let Some(fingerprint) = &filter.fingerprint {
        query = query.filter(dead_letter::Column::Fingerprint.eq(fingerprint.as_str()));
    }
    query
}

/// The letter, held: its deployment first, as everybody who changes both does.
pub(super) async fn locked(
    tx: &DatabaseTransaction,
    scope: &LetterScope,
    id: &str,
) -> Result<Option<DeadLetterRow>, StoreError> {
    let Some(found) = visible(scope).filter(dead_letter::Column::Id.eq(id)).one(tx).await? else {
        return Ok(None);
    };
    if let Some(deployment) = &found.deployment_id {
        deployment::Entity::find_by_id(deployment).lock_exclusive().one(tx).await?;
    }
    Ok(dead_letter::Entity::find_by_id(id).lock_exclusive().one(tx).await?)
}

pub(super) async fn close(
    tx: &DatabaseTransaction,
    id: &str,
    state: DeadLetterState,
    by: &UserId,
    changed: Option<&str>,
    now: i64,
) -> Result<(), StoreError> {
    dead_letter::Entity::update_many()
        .col_expr(dead_letter::Column::State, Expr::value(state.as_str()))
        .col_expr(dead_letter::Column::StateAt, Expr::value(now))
        .col_expr(dead_letter::Column::StateBy, Expr::value(by.as_str()))
        .col_expr(dead_letter::Column::Changed, Expr::value(changed))
        .filter(dead_letter::Column::Id.eq(id))
        .exec(tx)
        .await?;
    Ok(())
}
