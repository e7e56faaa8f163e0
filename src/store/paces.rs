//! How long the steps of a project's deployments took: mean and spread, newer ones counting more.
//! Only completed deployments teach.

use std::collections::HashMap;

use entity::{deployment_step, project_pace};
use sea_orm::sea_query::{Expr, ExprTrait, SimpleExpr};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter, QuerySelect,
    Statement, Value,
};

use super::deployments::DeploymentRow;
use super::{Store, StoreError};
use crate::domain::Target;
use crate::domain::pace::Pace;

/// Beyond so many, a sample counts for one of so many.
const REMEMBERED: i32 = 20;
/// The row about all projects.
const EVERYBODY: &str = "";
const WHOLE: &str = "whole";

/// What is known of whole deployments.
#[derive(Debug, Clone, Default)]
pub struct Paces {
    of: HashMap<(String, Target), Pace>,
    everybody: HashMap<Target, Pace>,
}

impl Paces {
    /// The project's own, else everybody's; `None` before anything was ever completed.
    #[must_use]
    pub fn of(&self, project: &str, target: Target) -> Option<Pace> {
        let own = self.of.get(&(project.to_owned(), target));
        own.or_else(|| self.everybody.get(&target)).or_else(|| self.everybody.values().next()).copied()
    }
}

impl Store {
    /// Of these projects.
    pub async fn pace_read(&self, projects: Vec<String>) -> Result<Paces, StoreError> {
        let mut paces = Paces::default();
        let mut asked = projects;
        asked.push(EVERYBODY.into());
        let sum = |column: project_pace::Column| SimpleExpr::from(Expr::col(column).sum());
        for some in asked.chunks(1_000) {
            let rows: Vec<(String, String, f64, f64, i32)> = project_pace::Entity::find()
                .select_only()
                .columns([project_pace::Column::ProjectId, project_pace::Column::Target])
                .column_as(sum(project_pace::Column::MeanMs), "mean_ms")
                .column_as(sum(project_pace::Column::Variance), "variance")
                .column_as(project_pace::Column::Samples.min(), "samples")
                .filter(project_pace::Column::ProjectId.is_in(some.iter().map(String::as_str)))
                .group_by(project_pace::Column::ProjectId)
                .group_by(project_pace::Column::Target)
                .into_tuple()
                .all(&self.read)
                .await?;
            for (project, target, mean_ms, variance, samples) in rows {
                let Some(target) = Target::parse(&target) else { continue };
                let pace = Pace::of_samples(mean_ms, variance, samples);
                if project == EVERYBODY {
                    paces.everybody.insert(target, pace);
                } else {
                    paces.of.insert((project, target), pace);
                }
            }
        }
        Ok(paces)
    }
}

/// Learns from a deployment that completes, within its transaction.
pub(super) async fn learn(tx: &DatabaseTransaction, row: &DeploymentRow) -> Result<(), StoreError> {
    let steps = deployment_step::Entity::find()
        .filter(deployment_step::Column::DeploymentId.eq(&row.id))
        .filter(deployment_step::Column::Status.eq("completed"))
        .all(tx)
        .await?;
    let took = |s: &deployment_step::Model| {
        s.finished_at.zip(s.started_at).map(|(end, start)| Ord::max(end - start, 0))
    };
    let steps: Vec<(&str, i64)> =
        steps.iter().filter_map(|s| took(s).map(|ms| (s.step.as_str(), ms))).collect();
    if steps.is_empty() {
        return Ok(());
    }
    let whole: i64 = steps.iter().map(|(_, ms)| ms).sum();
    let own = steps.iter().map(|(step, ms)| (row.project_id.as_str(), *step, *ms));
    let rows: Vec<(&str, &str, i64)> = own.chain(std::iter::once((EVERYBODY, WHOLE, whole))).collect();
    let backend = tx.get_database_backend();
    let mut values: Vec<Value> = Vec::new();
    let mut tuples = Vec::new();
    for (project, step, ms) in rows {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a step are far below 2^52")]
        let ms = ms as f64;
        let at = values.len();
        values.extend([project.into(), row.target.as_str().into(), step.into(), ms.into()]);
        tuples.push(match backend {
            DbBackend::Sqlite => "(?, ?, ?, 1, ?, 0.0)".to_owned(),
            _ => format!("(${}, ${}, ${}, 1, ${}, 0.0)", at + 1, at + 2, at + 3, at + 4),
        });
    }
    // Mean and variance with a weight of 1/n for the newest, n growing to REMEMBERED.
    let n = format!("(CASE WHEN p.samples < {REMEMBERED} THEN p.samples + 1 ELSE {REMEMBERED} END)");
    let off = "(excluded.mean_ms - p.mean_ms)";
    let sql = format!(
        "INSERT INTO project_pace AS p (project_id, target, step, samples, mean_ms, variance) VALUES {} \
         ON CONFLICT (project_id, target, step) DO UPDATE SET samples = {n}, \
         mean_ms = p.mean_ms + {off} / {n}, variance = ({n} - 1.0) / {n} * (p.variance + {off} * {off} / {n})",
        tuples.join(", ")
    );
    tx.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    Ok(())
}
