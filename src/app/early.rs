//! Owns what is open before all parts are there: the front door that serves the last table, and an operator's
//! listener that says so. Never serves the control surface.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};

use super::AppError;
use crate::http::door::Door;
use crate::http::problem::Problem;
use crate::http::{health, surface};
use crate::routing::{EdgeRefusal, Tables};

/// The front door, shut until there is something to serve.
pub enum Front {
    Shut(Box<dyn FnOnce() -> Result<Door, AppError>>),
    Open(Door),
}

impl Front {
    pub fn shut(open: impl FnOnce() -> Result<Door, AppError> + 'static) -> Self {
        Self::Shut(Box::new(open))
    }

    /// # Errors
    /// If a thread or a socket can't be had.
    pub fn open(self) -> Result<Self, AppError> {
        match self {
            Self::Shut(open) => Ok(Self::Open(open()?)),
            Self::Open(_) => Ok(self),
        }
    }

    pub async fn close(self, limit: Duration) {
        if let Self::Open(door) = self {
            door.close(limit).await;
        }
    }
}

/// `/livez` and `/readyz` on the operator's listener, until the real one takes the same socket over.
///
/// # Errors
/// If the socket can't be shared.
pub fn operator(socket: &TcpListener, tables: &Arc<Tables>) -> Result<ServerHandle, AppError> {
    let tables = Data::from(Arc::clone(tables));
    let socket = socket.try_clone().map_err(AppError::Run)?;
    let server = HttpServer::new(move || {
        App::new().app_data(tables.clone()).service(
            web::scope("")
                .wrap(from_fn(surface::wrap))
                .configure(health::early_routes)
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
