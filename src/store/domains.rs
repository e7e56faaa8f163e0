//! Custom domains: claims, who holds a name, and what is served.

use std::collections::{HashMap, HashSet};

use entity::{custom_domain, project};
use sea_orm::sea_query::Expr;
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect,
};

use super::hosts::{host_changed, leading_to};
use super::link::recording_alone;
use super::{Store, StoreError, clock};
use crate::domain::{DomainId, DomainStatus, OrgScope, ProjectId, id};

pub use entity::custom_domain::Model as DomainRow;

use custom_domain::Column;

/// The statuses that are served.
pub(super) const SERVED: [&str; 2] = ["verified", "active"];
/// The statuses of which a name has one at most, by an index.
pub(super) const HOLDING: [&str; 3] = ["verified", "active", "quarantined"];

/// A claim to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClaim {
    pub hostname: String,
    /// What the TXT record must hold; the same for the same organization and name.
    pub token: String,
    /// How long it may wait for its proof, in milliseconds.
    pub lifetime_ms: i64,
    pub per_project: u64,
    pub per_organization: u64,
}

/// What recording a claim came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    New(Box<DomainRow>),
    /// The project had it already; where it had failed it waits for its proof again.
    Known(Box<DomainRow>),
    ProjectMissing,
    /// Another project has proved the name.
    Taken,
    /// This many claims are allowed, to a project or an organization.
    TooMany {
        limit: u64,
        of: &'static str,
    },
    /// Why the redirect can't be.
    Redirect(&'static str),
}

/// One page of domains in order of id.
#[derive(Debug, Clone, Default)]
pub struct DomainFilter {
    pub project: Option<ProjectId>,
    pub hostname: Option<String>,
    pub after: Option<DomainId>,
    pub limit: u64,
}

/// Whether `hostname` is proved by another project than `project`.
pub(super) async fn owner_elsewhere<C: ConnectionTrait>(
    connection: &C,
    hostname: &str,
    project: &str,
) -> Result<bool, StoreError> {
    let owners = custom_domain::Entity::find()
        .filter(Column::Hostname.eq(hostname))
        .filter(Column::Status.is_in(SERVED))
        .filter(Column::ProjectId.ne(project))
        .count(connection)
        .await?;
    Ok(owners > 0)
}

/// Records a pending claim, unless the project has one. The caller holds [`recording_alone`].
pub(super) async fn claim(
    tx: &DatabaseTransaction,
    org: &str,
    project: &str,
    new: &NewClaim,
    now: i64,
) -> Result<Claimed, StoreError> {
    if owner_elsewhere(tx, &new.hostname, project).await? {
        return Ok(Claimed::Taken);
    }
    let known = custom_domain::Entity::find()
        .filter(Column::ProjectId.eq(project))
        .filter(Column::Hostname.eq(&new.hostname))
        .one(tx)
        .await?;
    if let Some(known) = &known
        && known.status != DomainStatus::Failed.as_str()
    {
        return Ok(Claimed::Known(Box::new(known.clone())));
    }
    for (column, value, limit, of) in [
        (Column::ProjectId, project, new.per_project, "project"),
        (Column::OrgId, org, new.per_organization, "organization"),
    ] {
        let claims = custom_domain::Entity::find()
            .filter(column.eq(value))
            .filter(Column::Status.ne(DomainStatus::Failed.as_str()))
            .count(tx)
            .await?;
        if claims >= limit {
            return Ok(Claimed::TooMany { limit, of });
        }
    }
    if let Some(known) = known {
        return Ok(Claimed::Known(Box::new(revive(tx, known, new, now).await?)));
    }
    let row = DomainRow {
        id: id::random(),
        org_id: org.into(),
        project_id: project.into(),
        hostname: new.hostname.clone(),
        status: DomainStatus::Pending.as_str().into(),
        token: new.token.clone(),
        created_at: now,
        expires_at: Some(now + new.lifetime_ms),
        verified_at: None,
        checked_at: None,
        next_check_at: now,
        asked_at: None,
        proved_at: None,
        lost_since: None,
        lost_checks: 0,
        unanswered: 0,
        message: None,
        redirect_to: None,
        quarantined_at: None,
    };
    custom_domain::Entity::insert(custom_domain::ActiveModel::from(row.clone()))
        .exec_without_returning(tx)
        .await?;
    Ok(Claimed::New(Box::new(row)))
}

/// A claim that failed waits for its proof again.
async fn revive(
    tx: &DatabaseTransaction,
    known: DomainRow,
    new: &NewClaim,
    now: i64,
) -> Result<DomainRow, StoreError> {
    let row = DomainRow {
        status: DomainStatus::Pending.as_str().into(),
        token: new.token.clone(),
        created_at: now,
        expires_at: Some(now + new.lifetime_ms),
        // Grows always: a check that still runs must find that it has moved.
        next_check_at: now.max(known.next_check_at + 1),
        lost_since: None,
        lost_checks: 0,
        unanswered: 0,
        message: None,
        quarantined_at: None,
        ..known
    };
    let changes = custom_domain::ActiveModel {
        status: Set(row.status.clone()),
        token: Set(row.token.clone()),
        created_at: Set(row.created_at),
        expires_at: Set(row.expires_at),
        next_check_at: Set(row.next_check_at),
        lost_since: Set(None),
        lost_checks: Set(0),
        unanswered: Set(0),
        message: Set(None),
        quarantined_at: Set(None),
        ..Default::default()
    };
    custom_domain::Entity::update_many().set(changes).filter(Column::Id.eq(&row.id)).exec(tx).await?;
    Ok(row)
}

impl Store {
    /// The domain that serves `hostname` or would, and its project's Worker.
    pub async fn domain_owned(&self, hostname: &str) -> Result<Option<(DomainRow, String)>, StoreError> {
        let found = custom_domain::Entity::find()
            .filter(Column::Hostname.eq(hostname))
            .filter(Column::Status.is_in(SERVED))
            .one(&self.read)
            .await?;
        let Some(row) = found else { return Ok(None) };
        let project = project::Entity::find_by_id(row.project_id.as_str()).one(&self.read).await?;
        Ok(project.map(|project| (row, project.worker_name)))
    }

    /// Whether another project has proved `hostname`.
    pub async fn domain_owned_elsewhere(&self, hostname: &str, project: &str) -> Result<bool, StoreError> {
        owner_elsewhere(&self.read, hostname, project).await
    }

    /// Records a claim and where it redirects to; a claim that is there already takes the new redirect.
    pub async fn domain_claim(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
        new: &NewClaim,
        redirect_to: Option<&str>,
    ) -> Result<Claimed, StoreError> {
        self.repeating(|_| async move {
            let tx = self.begin().await?;
            let claimed = claim_in(&tx, scope.org().as_str(), project.as_str(), new, redirect_to).await?;
            match claimed {
                Claimed::New(_) | Claimed::Known(_) => tx.commit().await?,
                _ => tx.rollback().await?,
            }
            Ok(claimed)
        })
        .await
    }

    pub async fn domain_get(&self, scope: &OrgScope, id: &DomainId) -> Result<Option<DomainRow>, StoreError> {
        Ok(custom_domain::Entity::find_by_id(id.as_str())
            .filter(Column::OrgId.eq(scope.org().as_str()))
            .one(&self.read)
            .await?)
    }

    /// A page in order of id.
    pub async fn domain_list(
        &self,
        scope: &OrgScope,
        filter: &DomainFilter,
    ) -> Result<Vec<DomainRow>, StoreError> {
        let mut query = custom_domain::Entity::find()
            .filter(Column::OrgId.eq(scope.org().as_str()))
            .order_by_asc(Column::Id)
            .limit(filter.limit);
        if let Some(project) = &filter.project {
            query = query.filter(Column::ProjectId.eq(project.as_str()));
        }
        if let Some(hostname) = &filter.hostname {
            query = query.filter(Column::Hostname.eq(hostname));
        }
        if let Some(after) = &filter.after {
            query = query.filter(Column::Id.gt(after.as_str()));
        }
        Ok(query.all(&self.read).await?)
    }

    /// The Worker names of these projects.
    pub async fn domain_workers(&self, rows: &[DomainRow]) -> Result<HashMap<String, String>, StoreError> {
        let ids: HashSet<&str> = rows.iter().map(|d| d.project_id.as_str()).collect();
        let found = project::Entity::find().filter(project::Column::Id.is_in(ids)).all(&self.read).await?;
        Ok(found.into_iter().map(|p| (p.id, p.worker_name)).collect())
    }

    /// Forgets a claim, and redirects of the same project that led to it. Answers what it was.
    pub async fn domain_remove(
        &self,
        scope: &OrgScope,
        id: &DomainId,
    ) -> Result<Option<DomainRow>, StoreError> {
        self.repeating(|_| async move {
            let tx = self.begin().await?;
            recording_alone(&tx, scope.org().as_str()).await?;
            let found = custom_domain::Entity::find_by_id(id.as_str())
                .filter(Column::OrgId.eq(scope.org().as_str()))
                .lock_exclusive()
                .one(&tx)
                .await?;
            let Some(row) = found else {
                tx.rollback().await?;
                return Ok(None);
            };
            let redirects = leading_to(&tx, &row.project_id, &row.hostname).await?;
            custom_domain::Entity::update_many()
                .col_expr(Column::RedirectTo, Expr::value(Option::<String>::None))
                .filter(Column::ProjectId.eq(&row.project_id))
                .filter(Column::RedirectTo.eq(&row.hostname))
                .exec(&tx)
                .await?;
            custom_domain::Entity::delete_by_id(id.as_str()).exec(&tx).await?;
            if SERVED.contains(&row.status.as_str()) {
                host_changed(&tx, &row, redirects).await?;
            }
            tx.commit().await?;
            Ok(Some(row))
        })
        .await
    }
}

async fn claim_in(
    tx: &DatabaseTransaction,
    org: &str,
    project: &str,
    new: &NewClaim,
    redirect_to: Option<&str>,
) -> Result<Claimed, StoreError> {
    recording_alone(tx, org).await?;
    let now = clock::now(tx).await?;
    let mine = project::Entity::find_by_id(project).filter(project::Column::OrgId.eq(org)).one(tx).await?;
    if mine.is_none() {
        return Ok(Claimed::ProjectMissing);
    }
    if let Some(to) = redirect_to
        && let Some(why) = redirect_problem(tx, project, &new.hostname, to).await?
    {
        return Ok(Claimed::Redirect(why));
    }
    let claimed = claim(tx, org, project, new, now).await?;
    let (is_new, mut row) = match claimed {
        Claimed::New(row) => (true, row),
        Claimed::Known(row) => (false, row),
        refused => return Ok(refused),
    };
    if row.redirect_to.as_deref() != redirect_to {
        row.redirect_to = redirect_to.map(ToOwned::to_owned);
        custom_domain::Entity::update_many()
            .col_expr(Column::RedirectTo, Expr::value(row.redirect_to.clone()))
            .filter(Column::Id.eq(&row.id))
            .exec(tx)
            .await?;
        if SERVED.contains(&row.status.as_str()) {
            host_changed(tx, &row, Vec::new()).await?;
        }
    }
    Ok(if is_new { Claimed::New(row) } else { Claimed::Known(row) })
}

/// A redirect leads to a domain of the same project that answers itself: no chain, so no loop.
async fn redirect_problem(
    tx: &DatabaseTransaction,
    project: &str,
    hostname: &str,
    to: &str,
) -> Result<Option<&'static str>, StoreError> {
    if to == hostname {
        return Ok(Some("must be another domain than hostname"));
    }
    let of_project = || custom_domain::Entity::find().filter(Column::ProjectId.eq(project));
    let target = of_project()
        .filter(Column::Hostname.eq(to))
        .filter(Column::Status.ne(DomainStatus::Failed.as_str()))
        .one(tx)
        .await?;
    match target {
        None => return Ok(Some("must be a domain of the same project; add that one first")),
        Some(target) if target.redirect_to.is_some() => {
            return Ok(Some("is a domain that redirects itself; redirect to where it leads"));
        }
        Some(_) => {}
    }
    let led_here = of_project().filter(Column::RedirectTo.eq(hostname)).count(tx).await?;
    Ok((led_here > 0).then_some("can't be set: another domain redirects to this one already"))
}
