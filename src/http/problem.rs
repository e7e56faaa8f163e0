//! The one place where an error becomes an answer: status, code, and words that say what to do.
//! No cause chain, path, SQL or upstream text gets past here; the log has it, joined by request id.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use bytes::Bytes;
use serde::Serialize;

use super::edge::RequestId;
use super::edge::facts::RefusalCode;
use super::surface;
use crate::control::ControlError;
use crate::control::error::FieldProblem;
use crate::domain::cause::chain;
use crate::domain::time;
use crate::routing::{BadRequest, EdgeRefusal};
use crate::store::StoreError;

/// The body of every error answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Error)]
pub struct ErrorBody {
    /// Always false.
    #[schema(example = false)]
    pub success: bool,
    /// Short type, for people.
    #[schema(example = "Project not found")]
    pub error: String,
    /// Stable, for programs.
    #[schema(example = "PROJECT_NOT_FOUND")]
    pub code: &'static str,
    /// What to do next.
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Vec<FieldProblem>>,
    pub request_id: String,
    pub timestamp: String,
}

/// An error answer in the making. Boxed: it is the error of every handler, and rare.
#[derive(Debug)]
pub struct Problem(Box<Facts>);

#[derive(Debug)]
struct Facts {
    status: StatusCode,
    code: &'static str,
    error: String,
    message: String,
    details: Option<Vec<FieldProblem>>,
    retry_after_seconds: Option<u64>,
    allow: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, error: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Facts {
            status,
            code,
            error: error.into(),
            message: message.into(),
            details: None,
            retry_after_seconds: None,
            allow: None,
        }))
    }

    fn with_details(mut self, details: Vec<FieldProblem>) -> Self {
        self.0.details = Some(details);
        self
    }

    fn with_allow(mut self, allow: String) -> Self {
        self.0.allow = Some(allow);
        self
    }

    fn after(mut self, seconds: u64) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "Invalid request", message)
    }

    pub fn validation(details: Vec<FieldProblem>) -> Self {
        let message = "Mend the fields listed in details and send the request again.";
        let problem = Self::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", "Validation failed", message);
        problem.with_details(details)
    }

    pub fn unauthorized() -> Self {
        let message = "Send a valid token: Authorization: Bearer <token>.";
        Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Authentication required", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", "Forbidden", message)
    }

    pub fn not_found() -> Self {
        let message = "Nothing has this path; GET / lists every endpoint.";
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not found", message)
    }

    pub fn method_not_allowed(allow: impl Into<String>) -> Self {
        let allow = allow.into();
        let message = format!("This endpoint answers {allow}.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "METHOD_NOT_ALLOWED", "Method not allowed", message).with_allow(allow)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_TOO_LARGE", "Request too large", message)
    }

    pub fn header_too_large(limit_bytes: usize) -> Self {
        let message = format!("Send at most {limit_bytes} bytes of headers.");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Self::new(status, "REQUEST_TOO_LARGE", "Request headers too large", message)
    }

    pub fn content_type_required() -> Self {
        let message = "Send the body as JSON with Content-Type: application/json.";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "CONTENT_TYPE_REQUIRED", "Content-Type required", message)
    }

    pub fn rate_limited(after_seconds: u64) -> Self {
        let message = format!("Too many requests; try again in {after_seconds} s.");
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "RATE_LIMITED", "Rate limit exceeded", message).after(after_seconds)
    }

    pub fn overloaded(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "Overloaded", message).after(1)
    }

    fn database() -> Self {
        let message = "The platform's database does not answer. Nothing was recorded; try again shortly.";
        Self::database_silent(message)
    }

    /// A commit that was never answered: nobody may be told that it did not happen.
    fn unsure() -> Self {
        Self::database_silent(
            "The platform's database did not say whether this was recorded. Look before you send it again, \
             or send it with the same Idempotency-Key, which records it once at most.",
        )
    }

    fn database_silent(message: &str) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "DATABASE_ERROR", "Database connection failed", message).after(5)
    }

    fn fetch_failed(message: &str) -> Self {
        let error = "Service temporarily unavailable";
        Self::new(StatusCode::BAD_GATEWAY, "WORKER_FETCH_FAILED", error, message)
    }

    pub fn internal() -> Self {
        Self::failed("INTERNAL_ERROR", "Internal server error")
    }

    fn failed(code: &'static str, error: &str) -> Self {
        let message = "The platform failed. Try again; if it stays, tell the operator this request id.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, error, message)
    }

    pub fn code(&self) -> &'static str {
        self.0.code
    }

    /// What the answer says beside its body, as names and values.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("cache-control", "no-store".to_owned())];
        if let Some(seconds) = self.0.retry_after_seconds {
            fields.push(("retry-after", seconds.to_string()));
        }
        if let Some(allow) = &self.0.allow {
            fields.push(("allow", allow.clone()));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            fields.push(("www-authenticate", "Bearer".to_owned()));
        }
        fields
    }

    fn document(&self, id: &RequestId) -> ErrorBody {
        ErrorBody {
            success: false,
            error: self.0.error.clone(),
            code: self.0.code,
            message: self.0.message.clone(),
            details: self.0.details.clone(),
            request_id: id.as_str().to_owned(),
            timestamp: time::now(),
        }
    }

    /// The answer, with the request's id in it.
    pub fn answer(&self, req: &HttpRequest) -> HttpResponse {
        let mut response = HttpResponse::build(self.0.status);
        for field in self.fields() {
            response.insert_header(field);
        }
        response.json(self.document(&surface::request_id(req)))
    }

    /// A small plain page with the same facts, for browsers on a Worker's host.
    fn page(&self, id: &RequestId) -> String {
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{error}</title>\
             <style>body{{font:16px/1.5 system-ui,sans-serif;margin:15vh auto;max-width:34rem;padding:0 1rem}}\
             small{{color:#666}}</style><h1>{error}</h1><p>{message}</p><p><small>{status} {code} · request {id}</small></p></html>",
            error = escape(&self.0.error),
            message = escape(&self.0.message),
            status = self.0.status.as_u16(),
            code = self.0.code,
            id = id.as_str(),
        )
    }
}

/// What hyper, the guard and the accepting thread tell what was no request; each writes it bare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unasked {
    Unreadable,
    TooLarge,
    Late,
    NoRoom,
}

impl Unasked {
    pub fn told(self) -> (u16, &'static str) {
        let (status, code) = match self {
            Self::Unreadable => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Self::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "REQUEST_TOO_LARGE"),
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "INVALID_REQUEST"),
            Self::NoRoom => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
        };
        (status.as_u16(), code)
    }
}

/// Why the edge refused a request, as an answer: a page for browsers, JSON for programs.
pub fn refuse(id: &RequestId, wants_page: bool, refusal: EdgeRefusal) -> http::Response<Bytes> {
    let problem = Problem::from(refusal);
    let (media_type, body) = if wants_page {
        ("text/html; charset=utf-8", problem.page(id).into_bytes())
    } else {
        // A struct of texts and numbers always becomes JSON.
        ("application/json", serde_json::to_vec(&problem.document(id)).unwrap_or_default())
    };
    let mut response = http::Response::builder()
        .status(problem.0.status.as_u16())
        .header("content-type", media_type)
        .header("vary", "Accept");
    for (name, value) in problem.fields() {
        response = response.header(name, value);
    }
    // Names, numbers and our own words are valid header values.
    let response = response.extension(RefusalCode(problem.0.code));
    response.body(body.into()).unwrap_or_default()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl From<EdgeRefusal> for Problem {
    fn from(refusal: EdgeRefusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            EdgeRefusal::InvalidHost => Self::invalid_request("Send exactly one valid Host header."),
            EdgeRefusal::InvalidWorkerName { message } => {
                let next = "Use one label of letters, digits and hyphens before the base domain.";
                Self::new(StatusCode::BAD_REQUEST, "INVALID_WORKER_NAME", &message, next)
            }
            EdgeRefusal::ReservedSubdomain { message } => {
                let next = "This name belongs to the platform; no Worker can have it.";
                Self::new(StatusCode::BAD_REQUEST, "RESERVED_SUBDOMAIN", &message, next)
            }
            EdgeRefusal::WorkerNotFound => {
                let next = "Check the name; a Worker answers once its first deployment is live.";
                Self::new(StatusCode::NOT_FOUND, "WORKER_NOT_FOUND", "Worker not found", next)
            }
            EdgeRefusal::DeploymentNotFound => {
                let next = "This preview is gone or never was; deploy again for a new one.";
                Self::new(StatusCode::NOT_FOUND, "DEPLOYMENT_NOT_FOUND", "Deployment not found", next)
            }
            EdgeRefusal::CustomDomainNotFound => {
                let next = "Add the domain to a project and prove it with the TXT record shown there.";
                let error = "Custom domain not found";
                Self::new(StatusCode::NOT_FOUND, "CUSTOM_DOMAIN_NOT_FOUND", error, next)
            }
            EdgeRefusal::CustomDomainInvalid => {
                let next = "The project is inactive or has nothing deployed yet.";
                Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", "Custom domain configuration invalid", next)
            }
            EdgeRefusal::TableNotLoaded | EdgeRefusal::ControlAway => Self::database(),
            EdgeRefusal::FileNotFound => {
                Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not found", "This site has no such page.")
            }
            EdgeRefusal::MethodNotAllowed => Self::method_not_allowed("GET, HEAD"),
            EdgeRefusal::Malformed(BadRequest::TooLarge { limit_bytes }) => {
                Self::header_too_large(limit_bytes)
            }
            EdgeRefusal::Malformed(bad) => {
                Self::invalid_request(format!("The request can't be read without doubt: {bad}."))
            }
            EdgeRefusal::WorkerNotNamed => {
                let next = "Name the Worker: /dispatch?worker=NAME, or /dispatch/NAME/PATH.";
                Self::new(StatusCode::BAD_REQUEST, "MISSING_WORKER_NAME", "Missing worker parameter", next)
            }
            EdgeRefusal::WorkerNamedTwice => Self::invalid_request("Name one Worker only in the query."),
            EdgeRefusal::ServiceWorkerRefused => {
                Self::forbidden("Install a service worker from the Worker's own host, not from here.")
            }
            EdgeRefusal::MethodRefused => {
                Self::method_not_allowed("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
            }
            EdgeRefusal::BodyTooLarge { limit_bytes } => {
                Self::too_large(format!("Send at most {limit_bytes} bytes to a Worker."))
            }
            EdgeRefusal::RateLimited { after_seconds } => Self::rate_limited(after_seconds),
            EdgeRefusal::Overloaded | EdgeRefusal::Saturated | EdgeRefusal::WorkerBusy => {
                Self::overloaded(text)
            }
            EdgeRefusal::ClientSilent => {
                let next = "The request's body did not come whole in time; send it again.";
                Self::new(StatusCode::REQUEST_TIMEOUT, "INVALID_REQUEST", "Request timeout", next)
            }
            EdgeRefusal::Loop => Self::fetch_failed(
                "The Worker's origin leads back to this platform; register the application behind it.",
            ),
            EdgeRefusal::WorkerUnreachable => {
                Self::fetch_failed("The Worker's origin could not be reached; try again shortly.")
            }
            EdgeRefusal::DispatchFailed => Self::failed("DISPATCH_FAILED", "Dispatch failed"),
            EdgeRefusal::WorkerTimeout => {
                let next = "The Worker's origin did not answer in time; try again shortly.";
                Self::new(StatusCode::GATEWAY_TIMEOUT, "WORKER_TIMEOUT", "Worker timed out", next)
            }
            EdgeRefusal::ReadFailed => {
                Self::fetch_failed("The site's files could not be read; try again shortly.")
            }
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Invalid(details) => Self::validation(details),
            ControlError::Forbidden(message) => Self::forbidden(message),
            ControlError::ProjectNotFound => {
                let next = "Check projectId; only projects of the token's organization are visible.";
                Self::new(StatusCode::NOT_FOUND, "PROJECT_NOT_FOUND", "Project not found", next)
            }
            ControlError::DeploymentNotFound => {
                let next = "Check the id; it is the deploymentId that POST /deploy answered.";
                Self::new(StatusCode::NOT_FOUND, "DEPLOYMENT_NOT_FOUND", "Deployment not found", next)
            }
            ControlError::DeadLetterNotFound => {
                let next = "Check the id; GET /api/v1/dead-letters lists those of the token's organization.";
                Self::new(StatusCode::NOT_FOUND, "DEPLOYMENT_NOT_FOUND", "Dead letter not found", next)
            }
            ControlError::VersionNotFound => {
                let next = "Check versionId; GET /api/v1/projects/{id}/versions lists those that are kept.";
                Self::new(StatusCode::NOT_FOUND, "DEPLOYMENT_NOT_FOUND", "Version not found", next)
            }
            ControlError::UpstreamNotFound => {
                let next = "No origins are registered for this project; its Worker serves what is deployed.";
                Self::new(StatusCode::NOT_FOUND, "WORKER_NOT_FOUND", "Upstream not found", next)
            }
            ControlError::DomainNotFound => {
                let next = "Check the id; only domains of the token's organization are visible.";
                let error = "Custom domain not found";
                Self::new(StatusCode::NOT_FOUND, "CUSTOM_DOMAIN_NOT_FOUND", error, next)
            }
            ControlError::TooManyDomains { limit, of } => {
                let next = format!("A {of} may claim {limit} domains; remove one that is not needed.");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", "Quota exceeded", next)
            }
            ControlError::TooSoon { seconds } => Self::rate_limited(seconds),
            ControlError::Conflict(message) => {
                Self::new(StatusCode::CONFLICT, "CONFLICT", "Conflict", message)
            }
            ControlError::QuotaExceeded { limit } => {
                let next = format!("The month's {limit} deployments are used up; ask for a higher limit.");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "QUOTA_EXCEEDED", "Quota exceeded", next)
            }
            ControlError::TooManyWaiting { limit } => {
                let next = format!("{limit} deployments wait already; send this one when some have ended.");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "Too many waiting", next).after(30)
            }
            ControlError::Store(
                e @ (StoreError::Unavailable(_)
                | StoreError::Busy(_)
                | StoreError::Conflict(_)
                | StoreError::Full(_)
                | StoreError::Login(_)),
            ) => {
                log(&e);
                Self::database()
            }
            ControlError::Store(e @ StoreError::Unsure(_)) => {
                log(&e);
                Self::unsure()
            }
            ControlError::Blobs(e) => {
                log(&e);
                let next = "The platform's storage does not answer. Nothing was recorded; try again shortly.";
                Self::overloaded(next)
            }
            e @ (ControlError::Store(_) | ControlError::Seal | ControlError::Json(_)) => {
                log(&e);
                Self::internal()
            }
        }
    }
}

/// The chain, once, where the error is handled.
fn log(error: &(dyn std::error::Error + 'static)) {
    tracing::error!(error = %chain(error), "request failed");
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.status
    }

    /// Without its body: the front door's middleware knows the request and calls [`Problem::answer`].
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.0.status)
    }
}
