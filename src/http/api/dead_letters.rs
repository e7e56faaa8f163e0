//! `/api/v1/dead-letters`: what nobody tries again by itself, seen, driven anew or buried.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{dead_letter_orders as orders, page};
use crate::control::dead_letters::{GroupRedriven, LetterDetail};
use crate::domain::{
    AttemptOutcome, Cause, DeadLetterClass, DeadLetterState, DeploymentStatus, RedriveFrom, Scope, Step, time,
};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::{Json, OptionalJson};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::attempts::AttemptRow;
use crate::store::dead_letters::{DeadLetterRow, LetterFilter, LetterGroup};
use crate::store::deployments::DeploymentRow;

/// What nobody tries again by itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: String,
    pub class: DeadLetterClass,
    /// Without one: a message to no organization that there is; only operators see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Without one: a message that was refused before a deployment existed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// Equal for failures of one kind, whatever their paths, numbers, ids and versions.
    pub fingerprint: String,
    pub attempts: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<Step>,
    pub cause: Option<Cause>,
    pub first_failed_at: String,
    pub last_failed_at: String,
    pub state: DeadLetterState,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_at: Option<String>,
    /// The user who redrove or buried it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_by: Option<String>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterPage {
    pub dead_letters: Vec<DeadLetter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Letters of one kind.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterGroup {
    pub fingerprint: String,
    pub class: DeadLetterClass,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_step: Option<Step>,
    pub summary: String,
    pub count: i64,
    pub newest_id: String,
}

/// The largest groups first.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeadLetterGroups {
    pub groups: Vec<DeadLetterGroup>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum DeadLetterList {
    Page(DeadLetterPage),
    Groups(DeadLetterGroups),
}

/// One attempt of the deployment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptDocument {
    /// How often the deployment had been driven anew.
    pub redrives: i32,
    pub attempt: i32,
    /// Who ran it; only operators see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    pub started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<AttemptOutcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// A letter with all that is known of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterDetail {
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The message; one that is no JSON object, or too large, by its first bytes: `base64` and `sizeBytes`.
    #[schema(value_type = Object)]
    pub original: Value,
    /// Every attempt, oldest first; the newest 100.
    pub history: Vec<AttemptDocument>,
    /// The end of the build log.
    pub log_tail: String,
    /// How it was driven anew: `from`, and what was `set`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub changed: Option<Value>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedriveDocument {
    pub deployment_id: String,
    pub status: DeploymentStatus,
    pub from: RedriveFrom,
    /// How often it was driven anew, this time included.
    pub redrives: i32,
}

/// A letter that was left as it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SkippedLetter {
    pub id: String,
    #[schema(example = "superseded")]
    pub why: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupRedriveDocument {
    pub redriven: u64,
    pub skipped: Vec<SkippedLetter>,
    /// When the last one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_due_at: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    pub class: Option<String>,
    pub project_id: Option<String>,
    pub fingerprint: Option<String>,
    pub state: Option<String>,
    pub group: Option<String>,
    pub cursor: Option<String>,
    pub limit: Option<String>,
}

/// List dead letters.
///
/// Those of the credential's organization, newest first, in pages; or, with `group=fingerprint`, how many there are of
/// each kind. Without `state` the open ones.
#[utoipa::path(get, path = "/api/v1/dead-letters", operation_id = "listDeadLetters", tag = "dead letters", security(("bearer" = [])),
    params(("class" = Option<DeadLetterClass>, Query),
        ("projectId" = Option<String>, Query, pattern = "^[0-9a-f]{32}$"),
        ("fingerprint" = Option<String>, Query, pattern = "^[0-9a-f]{64}$"),
        ("state" = Option<String>, Query, description = "open, redriven, buried or all", pattern = "^(open|redriven|buried|all)$"),
        ("group" = Option<String>, Query, description = "fingerprint", pattern = "^fingerprint$"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-7][0-9a-f]{47}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page, or the groups", body = DeadLetterList), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsRead)?;
    let (wanted, is_grouped) = orders::filter(filter.into_inner())?;
    if is_grouped {
        let groups = door.control.dead_letter_groups(who, &wanted).await?;
        let groups = groups.into_iter().map(group).collect();
        return Ok(HttpResponse::Ok().json(DeadLetterList::Groups(DeadLetterGroups { groups })));
    }
    let limit = wanted.limit;
    let wanted = LetterFilter { limit: limit + 1, ..wanted };
    let mut rows = door.control.dead_letter_list(who, &wanted).await?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|l| page::deployment_cursor(l.created_at, &l.id));
    let dead_letters = rows.into_iter().map(letter).collect();
    Ok(HttpResponse::Ok().json(DeadLetterList::Page(DeadLetterPage { dead_letters, next_cursor })))
}

/// Show a dead letter.
///
/// With the message, every attempt and its cause, and the end of the build log.
#[utoipa::path(get, path = "/api/v1/dead-letters/{id}", operation_id = "getDeadLetter", tag = "dead letters", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The letter", body = DeadLetterDetail), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsRead)?;
    let found = door.control.dead_letter_get(who, &orders::letter_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(detail(found, who.admin)))
}

/// Drive a deployment anew.
///
/// The same deployment gets three more attempts, and keeps its place: one that a newer live one has overtaken can't be
/// driven anew. `failed_step` reuses what the steps before it left; a setting that is changed has it built again.
#[utoipa::path(post, path = "/api/v1/dead-letters/{id}/redrive", operation_id = "redriveDeadLetter", tag = "dead letters", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    request_body(content = Option<orders::RedriveBody>, content_type = "application/json"),
    responses((status = 202, description = "It waits for its next attempt", body = RedriveDocument), WriteRefusals))]
pub async fn redrive(
    caller: Caller,
    id: Path<String>,
    body: OptionalJson,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    let id = orders::letter_id(&id)?;
    let order = orders::redrive(body.0)?;
    let row = door.control.dead_letter_redrive(who, &id, order).await?;
    Ok(HttpResponse::Accepted().json(redriven(row)))
}

/// Drive a group anew.
///
/// The deployments of all open letters that match, the oldest first and at most 1000, so many a second.
#[utoipa::path(post, path = "/api/v1/dead-letters/redrive", operation_id = "redriveDeadLetters", tag = "dead letters", security(("bearer" = [])),
    request_body(content = orders::GroupRedriveBody, content_type = "application/json"),
    responses((status = 202, description = "They wait for their next attempts", body = GroupRedriveDocument), WriteRefusals))]
pub async fn redrive_group(
    caller: Caller,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    let order = orders::redrive_group(body.0)?;
    let done =
        door.control.dead_letter_redrive_group(who, order.filter, order.per_second, order.from).await?;
    Ok(HttpResponse::Accepted().json(group_redriven(done)))
}

/// Bury a dead letter.
///
/// It is closed for good, and the deployment's build variables are forgotten. Burying it again changes nothing.
#[utoipa::path(delete, path = "/api/v1/dead-letters/{id}", operation_id = "buryDeadLetter", tag = "dead letters", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 204, description = "Buried"), WriteRefusals))]
pub async fn bury(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    door.control.dead_letter_bury(who, &orders::letter_id(&id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn letter(row: DeadLetterRow) -> DeadLetter {
    DeadLetter {
        class: class_of(&row),
        failed_step: row.failed_step.as_deref().and_then(Step::parse),
        cause: serde_json::from_str(&row.cause).ok(),
        first_failed_at: time::rfc3339(row.first_failed_at),
        last_failed_at: time::rfc3339(row.last_failed_at),
        state: DeadLetterState::parse(&row.state).unwrap_or(DeadLetterState::Open),
        state_at: row.state_at.map(time::rfc3339),
        state_by: row.state_by,
        id: row.id,
        org_id: row.org_id,
        project_id: row.project_id,
        deployment_id: row.deployment_id,
        fingerprint: row.fingerprint,
        attempts: row.attempts,
    }
}

fn class_of(row: &DeadLetterRow) -> DeadLetterClass {
    DeadLetterClass::parse(&row.class).unwrap_or(DeadLetterClass::Exhausted)
}

fn group(group: LetterGroup) -> DeadLetterGroup {
    let row = group.newest;
    let cause: Option<Cause> = serde_json::from_str(&row.cause).ok();
    DeadLetterGroup {
        class: class_of(&row),
        failed_step: row.failed_step.as_deref().and_then(Step::parse),
        summary: cause.map(|cause| cause.summary).unwrap_or_default(),
        count: group.count,
        fingerprint: row.fingerprint,
        newest_id: row.id,
    }
}

fn detail(found: LetterDetail, is_operator: bool) -> DeadLetterDetail {
    let LetterDetail { letter: row, history, log_tail } = found;
    DeadLetterDetail {
        original: serde_json::from_str(&row.original).unwrap_or_default(),
        changed: row.changed.as_deref().and_then(|text| serde_json::from_str(text).ok()),
        history: history.into_iter().map(|row| attempt(row, is_operator)).collect(),
        log_tail,
        letter: letter(row),
    }
}

fn attempt(row: AttemptRow, is_operator: bool) -> AttemptDocument {
    AttemptDocument {
        redrives: row.generation,
        attempt: row.attempt,
        server: is_operator.then_some(row.server),
        started_at: time::rfc3339(row.started_at),
        ended_at: row.ended_at.map(time::rfc3339),
        outcome: row.outcome.as_deref().and_then(AttemptOutcome::parse),
        step: row.step.as_deref().and_then(Step::parse),
        cause: row.cause.as_deref().and_then(|text| serde_json::from_str(text).ok()),
    }
}

fn redriven(row: DeploymentRow) -> RedriveDocument {
    RedriveDocument {
        status: DeploymentStatus::parse(&row.status).unwrap_or(DeploymentStatus::Queued),
        from: row.resume_from.as_deref().and_then(RedriveFrom::parse).unwrap_or(RedriveFrom::Start),
        redrives: row.redrives,
        deployment_id: row.id,
    }
}

fn group_redriven(done: GroupRedriven) -> GroupRedriveDocument {
    let skipped =
        |s: crate::control::dead_letters::Skipped| SkippedLetter { id: s.id, why: s.why.to_owned() };
    GroupRedriveDocument {
        redriven: done.redriven,
        skipped: done.skipped.into_iter().map(skipped).collect(),
        last_due_at: done.last_due_at.map(time::rfc3339),
    }
}
