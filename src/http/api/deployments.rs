//! `/api/v1/deployments`: with a credential, so with everything a member may see.

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Data, Path, Query};
use serde::{Deserialize, Serialize};

use super::page;
use crate::control::ControlError;
use crate::control::status::StatusDocument;
use crate::domain::{Cause, DeploymentId, DeploymentStatus, ProjectId, Scope, Target, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::fields::Problems;
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::deployments::{DeploymentFilter, DeploymentRow};

/// One deployment in a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentSummary {
    pub id: String,
    pub project_id: String,
    pub org_id: String,
    pub user_id: String,
    pub target: Target,
    pub status: DeploymentStatus,
    pub seq: i64,
    pub attempt: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_domain: Option<String>,
    pub created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// With `evidence`, which only members see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// One deployment, whole.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeploymentDetail {
    pub deployment: DeploymentSummary,
    /// A name of the table of frameworks, `plain`, `script` or `command`; once it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    /// What it was recognised by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign: Option<String>,
    pub state: StatusDocument,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentPage {
    pub deployments: Vec<DeploymentSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    project_id: Option<String>,
    status: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// List deployments.
///
/// Those of the credential's organization, newest first, in pages.
#[utoipa::path(get, path = "/api/v1/deployments", operation_id = "listDeployments", tag = "deployments", security(("bearer" = [])),
    params(("projectId" = Option<String>, Query, pattern = "^[0-9a-f]{32}$"),
        ("status" = Option<DeploymentStatus>, Query),
        ("cursor" = Option<String>, Query, description = "The nextCursor of the page before", pattern = "^[0-7][0-9a-f]{47}$"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100)),
    responses((status = 200, description = "One page", body = DeploymentPage), ReadRefusals))]
pub async fn list(
    caller: Caller,
    filter: Query<Filter>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsRead)?;
    let filter = read(filter.into_inner())?;
    let limit = filter.limit;
    let wanted = DeploymentFilter { limit: limit + 1, ..filter };
    let rows = door.control.store.deployment_list(&who.scope(), &wanted).await;
    let mut rows = rows.map_err(ControlError::from)?;
    let more = rows.len() as u64 > limit;
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_cursor = rows.last().filter(|_| more).map(|d| page::deployment_cursor(d.created_at, &d.id));
    let deployments = rows.into_iter().map(summary).collect();
    Ok(HttpResponse::Ok().json(DeploymentPage { deployments, next_cursor }))
}

/// Show a deployment.
#[utoipa::path(get, path = "/api/v1/deployments/{id}", operation_id = "getDeployment", tag = "deployments", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "The deployment", body = DeploymentDetail), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let row = visible(&caller, &id, &door).await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(detail(row, &door).await?))
}

/// Cancel a deployment.
///
/// At once while it waits, else as soon as its process tree is dead. Too late once it is live.
#[utoipa::path(post, path = "/api/v1/deployments/{id}/cancel", operation_id = "cancelDeployment", tag = "deployments", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 202, description = "Cancelled, or asked to stop: see state", body = DeploymentDetail), WriteRefusals))]
pub async fn cancel(
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    let row = door.control.deployment_cancel(who, &deployment_id(&id)?).await?;
    Ok(HttpResponse::Accepted().json(detail(row, &door).await?))
}

async fn detail(row: DeploymentRow, door: &FrontDoor) -> Result<DeploymentDetail, Problem> {
    let state = door.control.deployment_status(&row.id).await?;
    let recognised = door.control.deployment_recognised(&row.id).await?;
    let (framework, sign) = recognised.map(|r| (r.framework, r.sign)).unzip();
    Ok(DeploymentDetail { deployment: summary(row), framework, sign, state })
}

/// The deployment, if the caller's organization has it.
pub async fn visible(caller: &Caller, id: &str, door: &FrontDoor) -> Result<DeploymentRow, Problem> {
    let who = caller.with(Scope::DeploymentsRead)?;
    let found = door.control.store.deployment_get(&who.scope(), &deployment_id(id)?).await;
    found.map_err(ControlError::from)?.ok_or_else(|| ControlError::DeploymentNotFound.into())
}

/// A malformed id is as unknown as a wrong one.
fn deployment_id(text: &str) -> Result<DeploymentId, Problem> {
    DeploymentId::parse(text).map_err(|_| ControlError::DeploymentNotFound.into())
}

fn read(filter: Filter) -> Result<DeploymentFilter, Problem> {
    let mut problems = Problems::default();
    let limit = page::length(filter.limit.as_deref(), &mut problems);
    let project = filter
        .project_id
        .as_deref()
        .and_then(|p| ProjectId::parse(p).map_err(|e| problems.add("projectId", e.to_string())).ok());
    let status = filter.status.as_deref().and_then(|s| {
        let parsed = DeploymentStatus::parse(s);
        if parsed.is_none() {
            problems.add("status", "must be queued, in_progress, completed, failed or cancelled");
        }
        parsed
    });
    let cursor = filter.cursor.as_deref().and_then(|c| page::before_deployment(c, &mut problems));
    let before = cursor.map(|(at, id)| (at, id.to_string()));
    if problems.is_empty() {
        Ok(DeploymentFilter { project, status, before, limit })
    } else {
        Err(Problem::validation(problems.into_details()))
    }
}

fn summary(row: DeploymentRow) -> DeploymentSummary {
    DeploymentSummary {
        target: Target::parse(&row.target).unwrap_or(Target::Production),
        status: DeploymentStatus::parse(&row.status).unwrap_or(DeploymentStatus::Queued),
        cause: row.cause.as_deref().and_then(|c| serde_json::from_str(c).ok()),
        created_at: time::rfc3339(row.created_at),
        finished_at: row.finished_at.map(time::rfc3339),
        id: row.id,
        project_id: row.project_id,
        org_id: row.org_id,
        user_id: row.user_id,
        seq: row.seq,
        attempt: row.attempt,
        branch: row.branch,
        commit: row.commit_ref,
        message: row.message,
        custom_domain: row.custom_domain,
    }
}
