//! What is live on a project's Worker: its versions, rollback, promotion and split.

use actix_web::web::{Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::projects::project_id;
use super::{deploy_body, page};
use crate::control::live::Shown;
use crate::domain::{Digest, ProjectId, Scope, Target, VersionId, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::{Json, OptionalJson};
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::routes::{SplitRow, VersionRow};
use crate::store::versions::{LiveChange, LiveOrder, LiveState};

/// A version that is kept.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    pub id: String,
    pub deployment_id: String,
    /// What its deployment was for; a preview's version can be promoted too.
    pub target: Target,
    /// Its deployment's number.
    pub seq: i64,
    pub created_at: String,
    pub live: bool,
    /// Of a hundred clients, so many get it beside the live one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 99)]
    pub split_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview_url: Option<String>,
    /// Bytes of the pack, compressed copies included.
    pub size: i64,
    pub files: i64,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionPage {
    pub versions: Vec<Version>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    cursor: Option<String>,
    limit: Option<String>,
}

/// A version that shares the clients with the live one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    pub version_id: String,
    /// Of a hundred clients, so many get it.
    #[schema(minimum = 1, maximum = 99)]
    pub percent: u8,
}

/// What a Worker's clients get.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Live)]
pub struct LiveDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// A change of what is live.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = LiveChange)]
pub struct LiveChangeDocument {
    pub project_id: String,
    /// The number of what is live now: deployments recorded before it don't go live any more.
    pub seq: i64,
    /// Of the routes that show it.
    pub epoch: i64,
    /// Whether the server that answers shows it already; it stands either way.
    pub visible: bool,
    pub before: LiveDocument,
    pub now: LiveDocument,
    /// The live address.
    pub url: String,
}

#[derive(utoipa::ToSchema)]
#[schema(as = RollbackRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `rollback` is its one reader")]
struct RollbackBody {
    /// Without it: what was live before, never again what was rolled back from. Name it where a request may be sent twice.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    version_id: Option<String>,
}

#[derive(utoipa::ToSchema)]
#[schema(as = PromoteRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `promote` is its one reader")]
struct PromoteBody {
    #[schema(pattern = "^[0-9a-f]{32}$")]
    version_id: String,
}

#[derive(utoipa::ToSchema)]
#[schema(as = SplitRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `split` is its one reader")]
struct SplitBody {
    #[schema(pattern = "^[0-9a-f]{32}$")]
    version_id: String,
    /// Of a hundred clients, so many get this version instead of the live one.
    #[schema(minimum = 1, maximum = 99, example = 10)]
    percent: u8,
}

/// List versions.
///
/// Those that are kept, newest first: each answers on its preview address and can be put live at once.
#[utoipa::path(get, path = "/api/v1/projects/{id}/versions", operation_id = "listVersions", tag = "versions", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-7][0-9a-f]{47}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = VersionPage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    id: Path<String>,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let cursor = filter.cursor.as_deref().and_then(|c| page::before_deployment(c, &mut problems));
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let before = cursor.map(|(at, id)| (at, id.to_string()));
    let mut list =
        door.control.version_list(&who.scope(), &project_id(&id)?, before.as_ref(), limit + 1).await?;
    let more = list.versions.len() as u64 > limit;
    list.versions.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let last = list.versions.last().filter(|_| more);
    let next_cursor = last.map(|v| page::deployment_cursor(v.created_at, &v.id));
    let shown = |row| version(&door, row, &list.live, &list.project.worker_name);
    let versions = list.versions.into_iter().map(shown).collect();
    Ok(HttpResponse::Ok().json(VersionPage { versions, next_cursor }))
}

/// Roll back.
///
/// At once, without a build. A deployment that was recorded before and finishes later does not go live; one
/// that is recorded from now on does. Ends a split.
#[utoipa::path(post, path = "/api/v1/projects/{id}/rollback", operation_id = "rollback", tag = "versions", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters; the same key and request within 24 h are answered as they were, and change nothing more", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = Option<RollbackBody>, content_type = "application/json"),
    responses((status = 200, description = "The earlier version is live", body = LiveChangeDocument), WriteRefusals))]
pub async fn rollback(
    req: HttpRequest,
    caller: Caller,
    id: Path<String>,
    body: OptionalJson,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let body = body.0.unwrap_or(Value::Object(Map::new()));
    let read = |fields: &mut Fields, problems: &mut Problems| {
        Some(LiveOrder::Rollback { to: optional_version(fields, problems) })
    };
    let key = key_of(&req, "rollback", &id, &body)?;
    change(&caller, &id, body, key, &door, read).await
}

/// Promote a version.
///
/// Any version that is kept goes live, a preview's too. Ends a split.
#[utoipa::path(post, path = "/api/v1/projects/{id}/promote", operation_id = "promote", tag = "versions", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters; the same key and request within 24 h are answered as they were, and change nothing more", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = PromoteBody, content_type = "application/json"),
    responses((status = 200, description = "The version is live", body = LiveChangeDocument), WriteRefusals))]
pub async fn promote(
    req: HttpRequest,
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let read = |fields: &mut Fields, problems: &mut Problems| {
        let version = fields.parsed("versionId", VersionId::parse, problems)?;
        Some(LiveOrder::Promote { version })
    };
    let key = key_of(&req, "promote", &id, &body.0)?;
    change(&caller, &id, body.0, key, &door, read).await
}

/// Split the clients.
///
/// A part of them gets another version than the live one, and stays with it. Whatever goes live ends the split.
#[utoipa::path(put, path = "/api/v1/projects/{id}/split", operation_id = "setSplit", tag = "versions", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters; the same key and request within 24 h are answered as they were, and change nothing more", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = SplitBody, content_type = "application/json"),
    responses((status = 200, description = "The split is in force", body = LiveChangeDocument), WriteRefusals))]
pub async fn split(
    req: HttpRequest,
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let read = |fields: &mut Fields, problems: &mut Problems| {
        let version = fields.parsed("versionId", VersionId::parse, problems);
        let percent = percent(fields, problems);
        Some(LiveOrder::Split { version: version?, percent: percent? })
    };
    let key = key_of(&req, "split", &id, &body.0)?;
    change(&caller, &id, body.0, key, &door, read).await
}

/// End the split.
///
/// All clients get the live version again. Takes no number: what waits to go live still does.
#[utoipa::path(delete, path = "/api/v1/projects/{id}/split", operation_id = "endSplit", tag = "versions", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The split has ended", body = LiveChangeDocument), WriteRefusals))]
pub async fn split_end(
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let body = Value::Object(Map::new());
    change(&caller, &id, body, None, &door, |_, _| Some(LiveOrder::SplitEnd)).await
}

/// The caller's key, if there is one, and the digest of what it stands for.
fn key_of(
    req: &HttpRequest,
    order: &str,
    project: &str,
    body: &Value,
) -> Result<Option<(String, String)>, Problem> {
    let key = deploy_body::idempotency_key(req)?;
    // With a word that no body of a deployment has, so that neither stands for the other.
    let whole = json!({ "liveOrder": order, "projectId": project, "body": body });
    Ok(key.map(|key| (key, Digest::of(deploy_body::canonical(&whole).as_bytes()).to_string())))
}

/// Reads an order, has it carried out and shows what came of it.
async fn change(
    caller: &Caller,
    id: &str,
    body: Value,
    key: Option<(String, String)>,
    door: &FrontDoor,
    read: impl FnOnce(&mut Fields, &mut Problems) -> Option<LiveOrder>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsWrite)?;
    let id = project_id(id)?;
    let project = door.control.project_get(&who.scope(), &id).await?;
    let mut problems = Problems::default();
    let mut order = None;
    if let Some(mut fields) = Fields::of(body, "", &mut problems) {
        order = read(&mut fields, &mut problems);
        fields.finish(&mut problems);
    }
    let Some(order) = order.filter(|_| problems.is_empty()) else {
        return Err(Problem::validation(problems.into_details()));
    };
    let shown = door.control.live_change(who, &id, order, key).await?;
    let url = door.control.addresses.worker(&project.worker_name);
    Ok(HttpResponse::Ok().json(changed(&id, shown, url)))
}

fn changed(id: &ProjectId, shown: Shown<LiveChange>, url: String) -> LiveChangeDocument {
    let Shown { change, visible } = shown;
    LiveChangeDocument {
        project_id: id.to_string(),
        seq: change.seq,
        epoch: change.epoch,
        visible,
        before: live(change.before),
        now: live(change.now),
        url,
    }
}

fn live(state: LiveState) -> LiveDocument {
    LiveDocument { version_id: state.version_id, split: state.split.map(Split::from) }
}

impl From<SplitRow> for Split {
    fn from(row: SplitRow) -> Self {
        Self { version_id: row.version_id, percent: row.percent }
    }
}

fn version(door: &FrontDoor, row: VersionRow, live: &LiveState, worker: &str) -> Version {
    let split = live.split.as_ref().filter(|split| split.version_id == row.id);
    Version {
        live: live.version_id.as_ref() == Some(&row.id),
        split_percent: split.map(|split| split.percent),
        preview_url: door.control.preview_url(&row.deployment_id, worker),
        target: Target::parse(&row.target).unwrap_or(Target::Production),
        created_at: time::rfc3339(row.created_at),
        id: row.id,
        deployment_id: row.deployment_id,
        seq: row.seq,
        size: row.pack_size,
        files: row.file_count,
    }
}

fn optional_version(fields: &mut Fields, problems: &mut Problems) -> Option<VersionId> {
    let text = fields.text("versionId", 1_000, problems)?;
    VersionId::parse(&text).map_err(|e| problems.add("versionId", e.to_string())).ok()
}

fn percent(fields: &mut Fields, problems: &mut Problems) -> Option<u8> {
    let value = fields.take("percent");
    // JSON knows one kind of number: 57.0 is a whole one too.
    let whole = |value: &Value| value.as_f64().filter(|n| n.fract() == 0.0 && (1.0..=99.0).contains(n));
    let number = value.as_ref().and_then(whole).map(|n| n as u8);
    let percent = number.filter(|n| (1..=99).contains(n));
    if percent.is_none() {
        let message = if value.is_none() { "is required" } else { "must be a whole number from 1 to 99" };
        problems.add("percent", message);
    }
    percent
}
