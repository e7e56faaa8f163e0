//! Projects of one organization, and the source tree each keeps.

use std::collections::BTreeMap;

use entity::{blob_ref, project};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::{Store, StoreError, clock};
use crate::domain::{Digest, OrgId, OrgScope, ProjectId};

pub use entity::project::Model as ProjectRow;

/// A project to be created; the Worker name was validated by the caller.
#[derive(Debug, Clone)]
pub struct NewProject {
    pub id: ProjectId,
    pub name: String,
    pub worker_name: String,
    pub template: Option<String>,
    /// The tree that it keeps from the start.
    pub tree: Option<Digest>,
}

impl Store {
    /// # Errors
    /// [`StoreError::Duplicate`] if the Worker name is taken.
    pub async fn project_create(&self, scope: &OrgScope, new: NewProject) -> Result<ProjectRow, StoreError> {
        let tx = self.begin().await?;
        let now = clock::now(&tx).await?;
        let row = ProjectRow {
            id: new.id.to_string(),
            org_id: scope.org().to_string(),
            name: new.name,
            worker_name: new.worker_name,
            template: new.template,
            status: "active".into(),
            tree_digest: new.tree.map(|t| t.to_string()),
            created_at: now,
            egress_hosts: "[]".into(),
        };
        project::Entity::insert(project::ActiveModel::from(row.clone())).exec_without_returning(&tx).await?;
        tx.commit().await?;
        Ok(row)
    }

    pub async fn project_get(
        &self,
        scope: &OrgScope,
        id: &ProjectId,
    ) -> Result<Option<ProjectRow>, StoreError> {
        Ok(project::Entity::find_by_id(id.as_str())
            .filter(project::Column::OrgId.eq(scope.org().as_str()))
            .one(&self.read)
            .await?)
    }

    /// For the pipeline, which acts for the platform: the deployment row names the organization.
    pub async fn project_of_deployment(&self, org: &str, id: &str) -> Result<Option<ProjectRow>, StoreError> {
        Ok(project::Entity::find_by_id(id).filter(project::Column::OrgId.eq(org)).one(&self.read).await?)
    }

    /// A page in order of id; `after` is the last id of the page before.
    pub async fn project_list(
        &self,
        scope: &OrgScope,
        name: Option<&str>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<ProjectRow>, StoreError> {
        let mut query = project::Entity::find()
            .filter(project::Column::OrgId.eq(scope.org().as_str()))
            .order_by_asc(project::Column::Id)
            .limit(limit);
        if let Some(name) = name {
            query = query.filter(project::Column::Name.eq(name));
        }
        if let Some(after) = after {
            query = query.filter(project::Column::Id.gt(after));
        }
        Ok(query.all(&self.read).await?)
    }

    /// Replaces the stored tree. Answers whether the project exists.
    pub async fn project_tree_set(
        &self,
        scope: &OrgScope,
        id: &ProjectId,
        tree: &Digest,
    ) -> Result<bool, StoreError> {
        let changed = project::Entity::update_many()
            .col_expr(project::Column::TreeDigest, Expr::value(tree.as_str()))
            .filter(project::Column::Id.eq(id.as_str()))
            .filter(project::Column::OrgId.eq(scope.org().as_str()))
            .exec(&self.write)
            .await?;
        Ok(changed.rows_affected == 1)
    }

    /// Replaces the hosts that builds may connect to. Answers whether the project exists.
    pub async fn project_egress_set(
        &self,
        scope: &OrgScope,
        id: &ProjectId,
        hosts: &[String],
    ) -> Result<bool, StoreError> {
        let changed = project::Entity::update_many()
            .col_expr(project::Column::EgressHosts, Expr::value(serde_json::json!(hosts).to_string()))
            .filter(project::Column::Id.eq(id.as_str()))
            .filter(project::Column::OrgId.eq(scope.org().as_str()))
            .exec(&self.write)
            .await?;
        Ok(changed.rows_affected == 1)
    }

    /// Writes the reference rows that must exist before a blob is relied on.
    pub async fn blob_refs_add(&self, org: &OrgId, blobs: &[(Digest, u64)]) -> Result<(), StoreError> {
        // Statements have a bound on their variables (SQLite: 32,766).
        // Once each, as one statement can't renew a row twice; in order, so that two requests that
        // rely on the same blobs don't wait for each other.
        let blobs: BTreeMap<&str, u64> =
            blobs.iter().map(|(digest, size)| (digest.as_str(), *size)).collect();
        let blobs: Vec<(&str, u64)> = blobs.into_iter().collect();
        for batch in blobs.chunks(1_000) {
            let tx = self.begin().await?;
            let now = clock::now(&tx).await?;
            let rows = batch.iter().map(|(digest, size)| blob_ref::ActiveModel {
                org_id: Set(org.to_string()),
                digest: Set((*digest).to_owned()),
                size: Set(i64::try_from(*size).unwrap_or(i64::MAX)),
                created_at: Set(now),
            });
            // A new reliance renews the row's age, which is what collection goes by.
            let renew = OnConflict::columns([blob_ref::Column::OrgId, blob_ref::Column::Digest])
                .update_column(blob_ref::Column::CreatedAt)
                .to_owned();
            blob_ref::Entity::insert_many(rows).on_conflict(renew).exec_without_returning(&tx).await?;
            tx.commit().await?;
        }
        Ok(())
    }
}
