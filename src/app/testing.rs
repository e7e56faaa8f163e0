//! Faults that tests may ask for, on the operator's listener, only where `testing.fault_injection`
//! is on. Production refuses that setting.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Path, ServiceConfig};

use crate::http::FrontDoor;
use crate::pipeline::{Action, Faults, Point};

pub fn routes(config: &mut ServiceConfig, faults: &Arc<Faults>) {
    config
        .app_data(Data::from(Arc::clone(faults)))
        .route("/testing/panic/{actor}", web::post().to(panic_actor))
        .route("/testing/hold/{point}", web::post().to(hold))
        .route("/testing/fail/{point}", web::post().to(fail))
        .route("/testing/release/{point}", web::post().to(release))
        .route("/testing/held", web::get().to(held));
}

async fn panic_actor(name: Path<String>, door: Data<FrontDoor>) -> HttpResponse {
    if door.book.panic(&name) { HttpResponse::Accepted().finish() } else { HttpResponse::NotFound().finish() }
}

/// Walks wait at this point from now on.
async fn hold(point: Path<String>, faults: Data<Faults>) -> HttpResponse {
    arm(&point, &faults, Action::Hold)
}

/// Walks fail at this point from now on, for the platform's reasons.
async fn fail(point: Path<String>, faults: Data<Faults>) -> HttpResponse {
    arm(&point, &faults, Action::Fail)
}

fn arm(point: &str, faults: &Faults, action: Action) -> HttpResponse {
    match point.parse::<Point>() {
        Ok(point) => {
            faults.arm(point, action);
            HttpResponse::Accepted().finish()
        }
        Err(e) => HttpResponse::BadRequest().body(e.to_string()),
    }
}

async fn release(point: Path<String>, faults: Data<Faults>) -> HttpResponse {
    match point.parse::<Point>() {
        Ok(point) => {
            faults.release(&point);
            HttpResponse::Accepted().finish()
        }
        Err(e) => HttpResponse::BadRequest().body(e.to_string()),
    }
}

/// Which deployments wait, and in which step.
async fn held(faults: Data<Faults>) -> HttpResponse {
    HttpResponse::Ok().json(faults.held())
}
