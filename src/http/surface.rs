//! What every request to the control surface goes through: request id, bounds, content type, and
//! problems turned into answers.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, HttpResponse, Resource, Route, web};

use super::body;
use super::edge::RequestId;
use super::problem::Problem;

/// The header's name, as this framework's own type wants it.
const ID: &str = "x-request-id";

/// The id of this request: the remembered one, a valid incoming one, or a new one.
/// Without `remember` a second call may make a second id.
pub fn request_id(req: &HttpRequest) -> RequestId {
    let known = req.extensions().get::<RequestId>().cloned();
    known.unwrap_or_else(|| RequestId::accept(req.headers().get(ID).map(HeaderValue::as_bytes)))
}

/// Settles the id, so that every part that asks gets the same.
fn remember(req: &HttpRequest) -> RequestId {
    let id = request_id(req);
    req.extensions_mut().insert(id.clone());
    id
}

fn value(id: &RequestId) -> HeaderValue {
    // Short words of letters, digits and a few signs only.
    HeaderValue::from_str(id.as_str()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Wraps the control surface.
pub async fn wrap(
    mut req: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = remember(req.request());
    let started = std::time::Instant::now();
    let (method, path) = (req.method().clone(), req.path().to_owned());
    let answered = match refuse_early(&req) {
        Some(problem) => {
            // Read on, so that a client that still sends sees the answer instead of a reset connection.
            body::drain(&mut req.parts_mut().1.take(), 0).await;
            let answer = problem.answer(req.request());
            req.into_response(answer)
        }
        None => next.call(req).await?.map_into_boxed_body(),
    };
    let mut response = with_problem_body(answered);
    let status = response.status().as_u16();
    tracing::debug!(request.id = %id.as_str(), method = %method, path = %path, status, took_us = started.elapsed().as_micros(), "answered");
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(ID), value(&id));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

fn refuse_early(req: &ServiceRequest) -> Option<Problem> {
    let door = req.app_data::<web::Data<super::FrontDoor>>()?;
    let http = &door.control.settings.http;
    let limit = http.header_bytes;
    let size: usize = req.headers().iter().map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    if size + req.path().len() + req.query_string().len() > limit {
        return Some(Problem::header_too_large(limit));
    }
    // Also where nobody reads the body: a client learns the limit at once, whatever it asks.
    if body::declared(req.headers()).is_some_and(|bytes| bytes > http.body_bytes) {
        return Some(body::too_large(http.body_bytes));
    }
    let writes = matches!(*req.method(), Method::POST | Method::PUT | Method::PATCH);
    let has_body = req.headers().contains_key(header::TRANSFER_ENCODING)
        || req.headers().get(header::CONTENT_LENGTH).is_some_and(|l| l.as_bytes() != b"0");
    let untyped = !req.headers().contains_key(header::CONTENT_TYPE);
    (writes && has_body && untyped).then(Problem::content_type_required)
}

/// A problem that a handler or extractor answered with gets its body here, where the request is known.
fn with_problem_body(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let Some(error) = response.response().error() else { return response };
    let answer = match error.as_error::<Problem>() {
        Some(problem) => problem.answer(response.request()),
        None => foreign(response.status()).answer(response.request()),
    };
    let (req, _) = response.into_parts();
    ServiceResponse::new(req, answer)
}

/// What the framework itself refuses: a path or query that does not fit.
fn foreign(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::not_found(),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large("Send a smaller request."),
        s if s.is_client_error() => Problem::invalid_request("The path or query can't be read."),
        _ => Problem::internal(),
    }
}

/// What no scope takes because its target is no path, such as `OPTIONS *`.
pub async fn pathless(req: HttpRequest) -> HttpResponse {
    let id = remember(&req);
    let mut response = Problem::not_found().answer(&req);
    response.headers_mut().insert(HeaderName::from_static(ID), value(&id));
    response
}

/// A resource with its methods; `GET` answers `HEAD` too, and any other method is a 405 that says
/// which ones there are.
pub fn resource(path: &str, routes: Vec<(Method, Route)>) -> Resource {
    let mut names: Vec<&str> = routes.iter().map(|(m, _)| m.as_str()).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    let allow = names.join(", ");
    let mut resource = web::resource(path.to_owned());
    for (_, route) in routes {
        resource = resource.route(route);
    }
    resource.default_service(web::to(move || {
        let allow = allow.clone();
        async move { Err::<HttpResponse, Problem>(Problem::method_not_allowed(allow)) }
    }))
}

/// A route for `GET` and `HEAD`.
pub fn read() -> Route {
    Route::new()
        .guard(actix_web::guard::fn_guard(|ctx| matches!(ctx.head().method, Method::GET | Method::HEAD)))
}
