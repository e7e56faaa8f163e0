//! The history of what was live on a project's Worker: deployments that went live, and what was put live by
//! hand, in the order of their numbers. Reads only; `versions` decides and writes.

use entity::{deployment, live_change, version};
use sea_orm::sea_query::SelectStatement;
use sea_orm::{
    ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
};

use super::StoreError;
use super::versions::PRODUCTION;

/// A place in the history of what was live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub version: String,
    pub seq: i64,
}

/// Where in the history the live version stands: where its deployment or promotion does, also when
/// a rollback has brought it back.
pub(super) async fn origin_of(
    tx: &DatabaseTransaction,
    project: &str,
    live_seq: i64,
) -> Result<i64, StoreError> {
    let by_hand = live_change::Entity::find()
        .filter(live_change::Column::ProjectId.eq(project))
        .filter(live_change::Column::Seq.eq(live_seq))
        .one(tx)
        .await?;
    Ok(by_hand.map_or(live_seq, |change| change.origin_seq))
}

/// Which places are meant.
pub(super) enum Wanted<'a> {
    /// What is kept and was live before this number, other than what is live.
    Before {
        since: i64,
        live: &'a str,
    },
    Of(&'a str),
}

impl Wanted<'_> {
    fn versions(&self, project: &str) -> SelectStatement {
        let kept = version::Entity::find()
            .select_only()
            .column(version::Column::Id)
            .filter(version::Column::ProjectId.eq(project))
            .filter(version::Column::RetiredAt.is_null());
        match self {
            Self::Before { live, .. } => kept.filter(version::Column::Id.ne(*live)),
            Self::Of(version) => kept.filter(version::Column::Id.eq(*version)),
        }
        .into_query()
    }

    fn until(&self) -> i64 {
        match self {
            Self::Before { since, .. } => *since,
            Self::Of(_) => i64::MAX,
        }
    }
}

/// The newest place in the history that fits: deployments that went live, and what was put live by hand.
pub(super) async fn newest_place(
    tx: &DatabaseTransaction,
    project: &str,
    wanted: Wanted<'_>,
) -> Result<Option<Place>, StoreError> {
    let deployed = deployment::Entity::find()
        .filter(deployment::Column::ProjectId.eq(project))
        .filter(deployment::Column::Target.eq(PRODUCTION))
        .filter(deployment::Column::SwitchedAt.is_not_null())
        .filter(deployment::Column::Seq.lt(wanted.until()))
        .filter(deployment::Column::VersionId.in_subquery(wanted.versions(project)))
        .order_by_desc(deployment::Column::Seq)
        .one(tx)
        .await?;
    let by_hand = live_change::Entity::find()
        .filter(live_change::Column::ProjectId.eq(project))
        .filter(live_change::Column::Kind.is_in(["rollback", "promote"]))
        .filter(live_change::Column::Seq.lt(wanted.until()))
        .filter(live_change::Column::VersionId.in_subquery(wanted.versions(project)))
        .order_by_desc(live_change::Column::Seq)
        .one(tx)
        .await?;
    let deployed = deployed.and_then(|d| Some((d.seq, Place { version: d.version_id?, seq: d.seq })));
    let by_hand = by_hand.map(|c| (c.seq, Place { version: c.version_id, seq: c.origin_seq }));
    Ok(deployed.into_iter().chain(by_hand).max_by_key(|(seq, _)| *seq).map(|(_, place)| place))
}
