//! The state changes of a deployment, numbered. Messages come from the fixed catalogue only:
//! strangers may read them on the status page.

use entity::{deployment, deployment_event};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::{Store, StoreError};

pub use entity::deployment_event::Model as EventRow;

/// What kind of change an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Queued,
    Started,
    Step,
    Retry,
    CancelRequested,
    Switched,
    Completed,
    Failed,
    Cancelled,
    Redriven,
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Step => "step",
            Self::Retry => "retry",
            Self::CancelRequested => "cancel_requested",
            Self::Switched => "switched",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Redriven => "redriven",
        }
    }
}

/// Adds an event within the transaction that makes the change.
pub(super) async fn add<C: ConnectionTrait>(
    tx: &C,
    deployment: &str,
    now: i64,
    kind: Kind,
    message: &str,
    data: serde_json::Value,
) -> Result<(), StoreError> {
    deployment::Entity::update_many()
        .col_expr(deployment::Column::EventSeq, Expr::col(deployment::Column::EventSeq).add(1))
        .filter(deployment::Column::Id.eq(deployment))
        .exec(tx)
        .await?;
    let seq: Option<i64> = deployment::Entity::find_by_id(deployment)
        .select_only()
        .column(deployment::Column::EventSeq)
        .into_tuple()
        .one(tx)
        .await?;
    deployment_event::Entity::insert(deployment_event::ActiveModel {
        deployment_id: Set(deployment.into()),
        seq: Set(seq.ok_or(StoreError::Corrupt { what: "deployment" })?),
        at: Set(now),
        kind: Set(kind.as_str().into()),
        message: Set(message.into()),
        data: Set(data.to_string()),
    })
    .exec_without_returning(tx)
    .await?;
    Ok(())
}

impl Store {
    /// Events after number `after`, in order.
    pub async fn event_list(
        &self,
        deployment: &str,
        after: i64,
        limit: u64,
    ) -> Result<Vec<EventRow>, StoreError> {
        Ok(deployment_event::Entity::find()
            .filter(deployment_event::Column::DeploymentId.eq(deployment))
            .filter(deployment_event::Column::Seq.gt(after))
            .order_by_asc(deployment_event::Column::Seq)
            .limit(limit)
            .all(&self.read)
            .await?)
    }

    /// The newest `limit` messages, oldest first.
    pub async fn event_newest(&self, deployment: &str, limit: u64) -> Result<Vec<EventRow>, StoreError> {
        let mut rows = deployment_event::Entity::find()
            .filter(deployment_event::Column::DeploymentId.eq(deployment))
            .order_by_desc(deployment_event::Column::Seq)
            .limit(limit)
            .all(&self.read)
            .await?;
        rows.reverse();
        Ok(rows)
    }
}
