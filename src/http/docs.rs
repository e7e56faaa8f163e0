//! The documentation page and what it needs, all served by us: no third party is asked.

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Data};
use serde_json::json;

use super::FrontDoor;
use super::openapi::PublicRefusals;

/// Where the page's script lies; the pinned package is part of the program.
pub const SCRIPT_PATH: &str = "/docs/scalar.js";

/// The OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", operation_id = "getOpenApi", tag = "service",
    responses((status = 200, description = "The OpenAPI 3.1 document", content_type = "application/json", body = serde_json::Value), PublicRefusals))]
pub async fn openapi(door: Data<FrontDoor>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60")))
        .content_type("application/json")
        .body(door.openapi.clone())
}

/// The documentation for people.
#[utoipa::path(get, path = "/docs", operation_id = "getDocs", tag = "service",
    responses((status = 200, description = "A page that shows the OpenAPI document", content_type = "text/html", body = String), PublicRefusals))]
pub async fn page() -> HttpResponse {
    let nonce = crate::domain::id::random();
    let config = json!({
        "url": "/openapi.json",
        "pageTitle": "Libra API",
        "withDefaultFonts": false,
        "telemetry": false,
        // Its buttons would hand the document to Scalar's own services.
        "showDeveloperTools": "never",
        "hideClientButton": true,
        "agent": { "disabled": true },
    });
    let body = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Libra API</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"></head><body><div id=\"app\"></div>\
         <script nonce=\"{nonce}\" src=\"{SCRIPT_PATH}\"></script>\
         <script nonce=\"{nonce}\">Scalar.createApiReference('#app', {config})</script></body></html>"
    );
    // `'self'` would let a Worker's script that is served beneath this origin run here.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src 'self' data:; \
         font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HttpResponse::Ok()
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .content_type("text/html; charset=utf-8")
        .body(body)
}

/// The page's script; not part of the documented surface.
pub async fn script() -> HttpResponse {
    match scalar_api_reference::get_asset("scalar.js") {
        Some(script) => HttpResponse::Ok()
            .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")))
            .content_type("text/javascript; charset=utf-8")
            .body(Bytes::from(script)),
        None => HttpResponse::NotFound().finish(),
    }
}

const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><path d=\"M16 4v22M8 26h16M6 9h20M6 9l-4 9a4 4 0 0 0 8 0zm20 0l-4 9a4 4 0 0 0 8 0z\" fill=\"none\" stroke=\"#5b5bd6\" stroke-width=\"2.4\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>";

/// The icon.
#[utoipa::path(get, path = "/favicon.ico", operation_id = "getIcon", tag = "service",
    responses((status = 200, description = "The icon, as SVG", content_type = "image/svg+xml", body = String), PublicRefusals))]
pub async fn favicon() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400")))
        .content_type("image/svg+xml")
        .body(ICON)
}
