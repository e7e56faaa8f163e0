//! The OpenAPI document: every route, schema, error, example and security scheme.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::{api, docs, health};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Libra",
        description = "Deploys web projects from source to a live address, and serves them.\n\n\
            Every answer carries `X-Request-Id`. Every error is JSON of the schema `Error`: `code` is stable, \
            `message` says what to do next.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        api::deploy::post,
        api::status::get,
        api::projects::create,
        api::projects::list,
        api::projects::get,
        api::files::get,
        api::files::put,
        api::deployments::list,
        api::deployments::get,
        api::deployments::cancel,
        api::streams::logs,
        api::streams::events,
        health::info,
        health::health,
        health::detailed,
        health::livez,
        health::readyz,
        docs::openapi,
        docs::page,
        docs::favicon,
    ),
    components(schemas(super::problem::ErrorBody)),
    modifiers(&Bearer),
    tags(
        (name = "deployments", description = "Record deployments, follow and cancel them"),
        (name = "projects", description = "Projects and their stored source"),
        (name = "service", description = "Information, health, documentation")
    )
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token made by `libra tokens create`, or the one in bootstrap.json in development.",
            ))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.security_schemes.insert("bearer".to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    }
}

/// The document as JSON.
///
/// # Errors
/// If it can't be written, which a test rules out.
pub fn document() -> Result<String, serde_json::Error> {
    Document::openapi().to_json()
}

/// Refusals of endpoints that anybody may ask.
pub struct PublicRefusals;
/// Refusals of endpoints that read with a credential.
pub struct ReadRefusals;
/// Refusals of endpoints that take a body with a credential.
pub struct WriteRefusals;

const BAD: (u16, &str, &str, &str) =
    (400, "VALIDATION_ERROR", "Validation failed", "The request is malformed; `details` names each field.");
const UNAUTHORIZED: (u16, &str, &str, &str) =
    (401, "UNAUTHORIZED", "Authentication required", "No valid credential.");
const FORBIDDEN: (u16, &str, &str, &str) = (403, "FORBIDDEN", "Forbidden", "The credential may not do this.");
const NOT_FOUND: (u16, &str, &str, &str) =
    (404, "NOT_FOUND", "Not found", "There is no such thing in this organization.");
const CONFLICT: (u16, &str, &str, &str) =
    (409, "CONFLICT", "Conflict", "The state of things does not allow it.");
const TOO_LARGE: (u16, &str, &str, &str) =
    (413, "REQUEST_TOO_LARGE", "Request too large", "The body, or what it asks for, is too large.");
const UNTYPED: (u16, &str, &str, &str) =
    (415, "CONTENT_TYPE_REQUIRED", "Content-Type required", "The body is not declared as JSON.");
const LIMITED: (u16, &str, &str, &str) = (
    429,
    "RATE_LIMITED",
    "Rate limit exceeded",
    "Too many requests, or the plan is used up; see `Retry-After`.",
);
const HEADERS: (u16, &str, &str, &str) =
    (431, "REQUEST_TOO_LARGE", "Request headers too large", "The header block is too large.");
const INTERNAL: (u16, &str, &str, &str) =
    (500, "INTERNAL_ERROR", "Internal server error", "The platform failed.");
const AWAY: (u16, &str, &str, &str) = (
    503,
    "DATABASE_ERROR",
    "Database connection failed",
    "A part of the platform does not answer; try again.",
);

impl IntoResponses for PublicRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[BAD, NOT_FOUND, LIMITED, HEADERS, INTERNAL, AWAY])
    }
}

impl IntoResponses for ReadRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[BAD, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TOO_LARGE, LIMITED, HEADERS, INTERNAL, AWAY])
    }
}

impl IntoResponses for WriteRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        responses(&[
            BAD,
            UNAUTHORIZED,
            FORBIDDEN,
            NOT_FOUND,
            CONFLICT,
            TOO_LARGE,
            UNTYPED,
            LIMITED,
            HEADERS,
            INTERNAL,
            AWAY,
        ])
    }
}

fn responses(list: &[(u16, &str, &str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    list.iter()
        .map(|(status, code, error, description)| {
            let example = json!({
                "success": false,
                "error": error,
                "code": code,
                "message": description,
                "requestId": "0f8fad5bd9cb469fa16570867728950e",
                "timestamp": "2025-07-22T10:30:00.000Z",
            });
            let content = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Error")))
                .example(Some(example))
                .build();
            let response =
                ResponseBuilder::new().description(*description).content("application/json", content).build();
            (status.to_string(), RefOr::T(response))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_document_is_openapi_3_1_with_all_routes() {
        let text = super::document().unwrap();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for path in super::super::api::PATHS {
            assert!(document["paths"].get(path).is_some(), "{path} is not in the document");
        }
        assert_eq!(document["paths"].as_object().unwrap().len(), super::super::api::PATHS.len());
    }
}
