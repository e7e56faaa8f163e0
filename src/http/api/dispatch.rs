//! `GET /dispatch` without a Worker's name: what there is to dispatch to. With one, the edge has answered before.

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::domain::time;
use crate::http::FrontDoor;
use crate::http::edge::dispatch::names_worker;
use crate::http::problem::Problem;
use crate::http::surface;

/// Of the one namespace that there is.
pub const NAMESPACE: &str = "libra-dispatcher";

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Namespace)]
pub struct NamespaceDocument {
    #[schema(example = "Libra Dispatcher")]
    pub service: &'static str,
    #[schema(example = "libra-dispatcher")]
    pub namespace: &'static str,
    /// `available`, or `unavailable` until the routes are loaded.
    #[schema(example = "available")]
    pub status: &'static str,
    pub timestamp: String,
    pub request_id: String,
}

pub async fn namespace(req: HttpRequest, door: Data<FrontDoor>) -> Result<HttpResponse, Problem> {
    // Only where `dispatch.path_routing` is off does a named Worker come this far.
    if names_worker(req.query_string()) {
        return Err(Problem::not_found());
    }
    let document = NamespaceDocument {
        service: "Libra Dispatcher",
        namespace: NAMESPACE,
        status: if door.tables.is_loaded() { "available" } else { "unavailable" },
        timestamp: time::now(),
        request_id: surface::request_id(&req).as_str().to_owned(),
    };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(document))
}
