//! Workers: which an organization has and what each serves, and the origins that an operator registers.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path, Query};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::live::Split;
use super::page;
use super::projects::project_id;
use crate::control::upstreams::{Registration, Upstream};
use crate::domain::{Scope, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::routes::LiveRow;

/// A Worker and what it serves.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Worker {
    pub name: String,
    pub project_id: String,
    pub url: String,
    /// `nothing` until the first deployment is live; `upstream` wins over what is deployed.
    pub serves: Serves,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serves {
    Nothing,
    Version,
    Split,
    Upstream,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPage {
    pub workers: Vec<Worker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Filter {
    cursor: Option<String>,
    limit: Option<String>,
}

#[derive(utoipa::ToSchema)]
#[schema(as = UpstreamRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `put` is its one reader")]
struct UpstreamBody {
    /// `http://host[:port]`, `https://host[:port]` or `unix:/absolute/path`; at most `upstream.max_origins` (16).
    /// Public addresses, and what `upstream.allowed_networks` and `upstream.unix_directories` name.
    #[schema(min_items = 1, max_items = 16, example = json!(["https://app.example.com", "http://app.example.net:3000"]))]
    origins: Vec<String>,
    /// What differs from the settings of `[upstream]`, with the names of the answer's `policy`.
    #[schema(value_type = Option<Object>, example = json!({ "health": { "path": "/up", "intervalMs": 2000 }, "hostHeader": "origin" }))]
    policy: Option<Value>,
    /// Certificates in PEM of the authorities that `https://` origins' own must lead to, instead of this machine's; at
    /// most `upstream.ca_bytes` (64 KiB) and 32 of them.
    #[schema(
        max_length = 65_536,
        example = "-----BEGIN CERTIFICATE-----\nMIIB…\n-----END CERTIFICATE-----\n"
    )]
    ca: Option<String>,
}

/// The origins that answer for a Worker.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Upstream)]
pub struct UpstreamDocument {
    pub id: String,
    pub project_id: String,
    /// In their stored form.
    pub origins: Vec<String>,
    /// As it is in force, the settings' values included. Times in ms.
    #[schema(value_type = Object)]
    pub policy: Value,
    /// The authorities that they were registered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    pub created_at: String,
    pub updated_at: String,
    /// Of the routes that show it.
    pub epoch: i64,
    /// Whether the server that answers shows it already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visible: Option<bool>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UpstreamRemoval {
    /// Whether the server that answers shows it already.
    pub visible: bool,
}

/// List Workers.
///
/// Those of the credential's organization, in pages.
#[utoipa::path(get, path = "/api/v1/workers", operation_id = "listWorkers", tag = "workers", security(("bearer" = [])),
    params(("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-9a-f]{32}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = WorkerPage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let after = filter.cursor.as_deref().and_then(|c| page::after_project(c, &mut problems));
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let mut rows = door.control.worker_list(&who.scope(), after.as_ref(), limit + 1).await?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|row| row.project_id.clone());
    let workers = rows.into_iter().map(|row| worker(&door, row)).collect();
    Ok(HttpResponse::Ok().json(WorkerPage { workers, next_cursor }))
}

/// Show a Worker's origins.
///
/// With an operator's credential.
#[utoipa::path(get, path = "/api/v1/projects/{id}/upstream", operation_id = "getUpstream", tag = "workers", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The origins and their policy", body = UpstreamDocument), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsRead)?;
    let upstream = door.control.upstream_get(who, &project_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(document(upstream, None)))
}

/// Register a Worker's origins.
///
/// With an operator's credential. They answer for the Worker from now on, whatever is deployed.
#[utoipa::path(put, path = "/api/v1/projects/{id}/upstream", operation_id = "setUpstream", tag = "workers", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    request_body(content = UpstreamBody, content_type = "application/json"),
    responses((status = 200, description = "Registered", body = UpstreamDocument), WriteRefusals))]
pub async fn put(
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsWrite)?;
    let id = project_id(&id)?;
    let mut problems = Problems::default();
    let mut wanted = Registration { origins: Vec::new(), policy: Map::new(), ca: None };
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        wanted.origins = texts(fields.list("origins", &mut problems).unwrap_or_default(), &mut problems);
        wanted.policy = fields.object("policy", &mut problems).map(Fields::into_entries).unwrap_or_default();
        wanted.ca = fields.text("ca", door.control.settings.upstream.ca_bytes, &mut problems);
        fields.finish(&mut problems);
    }
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let shown = door.control.upstream_set(who, &id, wanted).await?;
    Ok(HttpResponse::Ok().json(document(shown.change, Some(shown.visible))))
}

/// Remove a Worker's origins.
///
/// With an operator's credential. The Worker serves what is deployed again. Where none are registered, nothing is done.
#[utoipa::path(delete, path = "/api/v1/projects/{id}/upstream", operation_id = "removeUpstream", tag = "workers", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "Removed", body = UpstreamRemoval), WriteRefusals))]
pub async fn delete(
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::ProjectsWrite)?;
    let visible = door.control.upstream_remove(who, &project_id(&id)?).await?;
    Ok(HttpResponse::Ok().json(UpstreamRemoval { visible }))
}

fn texts(list: Vec<Value>, problems: &mut Problems) -> Vec<String> {
    let mut texts = Vec::with_capacity(list.len());
    for (at, value) in list.into_iter().enumerate() {
        match value {
            Value::String(text) => texts.push(text),
            _ => problems.add(format!("origins[{at}]"), "must be a string"),
        }
    }
    texts
}

fn worker(door: &FrontDoor, row: LiveRow) -> Worker {
    let serves = match (&row.upstream, &row.split, &row.version_id) {
        (Some(_), _, _) => Serves::Upstream,
        (None, Some(_), _) => Serves::Split,
        (None, None, Some(_)) => Serves::Version,
        (None, None, None) => Serves::Nothing,
    };
    Worker {
        url: door.control.addresses.worker(&row.worker_name),
        name: row.worker_name,
        project_id: row.project_id,
        serves,
        version_id: row.version_id,
        split: row.split.map(Split::from),
    }
}

fn document(upstream: Upstream, visible: Option<bool>) -> UpstreamDocument {
    UpstreamDocument {
        id: upstream.id,
        project_id: upstream.project_id,
        origins: upstream.origins.iter().map(ToString::to_string).collect(),
        // A struct of numbers and texts always becomes JSON.
        policy: serde_json::to_value(&upstream.policy).unwrap_or_default(),
        ca: upstream.ca,
        created_at: time::rfc3339(upstream.created_at),
        updated_at: time::rfc3339(upstream.updated_at),
        epoch: upstream.epoch,
        visible,
    }
}
