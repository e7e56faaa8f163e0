//! `POST /deploy`.

use actix_web::http::header;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::{deploy_body, deploy_schema};
use crate::control::line::QueuePlace;
use crate::domain::{DeploymentStatus, Scope, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::body::Json;
use crate::http::openapi::WriteRefusals;
use crate::http::problem::Problem;

/// Where to look next.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeployUrls {
    pub status: String,
    pub logs: String,
    /// Answers once the version is installed; it stays the same.
    pub preview: String,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeployAnswer {
    pub success: bool,
    pub deployment_id: String,
    /// `queued`; for a remembered Idempotency-Key the state it has now.
    pub status: DeploymentStatus,
    pub message: &'static str,
    pub timestamp: String,
    pub urls: DeployUrls,
    /// Where it stands in line; absent once it does not wait any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,
}

/// Deploy a project.
///
/// Records a deployment, which is built and goes live by itself.
#[utoipa::path(post, path = "/deploy", operation_id = "deploy", tag = "deployments", security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable characters; the same key and body within 24 h answer the same deployment", min_length = 1, max_length = 255, pattern = "^[!-~]+$")),
    request_body(content = deploy_schema::DeployBody, content_type = "application/json"),
    responses((status = 202, description = "Recorded: the sources are durable and the deployment will reach a final state",
        body = DeployAnswer, headers(("Location" = String, description = "The deployment's status"))), WriteRefusals))]
pub async fn post(
    req: HttpRequest,
    caller: Caller,
    body: Json,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let who = caller.with(Scope::DeploymentsWrite)?;
    let key = deploy_body::idempotency_key(&req)?;
    let request = deploy_body::read(body.0, key, &door.control.settings)?;
    let row = door.control.deployment_create(who, request).await?;
    let project = door.control.store.project_of_deployment(&row.org_id, &row.project_id).await;
    let worker =
        project.map_err(crate::control::ControlError::from)?.map(|p| p.worker_name).unwrap_or_default();
    let queue = door.control.queue_join(&row).await;
    let base = door.control.addresses.platform();
    let status_path = format!("/deploy-status?id={}", row.id);
    Ok(HttpResponse::Accepted().insert_header((header::LOCATION, status_path.clone())).json(DeployAnswer {
        success: true,
        status: DeploymentStatus::parse(&row.status).unwrap_or(DeploymentStatus::Queued),
        message: "Deployment queued successfully",
        timestamp: time::rfc3339(row.created_at),
        queue,
        urls: DeployUrls {
            status: format!("{base}{status_path}"),
            logs: format!("{base}/api/v1/deployments/{}/logs", row.id),
            preview: door.control.preview_url(&row.id, &worker).unwrap_or_default(),
        },
        deployment_id: row.id,
    }))
}
