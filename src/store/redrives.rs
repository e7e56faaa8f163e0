//! Driving a dead deployment anew: the same row gets three more attempts, in one transaction with its quota and its
//! letter. Never drives what has not failed, what a newer one has overtaken, or anything twice.

use entity::{deployment, deployment_step, project_target};
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, QueryFilter};
use serde_json::{Map, Value};

use super::dead_letters::{LetterScope, close, locked};
use super::deployments::DeploymentRow;
use super::{Store, StoreError, clock, events, quota};
use crate::domain::{DeadLetterState, RedriveFrom, Step, UserId};

/// How to drive it anew.
#[derive(Debug, Clone)]
pub struct NewRedrive {
    pub from: RedriveFrom,
    /// Settings of the build to be changed, by their names in the recorded ones.
    pub set: Map<String, Value>,
    /// It is due in so many ms.
    pub delay_ms: i64,
    pub by: UserId,
    pub quota_limit: i64,
}

/// What driving it anew came to.
#[derive(Debug)]
pub enum Redriven {
    Done(Box<DeploymentRow>),
    Unknown,
    /// The letter was redriven or buried before.
    NotOpen,
    /// A refused message: there is no deployment.
    NoDeployment,
    /// The deployment has not failed.
    NotFailed,
    /// A newer one is live.
    Superseded,
    /// What it built is live, and a live version never changes.
    BuiltIsLive,
    /// The build would lack its variables.
    EnvForgotten,
    QuotaExceeded {
        limit: i64,
    },
}

impl Store {
    /// Drives the deployment of an open letter anew.
    ///
    /// # Errors
    /// If the database can't take it; nothing is changed then.
    pub async fn deployment_redrive(
        &self,
        scope: &LetterScope,
        letter: &str,
        new: &NewRedrive,
    ) -> Result<Redriven, StoreError> {
        self.repeating(|tried| self.redrive_once(scope, letter, new, tried)).await
    }

    async fn redrive_once(
        &self,
        scope: &LetterScope,
        letter: &str,
        new: &NewRedrive,
        tried: u32,
    ) -> Result<Redriven, StoreError> {
        let tx = self.begin().await?;
        let redriven = redrive_in(&tx, scope, letter, new, tried).await?;
        match redriven {
            Redriven::Done(_) => tx.commit().await?,
            // Nothing of a refused one may stay behind.
            _ => tx.rollback().await?,
        }
        Ok(redriven)
    }
}

async fn redrive_in(
    tx: &DatabaseTransaction,
    scope: &LetterScope,
    letter: &str,
    new: &NewRedrive,
    tried: u32,
) -> Result<Redriven, StoreError> {
    let Some(letter) = locked(tx, scope, letter).await? else { return Ok(Redriven::Unknown) };
    let Some(id) = &letter.deployment_id else { return Ok(Redriven::NoDeployment) };
    // Held with its letter.
    let row = deployment::Entity::find_by_id(id).one(tx).await?;
    let row = row.ok_or(StoreError::Corrupt { what: "dead letter" })?;
    if letter.state != DeadLetterState::Open.as_str() {
        // The connection died after it was done, by this very call.
        let is_ours = letter.state == DeadLetterState::Redriven.as_str()
            && letter.state_by.as_deref() == Some(new.by.as_str())
            && letter.generation.map(|generation| generation + 1) == Some(row.redrives);
        return Ok(if tried > 0 && is_ours { Redriven::Done(Box::new(row)) } else { Redriven::NotOpen });
    }
    if row.status != "failed" {
        return Ok(Redriven::NotFailed);
    }
    let key = (row.project_id.clone(), row.target.clone());
    let live = project_target::Entity::find_by_id(key).one(tx).await?;
    if live.is_some_and(|target| target.live_seq > row.seq) {
        return Ok(Redriven::Superseded);
    }
    let forgotten = forgotten_results(new);
    if row.switched_at.is_some() && !forgotten.is_empty() {
        return Ok(Redriven::BuiltIsLive);
    }
    if letter.env_forgotten_at.is_some() && builds_again(tx, &row, forgotten).await? {
        return Ok(Redriven::EnvForgotten);
    }
    let now = clock::now(tx).await?;
    if !quota::reserve_again(tx, &row.org_id, &row.id, new.quota_limit, now).await? {
        return Ok(Redriven::QuotaExceeded { limit: new.quota_limit });
    }
    requeue(tx, &row, new, now).await?;
    reset_steps(tx, &row.id, forgotten).await?;
    let from = new.from.as_str();
    let changed = serde_json::json!({ "from": from, "set": new.set }).to_string();
    close(tx, &letter.id, DeadLetterState::Redriven, &new.by, Some(&changed), now).await?;
    let message = match new.from {
        RedriveFrom::Start => "Driven anew, from the start",
        RedriveFrom::FailedStep => "Driven anew, from the step that failed",
    };
    let data = serde_json::json!({ "redrives": row.redrives + 1, "from": from });
    events::add(tx, &row.id, now, events::Kind::Redriven, message, data).await?;
    let row = deployment::Entity::find_by_id(&row.id).one(tx).await?;
    row.map(|row| Redriven::Done(Box::new(row))).ok_or(StoreError::Corrupt { what: "deployment" })
}

/// The steps whose results a new attempt must not reuse.
fn forgotten_results(new: &NewRedrive) -> &'static [Step] {
    match new.from {
        RedriveFrom::Start => Step::ALL,
        // How it is built has changed; what is built has not.
        RedriveFrom::FailedStep if !new.set.is_empty() => &[Step::Sandbox, Step::Build],
        RedriveFrom::FailedStep => &[],
    }
}

/// Whether a new attempt has to build, because no result of the build is left.
async fn builds_again(
    tx: &DatabaseTransaction,
    row: &DeploymentRow,
    forgotten: &[Step],
) -> Result<bool, StoreError> {
    let key = (row.id.clone(), Step::Build.as_str().to_owned());
    let build = deployment_step::Entity::find_by_id(key).one(tx).await?;
    Ok(forgotten.contains(&Step::Build) || build.is_none_or(|step| step.result.is_none()))
}

async fn requeue(
    tx: &DatabaseTransaction,
    row: &DeploymentRow,
    new: &NewRedrive,
    now: i64,
) -> Result<(), StoreError> {
    let nothing = || Expr::value(Option::<String>::None);
    let never = || Expr::value(Option::<i64>::None);
    let changed = deployment::Entity::update_many()
        .col_expr(deployment::Column::Status, Expr::value("queued"))
        .col_expr(deployment::Column::Redrives, Expr::col(deployment::Column::Redrives).add(1))
        .col_expr(deployment::Column::ResumeFrom, Expr::value(new.from.as_str()))
        .col_expr(deployment::Column::Build, Expr::value(merged(&row.build, &new.set)))
        .col_expr(deployment::Column::Attempt, Expr::value(0))
        .col_expr(deployment::Column::HandOvers, Expr::value(0))
        .col_expr(deployment::Column::Ring, Expr::col(deployment::Column::Ring).add(1))
        .col_expr(deployment::Column::RungAt, never())
        .col_expr(deployment::Column::RingSequence, never())
        .col_expr(deployment::Column::DueAt, Expr::value(now + new.delay_ms))
        .col_expr(deployment::Column::CurrentStep, nothing())
        .col_expr(deployment::Column::Progress, Expr::value(0))
        .col_expr(deployment::Column::CancelRequestedAt, never())
        .col_expr(deployment::Column::CancelReason, nothing())
        .col_expr(deployment::Column::Cause, nothing())
        .col_expr(deployment::Column::CrashedStep, nothing())
        .col_expr(deployment::Column::CrashesInStep, Expr::value(0))
        .col_expr(deployment::Column::FirstFailedAt, never())
        .col_expr(deployment::Column::LastFailedAt, never())
        .col_expr(deployment::Column::FinishedAt, never())
        .col_expr(deployment::Column::UpdatedAt, Expr::value(now))
        .filter(deployment::Column::Id.eq(&row.id))
        .filter(deployment::Column::Status.eq("failed"))
        .exec(tx)
        .await?;
    // It was held when it was looked at.
    if changed.rows_affected == 1 { Ok(()) } else { Err(StoreError::Corrupt { what: "deployment" }) }
}

/// The recorded settings of the build with what was changed.
fn merged(build: &str, set: &Map<String, Value>) -> String {
    if set.is_empty() {
        return build.to_owned();
    }
    let mut all: Map<String, Value> = serde_json::from_str(build).unwrap_or_default();
    all.extend(set.clone());
    Value::Object(all).to_string()
}

async fn reset_steps(
    tx: &DatabaseTransaction,
    deployment: &str,
    forgotten: &[Step],
) -> Result<(), StoreError> {
    deployment_step::Entity::update_many()
        .col_expr(deployment_step::Column::Status, Expr::value("pending"))
        .col_expr(deployment_step::Column::Attempt, Expr::value(0))
        .col_expr(deployment_step::Column::StartedAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment_step::Column::FinishedAt, Expr::value(Option::<i64>::None))
        .col_expr(deployment_step::Column::Error, Expr::value(Option::<String>::None))
        .filter(deployment_step::Column::DeploymentId.eq(deployment))
        .exec(tx)
        .await?;
    deployment_step::Entity::update_many()
        .col_expr(deployment_step::Column::Result, Expr::value(Option::<String>::None))
        .filter(deployment_step::Column::DeploymentId.eq(deployment))
        .filter(deployment_step::Column::Step.is_in(forgotten.iter().map(|step| step.as_str())))
        .exec(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_setting_leaves_the_others_and_what_a_newer_release_recorded() {
        let set = serde_json::json!({ "command": "b" }).as_object().cloned().unwrap();
        let all = merged(r#"{"command":"a","node":"22","later":1}"#, &set);
        assert_eq!(
            serde_json::from_str::<Value>(&all).unwrap(),
            serde_json::json!({ "command": "b", "node": "22", "later": 1 })
        );
        assert_eq!(merged("{}", &Map::new()), "{}");
    }
}
