//! The API's handlers: extract, call one use case, map the answer.

pub mod certificates;
mod dead_letter_orders;
pub mod dead_letters;
pub mod deploy;
mod deploy_body;
mod deploy_schema;
pub mod deployments;
pub mod dispatch;
pub mod domains;
pub mod files;
pub mod live;
pub mod organizations;
pub mod page;
pub mod projects;
pub mod routes;
pub mod status;
pub mod streams;
pub mod upstreams;

pub use deploy_schema::InitFileBody;

use actix_web::http::Method;
use actix_web::web::ServiceConfig;

use super::surface::{read, resource};
use super::{docs, health};

/// Every documented path.
pub const PATHS: &[&str] = &[
    "/",
    "/deploy",
    "/deploy-status",
    "/health",
    "/health/detailed",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/favicon.ico",
    "/dispatch",
    "/dispatch/{worker}",
    "/dispatch/{worker}/{rest}",
    "/api/dispatch",
    "/api/dispatch/{worker}",
    "/api/dispatch/{worker}/{rest}",
    "/api/v1/projects",
    "/api/v1/projects/{id}",
    "/api/v1/projects/{id}/files",
    "/api/v1/projects/{id}/versions",
    "/api/v1/projects/{id}/rollback",
    "/api/v1/projects/{id}/promote",
    "/api/v1/projects/{id}/split",
    "/api/v1/projects/{id}/upstream",
    "/api/v1/workers",
    "/api/v1/routes/explain",
    "/api/v1/templates",
    "/api/v1/certificates",
    "/api/v1/deployments",
    "/api/v1/deployments/{id}",
    "/api/v1/deployments/{id}/logs",
    "/api/v1/deployments/{id}/events",
    "/api/v1/deployments/{id}/cancel",
    "/api/v1/dead-letters",
    "/api/v1/dead-letters/redrive",
    "/api/v1/dead-letters/{id}",
    "/api/v1/dead-letters/{id}/redrive",
    "/api/v1/domains",
    "/api/v1/domains/{id}",
    "/api/v1/domains/{id}/verify",
    "/api/v1/organizations/{id}/queue",
];

/// What `GET /` lists.
pub const ENDPOINTS: &[&str] = &[
    "GET /",
    "POST /deploy",
    "GET /deploy-status?id=",
    "GET /health",
    "GET /health/detailed",
    "GET /livez",
    "GET /readyz",
    "GET /openapi.json",
    "GET /docs",
    "GET /favicon.ico",
    "GET /dispatch",
    "GET /api/dispatch",
    "ANY /dispatch?worker=",
    "ANY /dispatch/{worker}",
    "ANY /dispatch/{worker}/{rest}",
    "ANY /api/dispatch?worker=",
    "ANY /api/dispatch/{worker}",
    "ANY /api/dispatch/{worker}/{rest}",
    "GET /api/v1/projects",
    "POST /api/v1/projects",
    "GET /api/v1/projects/{id}",
    "PATCH /api/v1/projects/{id}",
    "GET /api/v1/projects/{id}/files",
    "PUT /api/v1/projects/{id}/files",
    "GET /api/v1/projects/{id}/versions",
    "POST /api/v1/projects/{id}/rollback",
    "POST /api/v1/projects/{id}/promote",
    "PUT /api/v1/projects/{id}/split",
    "DELETE /api/v1/projects/{id}/split",
    "GET /api/v1/projects/{id}/upstream",
    "PUT /api/v1/projects/{id}/upstream",
    "DELETE /api/v1/projects/{id}/upstream",
    "GET /api/v1/workers",
    "GET /api/v1/routes/explain?url=",
    "GET /api/v1/templates",
    "GET /api/v1/certificates",
    "GET /api/v1/deployments",
    "GET /api/v1/deployments/{id}",
    "GET /api/v1/deployments/{id}/logs",
    "GET /api/v1/deployments/{id}/events",
    "POST /api/v1/deployments/{id}/cancel",
    "GET /api/v1/dead-letters",
    "POST /api/v1/dead-letters/redrive",
    "GET /api/v1/dead-letters/{id}",
    "DELETE /api/v1/dead-letters/{id}",
    "POST /api/v1/dead-letters/{id}/redrive",
    "GET /api/v1/domains",
    "POST /api/v1/domains",
    "GET /api/v1/domains/{id}",
    "DELETE /api/v1/domains/{id}",
    "POST /api/v1/domains/{id}/verify",
    "GET /api/v1/organizations/{id}/queue",
    "PUT /api/v1/organizations/{id}/queue",
];

/// The control surface's routes.
pub fn routes(config: &mut ServiceConfig) {
    let post = actix_web::web::post;
    let put = actix_web::web::put;
    let patch = actix_web::web::patch;
    config.configure(live_routes).configure(desk_routes);
    for path in ["/dispatch", "/dispatch/", "/api/dispatch", "/api/dispatch/"] {
        config.service(resource(path, vec![(Method::GET, read().to(dispatch::namespace))]));
    }
    let delete = actix_web::web::delete;
    config
        .service(resource("/", vec![(Method::GET, read().to(health::info))]))
        .service(resource("/deploy", vec![(Method::POST, post().to(deploy::post))]))
        .service(resource("/deploy-status", vec![(Method::GET, read().to(status::get))]))
        .configure(health::routes)
        .service(resource("/openapi.json", vec![(Method::GET, read().to(docs::openapi))]))
        .service(resource("/docs", vec![(Method::GET, read().to(docs::page))]))
        .service(resource(docs::SCRIPT_PATH, vec![(Method::GET, read().to(docs::script))]))
        .service(resource("/favicon.ico", vec![(Method::GET, read().to(docs::favicon))]))
        .service(resource(
            "/api/v1/projects",
            vec![(Method::GET, read().to(projects::list)), (Method::POST, post().to(projects::create))],
        ))
        .service(resource(
            "/api/v1/projects/{id}",
            vec![(Method::GET, read().to(projects::get)), (Method::PATCH, patch().to(projects::change))],
        ))
        .service(resource(
            "/api/v1/projects/{id}/files",
            vec![(Method::GET, read().to(files::get)), (Method::PUT, put().to(files::put))],
        ))
        .service(resource("/api/v1/templates", vec![(Method::GET, read().to(projects::list_templates))]))
        .service(resource("/api/v1/certificates", vec![(Method::GET, read().to(certificates::list))]))
        .service(resource("/api/v1/deployments", vec![(Method::GET, read().to(deployments::list))]))
        .service(resource("/api/v1/deployments/{id}", vec![(Method::GET, read().to(deployments::get))]))
        .service(resource("/api/v1/deployments/{id}/logs", vec![(Method::GET, read().to(streams::logs))]))
        .service(resource("/api/v1/deployments/{id}/events", vec![(Method::GET, read().to(streams::events))]))
        .service(resource(
            "/api/v1/deployments/{id}/cancel",
            vec![(Method::POST, post().to(deployments::cancel))],
        ))
        .service(resource(
            "/api/v1/domains",
            vec![(Method::GET, read().to(domains::list)), (Method::POST, post().to(domains::add))],
        ))
        .service(resource(
            "/api/v1/domains/{id}",
            vec![(Method::GET, read().to(domains::get)), (Method::DELETE, delete().to(domains::remove))],
        ))
        .service(resource("/api/v1/domains/{id}/verify", vec![(Method::POST, post().to(domains::verify))]))
        .service(resource(
            "/api/v1/organizations/{id}/queue",
            vec![(Method::GET, read().to(organizations::get)), (Method::PUT, put().to(organizations::put))],
        ));
}

fn live_routes(config: &mut ServiceConfig) {
    let post = actix_web::web::post;
    let put = actix_web::web::put;
    let delete = actix_web::web::delete;
    let of_project = |name: &str, routes| resource(&format!("/api/v1/projects/{{id}}/{name}"), routes);
    config
        .service(of_project("versions", vec![(Method::GET, read().to(live::list))]))
        .service(of_project("rollback", vec![(Method::POST, post().to(live::rollback))]))
        .service(of_project("promote", vec![(Method::POST, post().to(live::promote))]))
        .service(of_project(
            "split",
            vec![(Method::PUT, put().to(live::split)), (Method::DELETE, delete().to(live::split_end))],
        ))
        .service(of_project(
            "upstream",
            vec![
                (Method::GET, read().to(upstreams::get)),
                (Method::PUT, put().to(upstreams::put)),
                (Method::DELETE, delete().to(upstreams::delete)),
            ],
        ))
        .service(resource("/api/v1/workers", vec![(Method::GET, read().to(upstreams::list))]))
        .service(resource("/api/v1/routes/explain", vec![(Method::GET, read().to(routes::get))]));
}

fn desk_routes(config: &mut ServiceConfig) {
    let post = actix_web::web::post;
    let delete = actix_web::web::delete;
    config
        .service(resource("/api/v1/dead-letters", vec![(Method::GET, read().to(dead_letters::list))]))
        // Before the letters themselves: none of them has this word for an id.
        .service(resource(
            "/api/v1/dead-letters/redrive",
            vec![(Method::POST, post().to(dead_letters::redrive_group))],
        ))
        .service(resource(
            "/api/v1/dead-letters/{id}",
            vec![
                (Method::GET, read().to(dead_letters::get)),
                (Method::DELETE, delete().to(dead_letters::bury)),
            ],
        ))
        .service(resource(
            "/api/v1/dead-letters/{id}/redrive",
            vec![(Method::POST, post().to(dead_letters::redrive))],
        ));
}
