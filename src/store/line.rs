//! The line: everything that queues, runs and builds, as one look; and granting slots by what was seen.
//!
//! One program grants at a time, whatever server it runs on: a grant moves the round's stamp from the value
//! that was seen, or changes nothing. A grant holds its slot until it is claimed, for some seconds at most,
//! and one that got lost is owed to its deployment.

use std::collections::{HashMap, HashSet};

use entity::{builder_node, deployment, deployment_step, org_queue, queue_grant, queue_turn};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait,
};

use super::deployments::DeploymentRow;
use super::{Store, StoreError, clock};
use crate::domain::Target;
use crate::domain::schedule::{Job, Line, Plan, Running, Share, Stage};

/// What a look at the line goes by.
#[derive(Debug, Clone)]
pub struct LineRules {
    /// A builder that has been silent for this long has no slots.
    pub silent_ms: i64,
    /// A grant holds its slot for this long without being claimed.
    pub grant_ms: i64,
    pub preview_age_ms: i64,
    /// Queued deployments looked at, those first that wait for longest.
    pub jobs: u64,
    /// The share of organizations that have none of their own.
    pub share: Share,
    pub broker_away: bool,
}

/// One look at the line.
#[derive(Debug, Clone)]
pub struct Seen {
    pub line: Line,
    /// When each of the running attempts began.
    pub began: Vec<Option<i64>>,
    /// Ring and fence of each queued deployment.
    marks: Vec<(i64, i64)>,
    /// The stamp as it is stored.
    stamp: i64,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Everything.
    Whole,
    /// Nothing, where nothing is to be rung or no slot is free.
    ToGrant,
}

type QueuedRow = (String, String, String, String, i64, i64, Option<i64>, i64, i64);
type RunningRow = (String, String, String, String, Option<String>, Option<i64>);

impl Store {
    /// Looks at the line. `None` where there is nothing to grant and only that was looked for.
    pub async fn line_read(&self, rules: &LineRules, look: Look) -> Result<Option<Seen>, StoreError> {
        let tx = self.snapshot().await?;
        let seen = read(&tx, rules, look).await?;
        tx.commit().await?;
        Ok(seen)
    }

    /// Grants what was planned by `seen`. Answers the rows to be rung, in order, or `None` where somebody
    /// else has granted since: look again.
    pub async fn line_grant(
        &self,
        seen: &Seen,
        plan: &Plan,
    ) -> Result<Option<Vec<DeploymentRow>>, StoreError> {
        let tx = self.begin().await?;
        let moved = queue_turn::Entity::update_many()
            .col_expr(queue_turn::Column::Stamp, Expr::value(plan.stamp))
            .filter(queue_turn::Column::Id.eq(1))
            .filter(queue_turn::Column::Stamp.eq(seen.stamp))
            .exec(&tx)
            .await?;
        if moved.rows_affected == 0 {
            tx.rollback().await?;
            return Ok(None);
        }
        write_grants(&tx, seen, plan).await?;
        write_shares(&tx, plan).await?;
        tx.commit().await?;
        let ids: Vec<&str> = plan.grants.iter().map(|job| seen.line.jobs[*job].id.as_str()).collect();
        let rows = deployment::Entity::find()
            .filter(deployment::Column::Id.is_in(ids.iter().copied()))
            .filter(deployment::Column::Status.eq("queued"))
            .filter(deployment::Column::RungAt.is_null())
            .all(&self.read)
            .await?;
        let mut by_id: HashMap<String, DeploymentRow> = rows.into_iter().map(|r| (r.id.clone(), r)).collect();
        Ok(Some(ids.into_iter().filter_map(|id| by_id.remove(id)).collect()))
    }

    /// Gives slots back that could not be rung: their deployments have the next ones.
    pub async fn line_give_back(&self, ids: &[String]) -> Result<(), StoreError> {
        queue_grant::Entity::update_many()
            .col_expr(queue_grant::Column::GrantedAt, Expr::value(0_i64))
            .filter(queue_grant::Column::DeploymentId.is_in(ids.iter().map(String::as_str)))
            .exec(&self.write)
            .await?;
        Ok(())
    }

    /// Forgets grants of deployments that do not wait any more. Answers how many.
    pub async fn line_forget(&self) -> Result<u64, StoreError> {
        let waiting = deployment::Entity::find()
            .select_only()
            .column(deployment::Column::Id)
            .filter(deployment::Column::Status.eq("queued"))
            .into_query();
        let deleted = queue_grant::Entity::delete_many()
            .filter(queue_grant::Column::DeploymentId.not_in_subquery(waiting))
            .exec(&self.write)
            .await?;
        Ok(deleted.rows_affected)
    }
}

async fn read(tx: &DatabaseTransaction, rules: &LineRules, look: Look) -> Result<Option<Seen>, StoreError> {
    let now = clock::now(tx).await?;
    if look == Look::ToGrant && (rules.broker_away || !is_anything_due(tx, now).await?) {
        return Ok(None);
    }
    let builders: HashMap<String, i32> = builder_node::Entity::find()
        .filter(builder_node::Column::HeartbeatAt.gt(now - rules.silent_ms))
        .all(tx)
        .await?
        .into_iter()
        .map(|b| (b.id, b.slots))
        .collect();
    let slots = builders.values().filter_map(|s| u32::try_from(*s).ok()).sum();
    let (ids, running) = running(tx, &builders, now).await?;
    if look == Look::ToGrant && running.iter().filter(|r| r.holds_slot).count() >= slots as usize {
        return Ok(None);
    }
    let began = if look == Look::Whole { began(tx, &ids).await? } else { Vec::new() };
    let stamp = queue_turn::Entity::find_by_id(1).one(tx).await?;
    let stamp = stamp.ok_or(StoreError::Corrupt { what: "queue's round" })?.stamp;
    let (jobs, marks) = queued(tx, rules, now).await?;
    let line = Line {
        now,
        shares: shares(tx, rules, &jobs).await?,
        jobs,
        running,
        share: rules.share.clone(),
        slots,
        stamp,
        preview_age_ms: rules.preview_age_ms,
        broker_away: rules.broker_away,
    };
    Ok(Some(Seen { line, began, marks, stamp }))
}

async fn is_anything_due(tx: &DatabaseTransaction, now: i64) -> Result<bool, StoreError> {
    let due: Option<String> = deployment::Entity::find()
        .select_only()
        .column(deployment::Column::Id)
        .filter(deployment::Column::Status.eq("queued"))
        .filter(deployment::Column::DueAt.lte(now))
        .filter(deployment::Column::RungAt.is_null())
        .limit(1)
        .into_tuple()
        .one(tx)
        .await?;
    Ok(due.is_some())
}

/// What is in progress, with its ids.
async fn running(
    tx: &DatabaseTransaction,
    builders: &HashMap<String, i32>,
    now: i64,
) -> Result<(Vec<String>, Vec<Running>), StoreError> {
    let rows: Vec<RunningRow> = deployment::Entity::find()
        .select_only()
        .columns([
            deployment::Column::Id,
            deployment::Column::OrgId,
            deployment::Column::ProjectId,
            deployment::Column::Target,
            deployment::Column::LeaseOwner,
            deployment::Column::LeaseUntil,
        ])
        .filter(deployment::Column::Status.eq("in_progress"))
        .into_tuple()
        .all(tx)
        .await?;
    let mut ids = Vec::with_capacity(rows.len());
    let mut running = Vec::with_capacity(rows.len());
    for (id, org, project, target, owner, until) in rows {
        // Slots of a builder that is gone, or of a release that reports none, are not counted either.
        let node = owner.as_deref().and_then(|owner| owner.split('/').next());
        let counted = node.is_some_and(|node| builders.contains_key(node));
        let holds_slot = counted && until.is_some_and(|until| until > now);
        ids.push(id);
        running.push(Running { org, project, target: target_of(&target)?, holds_slot });
    }
    Ok((ids, running))
}

async fn began(tx: &DatabaseTransaction, ids: &[String]) -> Result<Vec<Option<i64>>, StoreError> {
    let rows: Vec<(String, Option<i64>)> = deployment_step::Entity::find()
        .select_only()
        .column(deployment_step::Column::DeploymentId)
        .column_as(deployment_step::Column::StartedAt.min(), "began")
        .filter(deployment_step::Column::DeploymentId.is_in(ids.iter().map(String::as_str)))
        .group_by(deployment_step::Column::DeploymentId)
        .into_tuple()
        .all(tx)
        .await?;
    let began: HashMap<String, Option<i64>> = rows.into_iter().collect();
    Ok(ids.iter().map(|id| began.get(id).copied().flatten()).collect())
}

async fn queued(
    tx: &DatabaseTransaction,
    rules: &LineRules,
    now: i64,
) -> Result<(Vec<Job>, Vec<(i64, i64)>), StoreError> {
    let rows: Vec<QueuedRow> = deployment::Entity::find()
        .select_only()
        .columns([
            deployment::Column::Id,
            deployment::Column::OrgId,
            deployment::Column::ProjectId,
            deployment::Column::Target,
            deployment::Column::Seq,
            deployment::Column::DueAt,
            deployment::Column::RungAt,
            deployment::Column::Ring,
            deployment::Column::Fence,
        ])
        .filter(deployment::Column::Status.eq("queued"))
        .order_by_asc(deployment::Column::DueAt)
        .order_by_asc(deployment::Column::CreatedAt)
        .limit(rules.jobs)
        .into_tuple()
        .all(tx)
        .await?;
    let grants = queue_grant::Entity::find().all(tx).await?;
    let grants: HashMap<&str, &queue_grant::Model> =
        grants.iter().map(|g| (g.deployment_id.as_str(), g)).collect();
    let mut jobs = Vec::with_capacity(rows.len());
    let mut marks = Vec::with_capacity(rows.len());
    for (id, org, project, target, seq, due_at, rung_at, ring, fence) in rows {
        // One of an earlier wait is spent.
        let grant = grants.get(id.as_str()).filter(|g| g.fence == fence);
        let is_fresh = |at: i64| at > now - rules.grant_ms;
        let stage = match (grant, rung_at) {
            (Some(g), _) if g.ring == ring && is_fresh(g.granted_at) => Stage::Granted,
            (Some(_), None) => Stage::Owed,
            (None, None) => Stage::Waiting,
            // Rung by a release that grants nothing.
            (None, Some(at)) if is_fresh(at) => Stage::Granted,
            (_, Some(_)) => Stage::Rung,
        };
        marks.push((ring, fence));
        jobs.push(Job { id, org, project, target: target_of(&target)?, seq, due_at, stage });
    }
    Ok((jobs, marks))
}

/// Of the organizations that have something in line.
async fn shares(
    tx: &DatabaseTransaction,
    rules: &LineRules,
    jobs: &[Job],
) -> Result<HashMap<String, Share>, StoreError> {
    let orgs: HashSet<&str> = jobs.iter().map(|j| j.org.as_str()).collect();
    let orgs: Vec<&str> = orgs.into_iter().collect();
    let mut shares = HashMap::with_capacity(orgs.len());
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    for some in orgs.chunks(1_000) {
        let filter = org_queue::Column::OrgId.is_in(some.iter().copied());
        for row in org_queue::Entity::find().filter(filter).all(tx).await? {
            let share = Share {
                weight: count(row.weight),
                deficit: count(row.deficit),
                turn: row.turn,
                running_limit: row.running_limit.map(count).or(rules.share.running_limit),
                project_limit: row.project_limit.map(count).or(rules.share.project_limit),
            };
            shares.insert(row.org_id, share);
        }
    }
    Ok(shares)
}

async fn write_grants(tx: &DatabaseTransaction, seen: &Seen, plan: &Plan) -> Result<(), StoreError> {
    let grants = plan.grants.iter().map(|job| queue_grant::ActiveModel {
        deployment_id: Set(seen.line.jobs[*job].id.clone()),
        ring: Set(seen.marks[*job].0),
        fence: Set(seen.marks[*job].1),
        granted_at: Set(seen.line.now),
    });
    let again = OnConflict::column(queue_grant::Column::DeploymentId)
        .update_columns([
            queue_grant::Column::Ring,
            queue_grant::Column::Fence,
            queue_grant::Column::GrantedAt,
        ])
        .to_owned();
    queue_grant::Entity::insert_many(grants).on_conflict(again).exec_without_returning(tx).await?;
    Ok(())
}

/// Where the organizations that were served stand now; what operators set stays.
async fn write_shares(tx: &DatabaseTransaction, plan: &Plan) -> Result<(), StoreError> {
    if plan.shares.is_empty() {
        return Ok(());
    }
    let shares = plan.shares.iter().map(|(org, share)| org_queue::ActiveModel {
        org_id: Set(org.clone()),
        weight: Set(1),
        running_limit: Set(None),
        project_limit: Set(None),
        deficit: Set(i32::try_from(share.deficit).unwrap_or(0)),
        turn: Set(share.turn),
    });
    let moved = OnConflict::column(org_queue::Column::OrgId)
        .update_columns([org_queue::Column::Deficit, org_queue::Column::Turn])
        .to_owned();
    org_queue::Entity::insert_many(shares).on_conflict(moved).exec_without_returning(tx).await?;
    Ok(())
}

fn target_of(word: &str) -> Result<Target, StoreError> {
    Target::parse(word).ok_or(StoreError::Corrupt { what: "deployment" })
}
