//! Faults that tests may ask for, on the operator's listener, only where `testing.fault_injection`
//! is on. Production refuses that setting.

use actix_web::HttpResponse;
use actix_web::web::{self, Data, Path, ServiceConfig};

use crate::http::FrontDoor;

pub fn routes(config: &mut ServiceConfig) {
    config.route("/testing/panic/{actor}", web::post().to(panic_actor));
}

async fn panic_actor(name: Path<String>, door: Data<FrontDoor>) -> HttpResponse {
    if door.book.panic(&name) { HttpResponse::Accepted().finish() } else { HttpResponse::NotFound().finish() }
}
