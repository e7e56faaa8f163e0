//! The OpenAPI document: every route, schema, error, example and security scheme.

mod dispatch;

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::Link;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::SchemaType;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, Schema, Type};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::{api, docs, health};
use dispatch::Dispatch;

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
        api::projects::change,
        api::projects::list_templates,
        api::files::get,
        api::files::put,
        api::certificates::list,
        api::live::list,
        api::live::rollback,
        api::live::promote,
        api::live::split,
        api::live::split_end,
        api::upstreams::list,
        api::upstreams::get,
        api::upstreams::put,
        api::upstreams::delete,
        api::routes::get,
        api::deployments::list,
        api::deployments::get,
        api::deployments::cancel,
        api::dead_letters::list,
        api::dead_letters::get,
        api::dead_letters::redrive,
        api::dead_letters::redrive_group,
        api::dead_letters::bury,
        api::streams::logs,
        api::streams::events,
        api::domains::add,
        api::domains::list,
        api::domains::get,
        api::domains::verify,
        api::domains::remove,
        api::organizations::get,
        api::organizations::put,
        health::info,
        health::health,
        health::detailed,
        health::livez,
        health::readyz,
        docs::openapi,
        docs::page,
        docs::favicon,
    ),
    components(schemas(super::problem::ErrorBody, api::InitFileBody, api::dispatch::NamespaceDocument)),
    modifiers(&Dispatch, &Bearer, &Parameters, &EveryAnswer, &Links),
    tags(
        (name = "deployments", description = "Record deployments, follow and cancel them"),
        (name = "dead letters", description = "What nobody tries again by itself: look, drive anew, bury"),
        (name = "certificates", description = "How custom domains get their certificates"),
        (name = "versions", description = "What is live: roll back, promote, split"),
        (name = "workers", description = "Workers, and those that an operator's origins answer for"),
        (name = "dispatch", description = "Workers by path and query of the platform's own host"),
        (name = "projects", description = "Projects and their stored source"),
        (name = "domains", description = "Custom domains: claim, prove, remove"),
        (name = "organizations", description = "What operators set of organizations"),
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

/// A parameter that need not be there is left out: in a header or a query nothing can be null.
struct Parameters;

impl Modify for Parameters {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for operation in operations(openapi) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && let Some(RefOr::T(schema)) = &parameter.schema
                    && let Some(only) = without_null(schema)
                {
                    parameter.schema = Some(only);
                }
            }
        }
    }
}

/// The schema without its `null`; `None` where it has none.
fn without_null(schema: &Schema) -> Option<RefOr<Schema>> {
    let is_null = |kind: &SchemaType| *kind == SchemaType::Type(Type::Null);
    match schema {
        Schema::Object(object) => {
            let SchemaType::Array(types) = &object.schema_type else { return None };
            let mut object = object.clone();
            object.schema_type = types.iter().find(|t| **t != Type::Null).cloned().map(SchemaType::Type)?;
            Some(RefOr::T(Schema::Object(object)))
        }
        Schema::OneOf(one_of) => one_of
            .items
            .iter()
            .find(|item| !matches!(item, RefOr::T(Schema::Object(o)) if is_null(&o.schema_type)))
            .cloned(),
        _ => None,
    }
}

/// What every answer carries, whatever the operation.
struct EveryAnswer;

impl Modify for EveryAnswer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let header = |kind: Type, description: &str| {
            HeaderBuilder::new()
                .schema(Some(ObjectBuilder::new().schema_type(kind)))
                .description(Some(description))
                .build()
        };
        for_each_response(openapi, |_, status, response| {
            let id = header(Type::String, "Joins this answer to the server's log.");
            response.headers.insert("X-Request-Id".to_owned(), RefOr::T(id));
            if matches!(status, "429" | "503") {
                let seconds = header(Type::Integer, "Seconds after which another try makes sense.");
                response.headers.insert("Retry-After".to_owned(), RefOr::T(seconds));
            }
        });
    }
}

/// What can be asked next with what an answer holds.
struct Links;

const LINKS: &[(&str, &str, &[&str])] = &[
    ("createProject", "$response.body#/id", &["getProject", "getProjectFiles", "replaceProjectFiles"]),
    ("addDomain", "$response.body#/id", &["getDomain", "verifyDomain", "removeDomain"]),
    (
        "deploy",
        "$response.body#/deploymentId",
        &["getDeployStatus", "getDeployment", "getDeploymentLogs", "getDeploymentEvents", "cancelDeployment"],
    ),
];

impl Modify for Links {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for_each_response(openapi, |operation, status, response| {
            let Some((_, id, next)) = LINKS.iter().find(|(from, ..)| *from == operation) else { return };
            if status.starts_with('2') {
                response.links.extend(next.iter().map(|next| {
                    let link = Link::builder().operation_id(*next).parameter("id", *id).build();
                    ((*next).to_owned(), RefOr::T(link))
                }));
            }
        });
    }
}

/// Calls `change` with the id of the operation, the status and the response.
fn for_each_response(
    openapi: &mut utoipa::openapi::OpenApi,
    mut change: impl FnMut(&str, &str, &mut Response),
) {
    for operation in operations(openapi) {
        let id = operation.operation_id.clone().unwrap_or_default();
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response {
                change(&id, status, response);
            }
        }
    }
}

fn operations(openapi: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = &mut Operation> {
    let items = openapi.paths.paths.values_mut();
    items.flat_map(|item| {
        let (reads, writes) = ([&mut item.get, &mut item.options], [&mut item.post, &mut item.put]);
        reads.into_iter().chain(writes).chain([&mut item.patch, &mut item.delete]).flatten()
    })
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
    use std::collections::HashSet;

    use serde_json::Value;

    fn document() -> Value {
        serde_json::from_str(&super::document().unwrap()).unwrap()
    }

    fn operations(document: &Value) -> Vec<&Value> {
        let items = document["paths"].as_object().unwrap().values();
        items.flat_map(|item| item.as_object().unwrap().values()).collect()
    }

    #[test]
    fn operations_have_names_of_their_own_and_links_lead_to_one() {
        let document = document();
        let ids: Vec<&str> =
            operations(&document).iter().map(|o| o["operationId"].as_str().unwrap()).collect();
        let unique: HashSet<&str> = ids.iter().copied().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        let links: Vec<&Value> = operations(&document)
            .iter()
            .flat_map(|o| o["responses"].as_object().unwrap().values())
            .filter_map(|r| r["links"].as_object())
            .flat_map(|links| links.values())
            .collect();
        // `addDomain` answers in two ways, each with its links.
        let expected: usize = super::LINKS
            .iter()
            .map(|(from, _, next)| if *from == "addDomain" { 2 * next.len() } else { next.len() })
            .sum();
        assert_eq!(links.len(), expected);
        assert!(links.iter().all(|l| unique.contains(l["operationId"].as_str().unwrap())), "{links:?}");
    }

    #[test]
    fn no_parameter_is_null() {
        let document = document();
        for operation in operations(&document) {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters {
                assert!(!parameter["schema"].to_string().contains("null"), "{parameter}");
            }
        }
    }

    #[test]
    fn words_are_spelt_as_they_are_sent() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        for (name, word) in [
            ("DeploymentStatus", "in_progress"),
            ("StepStatus", "skipped"),
            ("Step", "validate"),
            ("Target", "preview"),
            ("Fault", "platform"),
            ("CancelReason", "superseded"),
            ("DomainStatus", "quarantined"),
            ("DeadLetterClass", "poison"),
            ("DeadLetterState", "buried"),
            ("RedriveFrom", "failed_step"),
            ("AttemptOutcome", "handed_over"),
        ] {
            let words = schemas[name]["enum"].as_array().unwrap();
            assert!(words.contains(&word.into()), "{name}: {words:?}");
        }
    }

    #[test]
    fn the_document_is_openapi_3_1_with_all_routes() {
        let document = document();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for path in super::super::api::PATHS {
            assert!(document["paths"].get(path).is_some(), "{path} is not in the document");
        }
        assert_eq!(document["paths"].as_object().unwrap().len(), super::super::api::PATHS.len());
    }
}
