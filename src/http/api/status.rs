//! `GET /deploy-status`: no credential, so nothing that a stranger may not see.

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Data, Query};
use actix_web::{HttpRequest, HttpResponse};
use serde::Deserialize;

use crate::control::error::FieldProblem;
use crate::control::status::StatusDocument;
use crate::http::FrontDoor;
use crate::http::openapi::PublicRefusals;
use crate::http::problem::Problem;

#[derive(Debug, Deserialize)]
pub struct Asked {
    id: Option<String>,
}

/// Show where a deployment stands.
///
/// Needs no credential, so it shows nothing that a stranger may not see.
#[utoipa::path(get, path = "/deploy-status", operation_id = "getDeployStatus", tag = "deployments",
    params(("id" = String, Query, description = "The deploymentId", pattern = "^[0-9a-f]{32}$")),
    responses((status = 200, description = "Where it stands", body = StatusDocument), PublicRefusals))]
pub async fn get(
    req: HttpRequest,
    asked: Query<Asked>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    door.status_limit.check(&req, &door.trusted_proxies)?;
    let id = asked.into_inner().id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Problem::validation(vec![FieldProblem::new("id", "is required")]))?;
    let document = door.control.deployment_status(&id).await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(document))
}
