//! Owns the operator's listener before all parts are there: it lives, is ready or not, and is counted.
//! Never serves the control surface.

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};

use super::AppError;
use crate::http::problem::Problem;
use crate::http::seen::metrics::{self, Metrics};
use crate::http::{health, surface};
use crate::routing::{EdgeRefusal, Tables};

/// `/livez`, `/readyz` and `/metrics` on the operator's listener, until the real one takes the same socket over.
///
/// # Errors
/// If the socket can't be shared.
pub fn operator(
    socket: &TcpListener,
    tables: &Arc<Tables>,
    metrics: &Data<Metrics>,
) -> Result<ServerHandle, AppError> {
    let (tables, metrics) = (Data::from(Arc::clone(tables)), metrics.clone());
    let socket = socket.try_clone().map_err(AppError::Run)?;
    let server = HttpServer::new(move || {
        App::new().app_data(tables.clone()).app_data(metrics.clone()).service(
            web::scope("")
                .wrap(from_fn(surface::wrap))
                .configure(health::early_routes)
                .configure(metrics::routes)
                .default_service(web::to(away)),
        )
    })
    .workers(1)
    .disable_signals();
    let server = server.listen(socket).map_err(AppError::Run)?.run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

async fn away() -> Result<HttpResponse, Problem> {
    Err(Problem::from(EdgeRefusal::ControlAway))
}
