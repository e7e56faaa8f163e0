//! What the routing table is built from: live versions, previews, and the epoch that numbers it.

use std::collections::{HashMap, HashSet};

use entity::{deployment, project, project_target, route_epoch, version};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait,
};

use super::upstreams::{self, UpstreamRow};
use super::{Store, StoreError, versions};
use crate::domain::OrgScope;

pub use entity::version::Model as VersionRow;

/// One Worker and what is live on it. Also kept in a file: a field that is added needs a default there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LiveRow {
    pub project_id: String,
    pub org_id: String,
    pub worker_name: String,
    pub version_id: Option<String>,
    pub split: Option<SplitRow>,
    /// Wins over what was deployed.
    pub upstream: Option<UpstreamRow>,
    pub live_seq: i64,
    pub route_epoch: i64,
}

/// A version that shares the Worker's clients with the live one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SplitRow {
    pub version_id: String,
    /// Of a hundred clients, so many get it: 1 to 99.
    pub percent: u8,
}

/// A consistent reading of everything that changed after some epoch.
#[derive(Debug, Clone, Default)]
pub struct RouteChanges {
    pub epoch: i64,
    /// Every project whose live version, split or upstream changed, each whole.
    pub live: Vec<LiveRow>,
    /// Every version that was recorded or retired.
    pub versions: Vec<VersionRow>,
}

/// Raises the epoch and answers it. Writers hold the row until they commit, so epochs become
/// visible in order and a reader that saw one has seen all before it. Who raises it by a program that knows
/// nothing of marks, or by hand, is counted by the next one that does.
pub(super) async fn next_epoch(tx: &DatabaseTransaction) -> Result<i64, StoreError> {
    use route_epoch::Column;
    let next = || Expr::col(Column::Epoch).add(1);
    let strangers = Expr::col(Column::Epoch).sub(Expr::col(Column::MarkedEpoch));
    route_epoch::Entity::update_many()
        .col_expr(Column::Unmarked, Expr::col(Column::Unmarked).add(strangers))
        .col_expr(Column::MarkedEpoch, next())
        .col_expr(Column::Epoch, next())
        .filter(route_epoch::Column::Id.eq(1))
        .exec(tx)
        .await?;
    current_epoch(tx).await
}

async fn current_epoch<C: ConnectionTrait>(connection: &C) -> Result<i64, StoreError> {
    let row = route_epoch::Entity::find_by_id(1).one(connection).await?;
    row.map(|r| r.epoch).ok_or(StoreError::Corrupt { what: "route epoch" })
}

impl Store {
    pub async fn route_epoch(&self) -> Result<i64, StoreError> {
        current_epoch(&self.read).await
    }

    /// What changed after `epoch`; 0 reads everything.
    pub async fn route_changes(&self, epoch: i64) -> Result<RouteChanges, StoreError> {
        self.repeating(|_| self.changes_once(epoch)).await
    }

    async fn changes_once(&self, epoch: i64) -> Result<RouteChanges, StoreError> {
        // One snapshot, so that the rows and the epoch are of the same moment.
        let tx = self.snapshot().await?;
        let now_at = current_epoch(&tx).await?;
        if now_at == epoch {
            return Ok(RouteChanges { epoch, ..RouteChanges::default() });
        }
        let targets = project_target::Entity::find()
            .filter(project_target::Column::RouteEpoch.gt(epoch))
            .filter(project_target::Column::Target.eq("production"))
            .all(&tx)
            .await?;
        let targets: HashMap<String, project_target::Model> =
            targets.into_iter().map(|t| (t.project_id.clone(), t)).collect();
        let upstreams = upstreams::changed(&tx, epoch).await?;
        let projects: HashSet<String> = targets.keys().chain(upstreams.keys()).cloned().collect();
        let live = live_rows(&tx, projects.into_iter().collect(), targets, &upstreams).await?;
        let mut versions = version::Entity::find().filter(version::Column::RouteEpoch.gt(epoch));
        if epoch == 0 {
            // Who knows nothing yet need not be told what is gone.
            versions = versions.filter(version::Column::RetiredAt.is_null());
        }
        let versions = versions.all(&tx).await?;
        tx.commit().await?;
        Ok(RouteChanges { epoch: now_at, live, versions })
    }

    /// A page of an organization's Workers in order of their projects' ids.
    pub async fn worker_list(
        &self,
        scope: &OrgScope,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<LiveRow>, StoreError> {
        let projects = self.project_list(scope, None, after, limit).await?;
        let ids = projects.into_iter().map(|p| p.id).collect();
        let mut rows = live_rows(&self.read, ids, HashMap::new(), &HashMap::new()).await?;
        rows.sort_by(|a, b| a.project_id.cmp(&b.project_id));
        Ok(rows)
    }

    pub async fn version_get(&self, id: &str) -> Result<Option<VersionRow>, StoreError> {
        Ok(version::Entity::find_by_id(id).one(&self.read).await?)
    }

    /// Those of `ids` that the record names, live or not.
    pub async fn version_named(&self, ids: &[String]) -> Result<HashSet<String>, StoreError> {
        let mut named = HashSet::new();
        for ids in ids.chunks(500) {
            let found: Vec<String> = version::Entity::find()
                .select_only()
                .column(version::Column::Id)
                .filter(version::Column::Id.is_in(ids))
                .into_tuple()
                .all(&self.read)
                .await?;
            named.extend(found);
        }
        Ok(named)
    }

    /// The ids of versions that were retired before `at`.
    pub async fn version_retired_among(
        &self,
        ids: &[String],
        age_ms: i64,
    ) -> Result<HashSet<String>, StoreError> {
        let at = self.now().await? - age_ms;
        let mut retired = HashSet::new();
        for some in ids.chunks(500) {
            let found: Vec<String> = version::Entity::find()
                .filter(version::Column::Id.is_in(some.iter().map(String::as_str)))
                .filter(version::Column::RetiredAt.lt(at))
                .select_only()
                .column(version::Column::Id)
                .into_tuple()
                .all(&self.read)
                .await?;
            retired.extend(found);
        }
        Ok(retired)
    }

    /// Retires versions of a project beyond the newest `keep`, never the live one nor one that a split needs.
    /// Answers the retired ones.
    pub async fn version_retire(&self, project: &str, keep: u64) -> Result<Vec<VersionRow>, StoreError> {
        let tx = self.begin().await?;
        let now = super::clock::now(&tx).await?;
        let live: Vec<String> = project_target::Entity::find()
            .filter(project_target::Column::ProjectId.eq(project))
            .all(&tx)
            .await?
            .into_iter()
            .filter_map(|t| t.live_version_id)
            .collect();
        let old = version::Entity::find()
            .filter(version::Column::ProjectId.eq(project))
            .filter(version::Column::RetiredAt.is_null())
            .filter(version::Column::Id.is_not_in(live))
            .filter(version::Column::Id.not_in_subquery(versions::split_versions(project)))
            // One that is on its way to its switch is newer than anything it could be retired for.
            .filter(
                version::Column::DeploymentId.not_in_subquery(
                    deployment::Entity::find()
                        .select_only()
                        .column(deployment::Column::Id)
                        .filter(deployment::Column::ProjectId.eq(project))
                        .filter(deployment::Column::FinishedAt.is_null())
                        .into_query(),
                ),
            )
            .order_by_desc(version::Column::CreatedAt)
            .offset(keep)
            .limit(1_000)
            .all(&tx)
            .await?;
        if old.is_empty() {
            tx.rollback().await?;
            return Ok(old);
        }
        let epoch = next_epoch(&tx).await?;
        version::Entity::update_many()
            .col_expr(version::Column::RetiredAt, Expr::value(now))
            .col_expr(version::Column::RouteEpoch, Expr::value(epoch))
            .filter(version::Column::Id.is_in(old.iter().map(|v| v.id.clone())))
            // The epoch is held, so nothing goes live any more until this is committed; what did
            // since the look above stays.
            .filter(version::Column::RetiredAt.is_null())
            .filter(
                version::Column::Id.not_in_subquery(
                    project_target::Entity::find()
                        .select_only()
                        .column(project_target::Column::LiveVersionId)
                        .filter(project_target::Column::ProjectId.eq(project))
                        .filter(project_target::Column::LiveVersionId.is_not_null())
                        .into_query(),
                ),
            )
            .filter(version::Column::Id.not_in_subquery(versions::split_versions(project)))
            .exec(&tx)
            .await?;
        tx.commit().await?;
        Ok(old)
    }
}

/// The whole state of these projects. `targets` are those that were read already, `upstreams` the epochs
/// of changes that may have left no active one.
async fn live_rows<C: ConnectionTrait>(
    tx: &C,
    projects: Vec<String>,
    mut targets: HashMap<String, project_target::Model>,
    upstreams: &HashMap<String, i64>,
) -> Result<Vec<LiveRow>, StoreError> {
    let mut live = Vec::with_capacity(projects.len());
    for batch in projects.chunks(1_000) {
        let unread: Vec<&String> = batch.iter().filter(|id| !targets.contains_key(*id)).collect();
        let found = project_target::Entity::find()
            .filter(project_target::Column::ProjectId.is_in(unread))
            .filter(project_target::Column::Target.eq("production"))
            .all(tx)
            .await?;
        targets.extend(found.into_iter().map(|t| (t.project_id.clone(), t)));
        let here = batch.iter().filter_map(|id| targets.get(id));
        let mut splits: HashMap<String, SplitRow> =
            versions::open_splits(tx, here).await?.into_iter().collect();
        let mut active = upstreams::active(tx, batch).await?;
        let rows = project::Entity::find().filter(project::Column::Id.is_in(batch)).all(tx).await?;
        live.extend(rows.into_iter().map(|row| {
            let target = targets.get(&row.id);
            let epochs = [target.map(|t| t.route_epoch), upstreams.get(&row.id).copied()];
            LiveRow {
                version_id: target.and_then(|t| t.live_version_id.clone()),
                split: splits.remove(&row.id),
                upstream: active.remove(&row.id),
                live_seq: target.map_or(0, |t| t.live_seq),
                route_epoch: epochs.into_iter().flatten().max().unwrap_or(0),
                project_id: row.id,
                org_id: row.org_id,
                worker_name: row.worker_name,
            }
        }));
    }
    Ok(live)
}
