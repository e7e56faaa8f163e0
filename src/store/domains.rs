//! Custom domains: claims, and what is served.

use std::collections::HashMap;

use entity::{custom_domain, project};
use sea_orm::{ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};

use super::{Store, StoreError};
use crate::domain::id;

/// A claim that nobody proves ends after a week (contract §4).
const CLAIM_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// A host name that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDomain {
    pub hostname: String,
    pub worker_name: String,
}

/// Whether `hostname` is proved by another project than `project`.
pub(super) async fn owner_elsewhere(
    tx: &DatabaseTransaction,
    hostname: &str,
    project: &str,
) -> Result<bool, StoreError> {
    let owner = custom_domain::Entity::find()
        .filter(custom_domain::Column::Hostname.eq(hostname))
        .filter(custom_domain::Column::Status.is_in(["verified", "active"]))
        .filter(custom_domain::Column::ProjectId.ne(project))
        .one(tx)
        .await?;
    Ok(owner.is_some())
}

/// Records a pending claim, unless the project has one.
pub(super) async fn claim(
    tx: &DatabaseTransaction,
    org: &str,
    project: &str,
    hostname: &str,
    now: i64,
) -> Result<(), StoreError> {
    let known = custom_domain::Entity::find()
        .filter(custom_domain::Column::ProjectId.eq(project))
        .filter(custom_domain::Column::Hostname.eq(hostname))
        .one(tx)
        .await?;
    if known.is_some() {
        return Ok(());
    }
    custom_domain::Entity::insert(custom_domain::ActiveModel {
        id: Set(id::random()),
        org_id: Set(org.into()),
        project_id: Set(project.into()),
        hostname: Set(hostname.into()),
        status: Set("pending".into()),
        token: Set(id::random()),
        created_at: Set(now),
        expires_at: Set(Some(now + CLAIM_LIFETIME_MS)),
        verified_at: Set(None),
    })
    .exec_without_returning(tx)
    .await?;
    Ok(())
}

impl Store {
    /// The host names that are proved and active, each with its project's Worker.
    pub async fn domain_served(&self) -> Result<Vec<ServedDomain>, StoreError> {
        let rows = custom_domain::Entity::find()
            .filter(custom_domain::Column::Status.eq("active"))
            .all(&self.read)
            .await?;
        let mut served = Vec::with_capacity(rows.len());
        for batch in rows.chunks(1_000) {
            let workers: HashMap<String, String> = project::Entity::find()
                .filter(project::Column::Id.is_in(batch.iter().map(|d| d.project_id.clone())))
                .all(&self.read)
                .await?
                .into_iter()
                .map(|p| (p.id, p.worker_name))
                .collect();
            served.extend(batch.iter().filter_map(|d| {
                let worker_name = workers.get(&d.project_id)?.clone();
                Some(ServedDomain { hostname: d.hostname.clone(), worker_name })
            }));
        }
        Ok(served)
    }

    /// Whether another project has proved `hostname`.
    pub async fn domain_owned_elsewhere(&self, hostname: &str, project: &str) -> Result<bool, StoreError> {
        let owner = custom_domain::Entity::find()
            .filter(custom_domain::Column::Hostname.eq(hostname))
            .filter(custom_domain::Column::Status.is_in(["verified", "active"]))
            .filter(custom_domain::Column::ProjectId.ne(project))
            .one(&self.read)
            .await?;
        Ok(owner.is_some())
    }
}
