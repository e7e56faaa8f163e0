//! What operators set of organizations: their share of the queue.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use serde::Serialize;

use crate::domain::{OrgId, Scope};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::fields::{Fields, Problems};
use crate::http::openapi::{ReadRefusals, WriteRefusals};
use crate::http::problem::Problem;
use crate::store::shares::{MOST_RUNNING, MOST_WEIGHT, ShareSet};

#[derive(utoipa::ToSchema)]
#[schema(as = QueueShareRequest)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "documents the request; `put` is its one reader")]
struct ShareBody {
    /// Deployments of one turn; 1 unless it is set.
    #[schema(minimum = 1, maximum = 100, example = 2)]
    weight: Option<i32>,
    /// Deployments that may run at once; `queue.organization_running` unless it is set.
    #[schema(minimum = 1, maximum = 10_000, example = 4)]
    running_limit: Option<i32>,
    /// The same of each project; `queue.project_running` unless it is set.
    #[schema(minimum = 1, maximum = 10_000, example = 1)]
    project_limit: Option<i32>,
}

/// An organization's share of the queue. Limits that are not set are those of the settings.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QueueShare)]
pub struct ShareDocument {
    pub org_id: String,
    #[schema(minimum = 1, maximum = 100)]
    pub weight: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_limit: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project_limit: Option<i32>,
}

/// Show an organization's share of the queue.
///
/// With an operator's credential.
#[utoipa::path(get, path = "/api/v1/organizations/{id}/queue", operation_id = "getQueueShare", tag = "organizations", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "Its share", body = ShareDocument), ReadRefusals))]
pub async fn get(caller: Caller, id: Path<String>, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsRead)?;
    let org = org_id(&id)?;
    let share = door.control.share_get(who, &org).await?.ok_or_else(Problem::not_found)?;
    Ok(HttpResponse::Ok().json(document(&org, share)))
}

/// Set an organization's share of the queue.
///
/// With an operator's credential. What the body does not name is as if it was never set. Counts from the next
/// slot on.
#[utoipa::path(put, path = "/api/v1/organizations/{id}/queue", operation_id = "setQueueShare", tag = "organizations", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$")),
    request_body(content = ShareBody, content_type = "application/json"),
    responses((status = 200, description = "Set", body = ShareDocument), WriteRefusals))]
pub async fn put(
    caller: Caller,
    id: Path<String>,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    let org = org_id(&id)?;
    let mut problems = Problems::default();
    let mut share = ShareSet::default();
    if let Some(mut fields) = Fields::of(body.0, "", &mut problems) {
        share.weight = number(&mut fields, "weight", MOST_WEIGHT, &mut problems).unwrap_or(share.weight);
        share.running_limit = number(&mut fields, "runningLimit", MOST_RUNNING, &mut problems);
        share.project_limit = number(&mut fields, "projectLimit", MOST_RUNNING, &mut problems);
        fields.finish(&mut problems);
    }
    if !problems.is_empty() {
        return Err(Problem::validation(problems.into_details()));
    }
    let share = door.control.share_set(who, &org, share).await?.ok_or_else(Problem::not_found)?;
    Ok(HttpResponse::Ok().json(document(&org, share)))
}

fn org_id(id: &str) -> Result<OrgId, Problem> {
    OrgId::parse(id).map_err(|_| Problem::not_found())
}

fn number(fields: &mut Fields, field: &str, most: i32, problems: &mut Problems) -> Option<i32> {
    let value = fields.take(field)?;
    // JSON knows one kind of number: 4.0 is a whole one too.
    let whole = value.as_f64().filter(|n| n.fract() == 0.0 && (1.0..=f64::from(most)).contains(n));
    let number = whole.map(|n| n as i32);
    if number.is_none() {
        problems.add(fields.name(field), format!("must be a whole number from 1 to {most}"));
    }
    number
}

fn document(org: &OrgId, share: ShareSet) -> ShareDocument {
    ShareDocument {
        org_id: org.to_string(),
        weight: share.weight,
        running_limit: share.running_limit,
        project_limit: share.project_limit,
    }
}
