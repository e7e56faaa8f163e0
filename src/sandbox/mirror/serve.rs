//! The mirror's HTTP face: one listener per sandbox, on a unix socket that only this sandbox has.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::{Method, header};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;

use super::asset::Asset;
use super::store::disk;
use super::{Mirror, MirrorError};
use crate::sandbox::sockets;

/// What one sandbox's requests share.
struct Door {
    mirror: Arc<Mirror>,
    places: Arc<Semaphore>,
}

/// The listener of one sandbox; ends when dropped.
pub(in crate::sandbox) struct MirrorSocket {
    handle: ServerHandle,
}

impl Drop for MirrorSocket {
    fn drop(&mut self) {
        // The order to stop is sent at once; only waiting for it would need the future.
        drop(self.handle.stop(false));
    }
}

impl Mirror {
    /// Listens on `<folder>/registry.sock`, for `owner` alone.
    pub(in crate::sandbox) fn listen(
        self: &Arc<Self>,
        folder: &Path,
        owner: Option<u32>,
    ) -> Result<MirrorSocket, MirrorError> {
        let listener = sockets::bind(folder, "registry.sock", owner).map_err(disk("listen for a sandbox"))?;
        let door = web::Data::new(Door {
            mirror: Arc::clone(self),
            places: Arc::new(Semaphore::new(self.settings.sandbox_requests)),
        });
        let server =
            HttpServer::new(move || App::new().app_data(door.clone()).default_service(web::to(answer)))
                .workers(1)
                .worker_max_blocking_threads(4)
                .max_connections(self.settings.connections)
                .client_request_timeout(Duration::from_secs(10))
                .shutdown_timeout(1)
                .disable_signals()
                .listen_uds(listener)
                .map_err(disk("listen for a sandbox"))?
                .run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(MirrorSocket { handle })
    }
}

async fn answer(request: HttpRequest, door: web::Data<Door>) -> HttpResponse {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return HttpResponse::MethodNotAllowed()
            .insert_header((header::ALLOW, "GET, HEAD"))
            .body("the registry can only be read from a build\n");
    }
    let accept = request.headers().get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    let Some(asset) = Asset::parse(request.uri().path(), accept) else {
        return HttpResponse::NotFound().json(serde_json::json!({ "error": "not found" }));
    };
    let media_type = match &asset {
        Asset::Document { .. } => "application/json",
        Asset::Tarball { .. } => "application/octet-stream",
    };
    let Ok(place) = Arc::clone(&door.places).acquire_owned().await else {
        return HttpResponse::ServiceUnavailable().finish();
    };
    match door.mirror.get(asset.clone(), place).await {
        Ok(kept) => HttpResponse::Ok()
            .content_type(media_type)
            .no_chunking(kept.size)
            .streaming(ReaderStream::with_capacity(kept.file, 64 * 1024)),
        Err(MirrorError::NotFound) => {
            HttpResponse::NotFound().json(serde_json::json!({ "error": "not found" }))
        }
        Err(error) => {
            tracing::warn!(registry.asset = %asset.key(), error = %error, "the registry mirror has no answer");
            HttpResponse::BadGateway().json(serde_json::json!({ "error": error.to_string() }))
        }
    }
}
