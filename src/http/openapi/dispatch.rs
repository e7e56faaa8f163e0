//! Owns what the document says of dispatch by path and query, which no handler answers: the edge does, before any.
//! Never says more of an answer than that it is a Worker's.

use utoipa::Modify;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItemBuilder,
};
use utoipa::openapi::{ObjectBuilder, Ref, Required, ResponseBuilder, Type};

use super::{AWAY, HEADERS, LIMITED, NOT_FOUND, TOO_LARGE};

const UNNAMED: (u16, &str, &str, &str) =
    (400, "MISSING_WORKER_NAME", "Missing worker parameter", "No Worker is named, or none that can be.");
const SERVICE_WORKER: (u16, &str, &str, &str) =
    (403, "FORBIDDEN", "Forbidden", "A service worker can't be installed from this origin.");
const NOT_ALLOWED: (u16, &str, &str, &str) =
    (405, "METHOD_NOT_ALLOWED", "Method not allowed", "A static site answers GET and HEAD only.");
const FAILED: (u16, &str, &str, &str) =
    (500, "DISPATCH_FAILED", "Dispatch failed", "The platform failed before the Worker answered.");
const UNREACHABLE: (u16, &str, &str, &str) =
    (502, "WORKER_FETCH_FAILED", "Service temporarily unavailable", "The Worker could not be reached.");
const LATE: (u16, &str, &str, &str) =
    (504, "WORKER_TIMEOUT", "Worker timed out", "The Worker did not answer in time.");
const REFUSALS: [(u16, &str, &str, &str); 11] = [
    UNNAMED,
    SERVICE_WORKER,
    NOT_FOUND,
    NOT_ALLOWED,
    TOO_LARGE,
    LIMITED,
    HEADERS,
    FAILED,
    UNREACHABLE,
    AWAY,
    LATE,
];

/// What `ANY` stands for; `HEAD` goes with `GET`.
const METHODS: [(HttpMethod, &str); 6] = [
    (HttpMethod::Get, "Get"),
    (HttpMethod::Post, "Post"),
    (HttpMethod::Put, "Put"),
    (HttpMethod::Patch, "Patch"),
    (HttpMethod::Delete, "Delete"),
    (HttpMethod::Options, "Options"),
];

/// A Worker's name or a preview's label.
const NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$";
/// The paths, and what the names of their operations begin with.
const PATHS: [(&str, &str); 6] = [
    ("/dispatch", "dispatchByQuery"),
    ("/api/dispatch", "apiDispatchByQuery"),
    ("/dispatch/{worker}", "dispatchToTop"),
    ("/api/dispatch/{worker}", "apiDispatchToTop"),
    ("/dispatch/{worker}/{rest}", "dispatchByPath"),
    ("/api/dispatch/{worker}/{rest}", "apiDispatchByPath"),
];

/// Writes every method of every path into the document: no handler stands for them, the edge answers first.
pub(super) struct Dispatch;

impl Modify for Dispatch {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for (path, name) in PATHS {
            let item = METHODS.into_iter().fold(PathItemBuilder::new(), |item, (method, of)| {
                let operation = operation(path, &format!("{name}{of}"), method == HttpMethod::Get);
                item.operation(method, operation)
            });
            openapi.paths.paths.insert(path.to_owned(), item.build());
        }
    }
}

fn operation(path: &str, id: &str, is_get: bool) -> Operation {
    let by_query = !path.contains('{');
    let (summary, description) = match (by_query, is_get) {
        (true, true) => (
            "Show the namespace, or pass a request on to the Worker that the query names.",
            "With `worker`, the Worker sees `/` and the query without `worker`.",
        ),
        (true, false) => (
            "Pass a request on to the Worker that the query names.",
            "The Worker sees `/` and the query without `worker`.",
        ),
        (false, _) => (
            "Pass a request on to the Worker that the path names.",
            "The Worker sees the rest of the path, any number of segments, and the query. Cookies and `Authorization` \
             are not passed on; answers are sealed off from this origin.",
        ),
    };
    let mut operation = OperationBuilder::new()
        .operation_id(Some(id))
        .summary(Some(summary))
        .description(Some(description))
        .tag("dispatch");
    for name in ["worker", "rest"] {
        let place = match (name, by_query) {
            ("worker", true) => ParameterIn::Query,
            _ if path.contains(&format!("{{{name}}}")) => ParameterIn::Path,
            _ => continue,
        };
        let required = if by_query && is_get { Required::False } else { Required::True };
        let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(required).schema(
            Some(ObjectBuilder::new().schema_type(Type::String).pattern((name == "worker").then_some(NAME))),
        );
        operation = operation.parameter(parameter);
    }
    for (status, response) in super::responses(&REFUSALS) {
        operation = operation.response(status, response);
    }
    let any = ResponseBuilder::new().description("What the Worker answers, whatever its status.");
    if by_query && is_get {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Namespace"))).build();
        let shown = ResponseBuilder::new().description("The namespace, or what the Worker answers.");
        operation = operation.response("200", shown.content("application/json", content).build());
    }
    operation.response("default", any.build()).build()
}
