//! What the table of custom hosts is built from: every served name a page at a time, and the names that changed
//! after some epoch. What changed is a *name*: whoever held it before and holds it now, its state is looked up.
//! Marks are forgotten after a while; who has not read them by then is told to read everything.

use std::collections::HashMap;

use entity::{custom_domain, host_change, project, route_epoch};
use sea_orm::sea_query::{
    Alias, Condition, Expr, ExprTrait, JoinType, OnConflict, Order, Query, SelectStatement,
};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QueryResult, QuerySelect,
};

use super::domains::{DomainRow, SERVED};
use super::routes::next_epoch;
use super::{Store, StoreError, clock};

use custom_domain::Column;

/// A host name that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedDomain {
    pub id: String,
    pub hostname: String,
    pub worker_name: String,
    /// Another served domain of the same project, to which requests are sent on.
    pub redirect_to: Option<String>,
    pub project_active: bool,
}

/// How far the changes of hosts have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMarks {
    pub epoch: i64,
    /// Epochs that were taken by a program that marks nothing, such as the release before this one.
    pub unmarked: i64,
    /// Up to this epoch marks were forgotten.
    pub forgotten: i64,
}

/// Where a reader of changes stands: the next one is after this epoch and host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCursor {
    pub epoch: i64,
    pub hostname: String,
}

impl HostCursor {
    /// Behind everything that was changed at `epoch`.
    pub fn behind(epoch: i64) -> Self {
        Self { epoch: epoch + 1, hostname: String::new() }
    }
}

/// A page of changes, all of one moment.
#[derive(Debug, Clone)]
pub struct HostChanges {
    pub marks: HostMarks,
    /// Each name with what it leads to now, or that it leads nowhere.
    pub names: Vec<(String, Option<ServedDomain>)>,
    /// Where the next page begins.
    pub next: HostCursor,
    pub is_last: bool,
}

/// What became of old marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgotten {
    pub marks: u64,
    pub is_more: bool,
}

/// Raises the epoch and marks `row`'s name as changed, `also` others, and those of its project that redirect to it.
/// Nobody else's redirect can be committed between that look and the end of `tx`: whoever sets one takes the epoch.
pub(super) async fn host_changed(
    tx: &DatabaseTransaction,
    row: &DomainRow,
    also: Vec<String>,
) -> Result<i64, StoreError> {
    let epoch = next_epoch(tx).await?;
    let now = clock::now(tx).await?;
    let mut names = leading_to(tx, &row.project_id, &row.hostname).await?;
    names.extend(also);
    names.push(row.hostname.clone());
    names.sort_unstable();
    names.dedup();
    let marks = names.into_iter().map(|hostname| host_change::ActiveModel {
        hostname: Set(hostname),
        route_epoch: Set(epoch),
        changed_at: Set(now),
    });
    let again = OnConflict::column(host_change::Column::Hostname)
        .update_columns([host_change::Column::RouteEpoch, host_change::Column::ChangedAt])
        .to_owned();
    host_change::Entity::insert_many(marks).on_conflict(again).exec_without_returning(tx).await?;
    Ok(epoch)
}

/// The domains of a project that redirect to `hostname`.
pub(super) async fn leading_to(
    tx: &DatabaseTransaction,
    project: &str,
    hostname: &str,
) -> Result<Vec<String>, StoreError> {
    let names = custom_domain::Entity::find()
        .select_only()
        .column(Column::Hostname)
        .filter(Column::ProjectId.eq(project))
        .filter(Column::RedirectTo.eq(hostname))
        .into_tuple()
        .all(tx)
        .await?;
    Ok(names)
}

async fn marks<C: ConnectionTrait>(connection: &C) -> Result<HostMarks, StoreError> {
    let row = route_epoch::Entity::find_by_id(1).one(connection).await?;
    let row = row.ok_or(StoreError::Corrupt { what: "route epoch" })?;
    Ok(HostMarks {
        epoch: row.epoch,
        unmarked: row.unmarked + row.epoch - row.marked_epoch,
        forgotten: row.forgotten_epoch,
    })
}

impl Store {
    pub async fn host_marks(&self) -> Result<HostMarks, StoreError> {
        marks(&self.read).await
    }

    /// A page of the served names in order of id, from behind `after`; each with its project's Worker.
    pub async fn host_list(&self, after: &str, limit: u64) -> Result<Vec<ServedDomain>, StoreError> {
        let mut query = served();
        query
            .and_where(Expr::col((Alias::new("d"), Column::Id)).gt(after))
            .order_by((Alias::new("d"), Column::Id), Order::Asc)
            .limit(limit);
        self.read.query_all(&query).await?.iter().map(served_of).collect()
    }

    /// A page of what changed behind `after`.
    pub async fn host_changes(&self, after: &HostCursor, limit: u64) -> Result<HostChanges, StoreError> {
        self.repeating(|_| self.host_changes_once(after, limit)).await
    }

    async fn host_changes_once(&self, after: &HostCursor, limit: u64) -> Result<HostChanges, StoreError> {
        use host_change::Column::{Hostname, RouteEpoch};
        // One snapshot: what was forgotten is not mistaken for what never was.
        let tx = self.snapshot().await?;
        let marks = marks(&tx).await?;
        let page = host_change::Entity::find()
            .filter(RouteEpoch.gte(after.epoch))
            .filter(Condition::any().add(RouteEpoch.gt(after.epoch)).add(Hostname.gt(&after.hostname)))
            .order_by_asc(RouteEpoch)
            .order_by_asc(Hostname)
            .limit(limit)
            .all(&tx)
            .await?;
        let mut query = served();
        let names = page.iter().map(|change| change.hostname.as_str());
        query.and_where(Expr::col((Alias::new("d"), Column::Hostname)).is_in(names));
        let rows = if page.is_empty() { Vec::new() } else { tx.query_all(&query).await? };
        tx.commit().await?;
        let served = rows.iter().map(|row| served_of(row).map(|d| (d.hostname.clone(), d)));
        let mut served = served.collect::<Result<HashMap<_, _>, _>>()?;
        let is_last = (page.len() as u64) < limit;
        let next = match page.last() {
            Some(last) if !is_last => HostCursor { epoch: last.route_epoch, hostname: last.hostname.clone() },
            _ => HostCursor::behind(marks.epoch),
        };
        let names = page.into_iter().map(|change| {
            let now = served.remove(&change.hostname);
            (change.hostname, now)
        });
        Ok(HostChanges { marks, names: names.collect(), next, is_last })
    }

    /// Forgets up to `limit` marks that are older than `age_ms`, and remembers that they are.
    pub async fn host_forget(&self, age_ms: i64, limit: u64) -> Result<Forgotten, StoreError> {
        use host_change::Column::{ChangedAt, RouteEpoch};
        let old = self.now().await? - age_ms;
        // The oldest ones alone: that none of them is due is found out by reading a page, not the table.
        let oldest: Vec<(i64, i64)> = host_change::Entity::find()
            .select_only()
            .columns([RouteEpoch, ChangedAt])
            .order_by_asc(RouteEpoch)
            .limit(limit)
            .into_tuple()
            .all(&self.read)
            .await?;
        let due: Vec<i64> =
            oldest.into_iter().take_while(|(_, at)| *at < old).map(|(epoch, _)| epoch).collect();
        let Some(last) = due.last().copied() else { return Ok(Forgotten { marks: 0, is_more: false }) };
        let tx = self.begin().await?;
        // First, as by every writer of marks: the row of the epoch is their lock.
        route_epoch::Entity::update_many()
            .col_expr(route_epoch::Column::ForgottenEpoch, Expr::value(last))
            .filter(route_epoch::Column::Id.eq(1))
            .filter(route_epoch::Column::ForgottenEpoch.lt(last))
            .exec(&tx)
            .await?;
        let done = host_change::Entity::delete_many().filter(RouteEpoch.lte(last)).exec(&tx).await?;
        tx.commit().await?;
        Ok(Forgotten { marks: done.rows_affected, is_more: due.len() as u64 == limit })
    }
}

/// The served names, each with its project and, where it is served too, the domain it redirects to: nobody is sent
/// to a name that is not proved to be the project's.
fn served() -> SelectStatement {
    let [d, p, t] = ["d", "p", "t"].map(Alias::new);
    let target = Condition::all()
        .add(Expr::col((t.clone(), Column::ProjectId)).equals((d.clone(), Column::ProjectId)))
        .add(Expr::col((t.clone(), Column::Hostname)).equals((d.clone(), Column::RedirectTo)))
        .add(Expr::col((t.clone(), Column::Status)).is_in(SERVED));
    let owner = Expr::col((p.clone(), project::Column::Id)).equals((d.clone(), Column::ProjectId));
    Query::select()
        .column((d.clone(), Column::Id))
        .column((d.clone(), Column::Hostname))
        .column((p.clone(), project::Column::WorkerName))
        .expr_as(Expr::col((p.clone(), project::Column::Status)), "project_status")
        .expr_as(Expr::col((t.clone(), Column::Hostname)), "leads_to")
        .from_as(custom_domain::Entity, d.clone())
        .join_as(JoinType::InnerJoin, project::Entity, p, owner)
        .join_as(JoinType::LeftJoin, custom_domain::Entity, t, target)
        .and_where(Expr::col((d, Column::Status)).is_in(SERVED))
        .to_owned()
}

fn served_of(row: &QueryResult) -> Result<ServedDomain, StoreError> {
    let status: String = row.try_get("", "project_status")?;
    Ok(ServedDomain {
        id: row.try_get("", "id")?,
        hostname: row.try_get("", "hostname")?,
        worker_name: row.try_get("", "worker_name")?,
        redirect_to: row.try_get("", "leads_to")?,
        project_active: status == "active",
    })
}

#[cfg(test)]
mod tests;
