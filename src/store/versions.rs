//! The versions of a project, and putting one of them live by hand: rollback, promotion, split.
//! Each such order takes the next sequence number in the transaction that carries it out, so that whatever
//! was recorded before it can't go live after it.

use entity::{live_change, project, project_target, version};
use sea_orm::sea_query::{Expr, SelectStatement};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, QueryFilter,
    QueryOrder, QuerySelect, QueryTrait,
};

use super::deployments::{lock_queued, next_seq};
use super::history::{Place, Wanted, newest_place, origin_of};
use super::idempotency::{self, IdempotencyKey, Remembered};
use super::link::recording_alone;
use super::routes::{SplitRow, VersionRow, next_epoch};
use super::{Store, StoreError, clock, outcome};
use crate::domain::status::CancelReason;
use crate::domain::{OrgScope, ProjectId, Target, UserId, VersionId};

/// What somebody wants live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveOrder {
    /// `None`: the version that was live before the one that is.
    Rollback {
        to: Option<VersionId>,
    },
    Promote {
        version: VersionId,
    },
    /// Of a hundred clients, `percent` get `version` and the others what is live.
    Split {
        version: VersionId,
        percent: u8,
    },
    SplitEnd,
}

/// An order to be carried out. Its id makes it one order, however often its transaction is tried.
#[derive(Debug, Clone)]
pub struct NewLiveChange {
    pub id: String,
    pub project: ProjectId,
    pub user: UserId,
    pub order: LiveOrder,
    /// An order that takes a number is carried out once for each key.
    pub idempotency: Option<IdempotencyKey>,
}

/// What is live on a project's Worker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveState {
    pub version_id: Option<String>,
    pub split: Option<SplitRow>,
}

impl LiveState {
    /// Whether the Worker's clients get this version, all or some of them.
    #[must_use]
    pub fn shows(&self, version: &str) -> bool {
        self.version_id.as_deref() == Some(version)
            || self.split.as_ref().is_some_and(|split| split.version_id == version)
    }
}

/// What an order came to.
#[derive(Debug, PartialEq, Eq)]
pub enum LiveChanged {
    Done(LiveChange),
    /// The key stands for another order.
    KeyConflict,
    ProjectMissing,
    ProjectInactive,
    VersionMissing,
    VersionRetired,
    NothingLive,
    AlreadyLive,
    NeverLive,
    NothingBefore,
    NoSplit,
}

/// An order that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveChange {
    pub seq: i64,
    /// Of the table that shows it.
    pub epoch: i64,
    pub before: LiveState,
    pub now: LiveState,
}

pub(super) const PRODUCTION: &str = Target::Production.as_str();

impl Store {
    /// One transaction: what waits of older numbers is superseded, the number is given out, and the
    /// version is live.
    pub async fn live_change(
        &self,
        scope: &OrgScope,
        new: &NewLiveChange,
    ) -> Result<LiveChanged, StoreError> {
        self.repeating(|tried| self.change_once(scope, new, tried)).await
    }

    async fn change_once(
        &self,
        scope: &OrgScope,
        new: &NewLiveChange,
        tried: u32,
    ) -> Result<LiveChanged, StoreError> {
        let tx = self.begin().await?;
        if tried > 0
            && let Some(done) = done_before(&tx, &new.id).await?
        {
            // The connection died after it was carried out.
            tx.rollback().await?;
            return Ok(LiveChanged::Done(done));
        }
        let changed = change_in(&tx, scope, new).await?;
        match changed {
            LiveChanged::Done(_) => tx.commit().await?,
            // Nothing of a refused order may stay behind.
            _ => tx.rollback().await?,
        }
        Ok(changed)
    }

    /// A page of what is kept, newest first; `before` is the `(created_at, id)` of the last one seen.
    pub async fn version_list(
        &self,
        scope: &OrgScope,
        project: &ProjectId,
        before: Option<&(i64, String)>,
        limit: u64,
    ) -> Result<Vec<VersionRow>, StoreError> {
        let mut query = version::Entity::find()
            .filter(version::Column::ProjectId.eq(project.as_str()))
            .filter(version::Column::OrgId.eq(scope.org().as_str()))
            .filter(version::Column::RetiredAt.is_null())
            .order_by_desc(version::Column::CreatedAt)
            .order_by_desc(version::Column::Id)
            .limit(limit);
        if let Some((at, id)) = before {
            query = query.filter(
                Condition::any().add(version::Column::CreatedAt.lt(*at)).add(
                    Condition::all()
                        .add(version::Column::CreatedAt.eq(*at))
                        .add(version::Column::Id.lt(id.as_str())),
                ),
            );
        }
        Ok(query.all(&self.read).await?)
    }

    /// What is live on a project's Worker, and under which number.
    pub async fn live_get(&self, project: &str) -> Result<(i64, LiveState), StoreError> {
        let target = target_of(&self.read, project).await?;
        let seq = target.as_ref().map_or(0, |t| t.live_seq);
        Ok((seq, state_of(&self.read, target.as_ref()).await?))
    }
}

async fn change_in(
    tx: &DatabaseTransaction,
    scope: &OrgScope,
    new: &NewLiveChange,
) -> Result<LiveChanged, StoreError> {
    let org = scope.org().as_str();
    recording_alone(tx, org).await?;
    let project = project::Entity::find_by_id(new.project.as_str())
        .filter(project::Column::OrgId.eq(org))
        .one(tx)
        .await?;
    let Some(project) = project else { return Ok(LiveChanged::ProjectMissing) };
    let now = clock::now(tx).await?;
    if let Some(key) = &new.idempotency {
        match idempotency::find(tx, org, key, now).await? {
            Remembered::Nothing => {}
            Remembered::OtherBody => return Ok(LiveChanged::KeyConflict),
            Remembered::SameBody { deployment_id: change } => {
                let done = done_before(tx, &change).await?;
                return Ok(done.map_or(LiveChanged::KeyConflict, LiveChanged::Done));
            }
        }
    }
    if project.status != "active" {
        return Ok(LiveChanged::ProjectInactive);
    }
    let ends_only = new.order == LiveOrder::SplitEnd;
    if !ends_only {
        // Their numbers are lower: none of them could go live any more.
        for row in lock_queued(tx, &project.id, PRODUCTION).await? {
            outcome::cancel_queued(tx, &row, CancelReason::Superseded, now).await?;
        }
    }
    // Whoever puts something live or retires it holds the epoch: what is read from here on stays true.
    let epoch = next_epoch(tx).await?;
    let target = target_of(tx, &project.id).await?;
    let before = state_of(tx, target.as_ref()).await?;
    let live_seq = target.as_ref().map_or(0, |t| t.live_seq);
    if ends_only {
        if before.split.is_none() {
            return Ok(LiveChanged::NoSplit);
        }
        end_splits(tx, &project.id, now).await?;
        show(tx, &project.id, epoch).await?;
        let now = LiveState { split: None, ..before.clone() };
        return Ok(LiveChanged::Done(LiveChange { seq: live_seq, epoch, before, now }));
    }
    let place = match place_of(tx, &project.id, &new.order, live_seq, &before).await? {
        Ok(place) => place,
        Err(refused) => return Ok(refused),
    };
    let seq = next_seq(tx, org, &project.id, PRODUCTION).await?;
    end_splits(tx, &project.id, now).await?;
    let (kind, percent) = match new.order {
        LiveOrder::Rollback { .. } => ("rollback", None),
        LiveOrder::Promote { .. } | LiveOrder::SplitEnd => ("promote", None),
        LiveOrder::Split { percent, .. } => ("split", Some(percent)),
    };
    live_change::Entity::insert(live_change::ActiveModel {
        id: Set(new.id.clone()),
        org_id: Set(org.to_owned()),
        project_id: Set(project.id.clone()),
        user_id: Set(new.user.to_string()),
        seq: Set(seq),
        kind: Set(kind.into()),
        version_id: Set(place.version.clone()),
        percent: Set(percent.map(i32::from)),
        origin_seq: Set(if place.seq == 0 { seq } else { place.seq }),
        created_at: Set(now),
        ended_at: Set(None),
        before_version_id: Set(before.version_id.clone()),
        before_split_id: Set(before.split.as_ref().map(|split| split.version_id.clone())),
        before_percent: Set(before.split.as_ref().map(|split| i32::from(split.percent))),
        route_epoch: Set(Some(epoch)),
    })
    .exec_without_returning(tx)
    .await?;
    if let Some(key) = &new.idempotency {
        idempotency::remember(tx, org, key, &new.id, now).await?;
    }
    let after = match percent {
        None => LiveState { version_id: Some(place.version), split: None },
        Some(percent) => {
            let split = Some(SplitRow { version_id: place.version, percent });
            LiveState { version_id: before.version_id.clone(), split }
        }
    };
    go_live(tx, &project.id, seq, after.version_id.clone(), epoch).await?;
    Ok(LiveChanged::Done(LiveChange { seq, epoch, before, now: after }))
}

/// The statement that every switch is.
async fn go_live(
    tx: &DatabaseTransaction,
    project: &str,
    seq: i64,
    version: Option<String>,
    epoch: i64,
) -> Result<(), StoreError> {
    let changed = project_target::Entity::update_many()
        .col_expr(project_target::Column::LiveSeq, Expr::value(seq))
        .col_expr(project_target::Column::LiveVersionId, Expr::value(version))
        .col_expr(project_target::Column::RouteEpoch, Expr::value(epoch))
        .filter(project_target::Column::ProjectId.eq(project))
        .filter(project_target::Column::Target.eq(PRODUCTION))
        .filter(project_target::Column::LiveSeq.lt(seq))
        .exec(tx)
        .await?;
    // The number was given out in this transaction, so nothing can be at it already.
    if changed.rows_affected == 1 { Ok(()) } else { Err(StoreError::Corrupt { what: "sequence number" }) }
}

/// Puts the project's route, unchanged in itself, into the next table.
async fn show(tx: &DatabaseTransaction, project: &str, epoch: i64) -> Result<(), StoreError> {
    project_target::Entity::update_many()
        .col_expr(project_target::Column::RouteEpoch, Expr::value(epoch))
        .filter(project_target::Column::ProjectId.eq(project))
        .filter(project_target::Column::Target.eq(PRODUCTION))
        .exec(tx)
        .await?;
    Ok(())
}

/// Which version the order means and where in the history it stands (0: where the order itself does), or
/// why it can't be carried out.
async fn place_of(
    tx: &DatabaseTransaction,
    project: &str,
    order: &LiveOrder,
    live_seq: i64,
    before: &LiveState,
) -> Result<Result<Place, LiveChanged>, StoreError> {
    let (version, may_be_first) = match order {
        LiveOrder::Rollback { to: None } => {
            let Some(live) = &before.version_id else { return Ok(Err(LiveChanged::NothingLive)) };
            let since = origin_of(tx, project, live_seq).await?;
            let found = newest_place(tx, project, Wanted::Before { since, live }).await?;
            return Ok(found.ok_or(LiveChanged::NothingBefore));
        }
        LiveOrder::Rollback { to: Some(version) } => (version, false),
        LiveOrder::Promote { version } => (version, true),
        LiveOrder::Split { version, .. } => (version, false),
        LiveOrder::SplitEnd => return Ok(Err(LiveChanged::NoSplit)),
    };
    let row = version::Entity::find_by_id(version.as_str())
        .filter(version::Column::ProjectId.eq(project))
        .one(tx)
        .await?;
    let Some(row) = row else { return Ok(Err(LiveChanged::VersionMissing)) };
    if row.retired_at.is_some() {
        return Ok(Err(LiveChanged::VersionRetired));
    }
    if before.version_id.is_none() && !may_be_first {
        return Ok(Err(LiveChanged::NothingLive));
    }
    if before.version_id.as_ref() == Some(&row.id) {
        return Ok(Err(LiveChanged::AlreadyLive));
    }
    Ok(match order {
        LiveOrder::Rollback { .. } => {
            newest_place(tx, project, Wanted::Of(&row.id)).await?.ok_or(LiveChanged::NeverLive)
        }
        // A split leaves what is live, and so its place.
        LiveOrder::Split { .. } => {
            Ok(Place { version: row.id, seq: origin_of(tx, project, live_seq).await? })
        }
        LiveOrder::Promote { .. } | LiveOrder::SplitEnd => Ok(Place { version: row.id, seq: 0 }),
    })
}

async fn target_of<C: ConnectionTrait>(
    connection: &C,
    project: &str,
) -> Result<Option<project_target::Model>, StoreError> {
    let key = (project.to_owned(), PRODUCTION.to_owned());
    Ok(project_target::Entity::find_by_id(key).one(connection).await?)
}

async fn state_of<C: ConnectionTrait>(
    connection: &C,
    target: Option<&project_target::Model>,
) -> Result<LiveState, StoreError> {
    let Some(target) = target else { return Ok(LiveState::default()) };
    let splits = open_splits(connection, [target]).await?;
    let split = splits.into_iter().next().map(|(_, split)| split);
    Ok(LiveState { version_id: target.live_version_id.clone(), split })
}

/// The splits in force among these targets, by project: those whose number is the live one.
pub(super) async fn open_splits<C: ConnectionTrait>(
    connection: &C,
    targets: impl IntoIterator<Item = &project_target::Model>,
) -> Result<Vec<(String, SplitRow)>, StoreError> {
    let live: std::collections::HashMap<&str, i64> =
        targets.into_iter().map(|t| (t.project_id.as_str(), t.live_seq)).collect();
    let open = live_change::Entity::find()
        .filter(live_change::Column::ProjectId.is_in(live.keys().copied()))
        .filter(live_change::Column::Kind.eq("split"))
        .filter(live_change::Column::EndedAt.is_null())
        .all(connection)
        .await?;
    Ok(open
        .into_iter()
        .filter(|split| live.get(split.project_id.as_str()) == Some(&split.seq))
        .filter_map(|split| {
            let percent = u8::try_from(split.percent?).ok()?;
            Some((split.project_id, SplitRow { version_id: split.version_id, percent }))
        })
        .collect())
}

/// The versions of a project that splits need; they are not retired.
pub(super) fn split_versions(project: &str) -> SelectStatement {
    live_change::Entity::find()
        .select_only()
        .column(live_change::Column::VersionId)
        .filter(live_change::Column::ProjectId.eq(project))
        .filter(live_change::Column::Kind.eq("split"))
        .filter(live_change::Column::EndedAt.is_null())
        .into_query()
}

/// Going live ends a split.
pub(super) async fn end_splits(tx: &DatabaseTransaction, project: &str, now: i64) -> Result<(), StoreError> {
    live_change::Entity::update_many()
        .col_expr(live_change::Column::EndedAt, Expr::value(now))
        .filter(live_change::Column::ProjectId.eq(project))
        .filter(live_change::Column::Kind.eq("split"))
        .filter(live_change::Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

/// A change as it was answered when it was carried out.
async fn done_before(tx: &DatabaseTransaction, id: &str) -> Result<Option<LiveChange>, StoreError> {
    let Some(row) = live_change::Entity::find_by_id(id).one(tx).await? else { return Ok(None) };
    let split = |version_id: Option<String>, percent: Option<i32>| {
        Some(SplitRow { version_id: version_id?, percent: u8::try_from(percent?).ok()? })
    };
    let before = LiveState {
        version_id: row.before_version_id,
        split: split(row.before_split_id, row.before_percent),
    };
    let now = match split(Some(row.version_id.clone()), row.percent) {
        Some(split) => LiveState { version_id: before.version_id.clone(), split: Some(split) },
        None => LiveState { version_id: Some(row.version_id), split: None },
    };
    Ok(Some(LiveChange { seq: row.seq, epoch: row.route_epoch.unwrap_or(0), before, now }))
}
