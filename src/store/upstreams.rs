//! Workers that are served by HTTP origins, as an operator registered them. A project has one at most; each
//! change of it is a change of the routes.

use std::collections::HashMap;

use entity::{project, upstream};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter};

use super::routes::next_epoch;
use super::{Store, StoreError, clock};
use crate::domain::{OrgScope, ProjectId, id};

/// An upstream that serves its project's Worker. Also kept in a file, as `LiveRow` is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UpstreamRow {
    pub id: String,
    pub project_id: String,
    pub org_id: String,
    /// A JSON list of origins in their stored form.
    pub origins: String,
    /// A JSON object of what differs from the settings.
    pub policy: String,
    /// Authorities in PEM; a file of the release before has none.
    #[serde(default)]
    pub ca: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub route_epoch: i64,
}

/// What is registered, in its stored form.
#[derive(Debug, Clone, Copy)]
pub struct NewUpstream<'a> {
    pub origins: &'a str,
    pub policy: &'a str,
    pub ca: Option<&'a str>,
}

/// What registering came to.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamSet {
    Done(UpstreamRow),
    ProjectMissing,
}

/// What removing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamRemoved {
    Done { epoch: i64 },
    ProjectMissing,
    NotRegistered,
}

impl Store {
    /// Registers a project's origins, or replaces them. Writing the same again is harmless.
    pub async fn upstream_set(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
        new: NewUpstream<'_>,
    ) -> Result<UpstreamSet, StoreError> {
        self.repeating(|_| async move {
            let tx = self.begin().await?;
            if !exists(&tx, scope, project).await? {
                return Ok(UpstreamSet::ProjectMissing);
            }
            let row = write(&tx, scope, project, new).await?;
            tx.commit().await?;
            Ok(UpstreamSet::Done(row))
        })
        .await
    }

    /// Removes it: the Worker serves what was deployed again.
    pub async fn upstream_remove(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
    ) -> Result<UpstreamRemoved, StoreError> {
        self.repeating(|_| async move {
            let tx = self.begin().await?;
            if !exists(&tx, scope, project).await? {
                return Ok(UpstreamRemoved::ProjectMissing);
            }
            let epoch = next_epoch(&tx).await?;
            let now = clock::now(&tx).await?;
            let removed = upstream::Entity::update_many()
                .col_expr(upstream::Column::RemovedAt, Expr::value(now))
                .col_expr(upstream::Column::UpdatedAt, Expr::value(now))
                .col_expr(upstream::Column::RouteEpoch, Expr::value(epoch))
                .filter(upstream::Column::ProjectId.eq(project.as_str()))
                .filter(upstream::Column::RemovedAt.is_null())
                .exec(&tx)
                .await?;
            if removed.rows_affected == 0 {
                tx.rollback().await?;
                return Ok(UpstreamRemoved::NotRegistered);
            }
            tx.commit().await?;
            Ok(UpstreamRemoved::Done { epoch })
        })
        .await
    }

    pub async fn upstream_get(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
    ) -> Result<Option<UpstreamRow>, StoreError> {
        let row = upstream::Entity::find()
            .filter(upstream::Column::ProjectId.eq(project.as_str()))
            .filter(upstream::Column::OrgId.eq(scope.org().as_str()))
            .filter(upstream::Column::RemovedAt.is_null())
            .one(&self.read)
            .await?;
        Ok(row.map(active_row))
    }

    /// Whether origins answer for the project's Worker, and not what is deployed.
    pub async fn upstream_is_active(&self, project: &str) -> Result<bool, StoreError> {
        Ok(active(&self.read, &[project.to_owned()]).await?.contains_key(project))
    }
}

async fn exists(tx: &DatabaseTransaction, scope: &OrgScope, project: &ProjectId) -> Result<bool, StoreError> {
    let found = project::Entity::find_by_id(project.as_str())
        .filter(project::Column::OrgId.eq(scope.org().as_str()))
        .one(tx)
        .await?;
    Ok(found.is_some())
}

async fn write(
    tx: &DatabaseTransaction,
    scope: &OrgScope,
    project: &ProjectId,
    new: NewUpstream<'_>,
) -> Result<UpstreamRow, StoreError> {
    let NewUpstream { origins, policy, ca } = new;
    // Whoever changes a route holds the epoch, so nobody registers the same project meanwhile.
    let epoch = next_epoch(tx).await?;
    let now = clock::now(tx).await?;
    let known = upstream::Entity::find()
        .filter(upstream::Column::ProjectId.eq(project.as_str()))
        .filter(upstream::Column::RemovedAt.is_null())
        .one(tx)
        .await?;
    let row = upstream::Model {
        id: known.as_ref().map_or_else(id::random, |k| k.id.clone()),
        org_id: scope.org().to_string(),
        project_id: project.to_string(),
        origins: origins.to_owned(),
        policy: policy.to_owned(),
        ca: ca.map(str::to_owned),
        created_at: known.as_ref().map_or(now, |k| k.created_at),
        updated_at: now,
        removed_at: None,
        route_epoch: epoch,
    };
    if known.is_none() {
        upstream::Entity::insert(upstream::ActiveModel::from(row.clone())).exec_without_returning(tx).await?;
    } else {
        upstream::Entity::update_many()
            .col_expr(upstream::Column::Origins, Expr::value(origins))
            .col_expr(upstream::Column::Policy, Expr::value(policy))
            .col_expr(upstream::Column::Ca, Expr::value(ca.map(str::to_owned)))
            .col_expr(upstream::Column::UpdatedAt, Expr::value(now))
            .col_expr(upstream::Column::RouteEpoch, Expr::value(epoch))
            .filter(upstream::Column::Id.eq(&row.id))
            .exec(tx)
            .await?;
    }
    Ok(active_row(row))
}

/// The projects whose upstream was registered, changed or removed after `epoch`, each with its newest change.
pub(super) async fn changed<C: ConnectionTrait>(
    tx: &C,
    epoch: i64,
) -> Result<HashMap<String, i64>, StoreError> {
    let mut query = upstream::Entity::find().filter(upstream::Column::RouteEpoch.gt(epoch));
    if epoch == 0 {
        // Who knows nothing yet need not be told what is gone.
        query = query.filter(upstream::Column::RemovedAt.is_null());
    }
    let mut changed = HashMap::new();
    for row in query.all(tx).await? {
        let newest: &mut i64 = changed.entry(row.project_id).or_default();
        *newest = row.route_epoch.max(*newest);
    }
    Ok(changed)
}

/// The upstreams in force among these projects, by project.
pub(super) async fn active<C: ConnectionTrait>(
    tx: &C,
    projects: &[String],
) -> Result<HashMap<String, UpstreamRow>, StoreError> {
    let rows = upstream::Entity::find()
        .filter(upstream::Column::ProjectId.is_in(projects))
        .filter(upstream::Column::RemovedAt.is_null())
        .all(tx)
        .await?;
    Ok(rows.into_iter().map(|row| (row.project_id.clone(), active_row(row))).collect())
}

fn active_row(row: upstream::Model) -> UpstreamRow {
    UpstreamRow {
        id: row.id,
        project_id: row.project_id,
        org_id: row.org_id,
        origins: row.origins,
        policy: row.policy,
        ca: row.ca,
        created_at: row.created_at,
        updated_at: row.updated_at,
        route_epoch: row.route_epoch,
    }
}
