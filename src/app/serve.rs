//! `libra serve`: start, run until a signal, stop in order.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Arbiter};
use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::files::{Files, Places, ServerFile};
use super::front::{control_surface, edge_state, open_door};
use super::https::listeners_of;
use super::last_table::certificates::CertificateFile;
use super::last_table::{self, Keeper};
use super::listeners::Listeners;
use super::parts::{Base, Parts};
use super::signals::cancel_on_signal;
use super::{AppError, early, open_files, seeing, testing};
use crate::actors::{ActorParts, AddressBook, Drain, Refresh, Supervisor};
use crate::config::{Environment, Settings};
use crate::http::client_limit::ClientLimit;
use crate::http::door::control;
use crate::http::edge::EdgeState;
use crate::http::edge::rates::forget;
use crate::http::health::{Health, Probed};
use crate::http::problem::Problem;
use crate::http::seen::metrics::{self, Metrics};
use crate::http::stream_places::StreamPlaces;
use crate::http::{FrontDoor, health, openapi, surface};
use crate::pipeline::{Faults, Pipeline, RefreshRoutes};
use crate::queue::{Queue, ROUTES_CHANGED};
use crate::routing::Tables;

/// The table is loaded within this, or the server says so and waits on.
/// Of the time to stop, what is kept for killing what still runs and handing it over.
const HANDING_OVER: Duration = Duration::from_secs(5);
const LOAD_NOTICE: Duration = Duration::from_secs(10);
/// Between two looks at whether the table is loaded.
const LOAD_LOOK: Duration = Duration::from_millis(10);
/// Between two looks at whether the supervisor lives.
const SUPERVISOR_LOOK: Duration = Duration::from_secs(1);
/// One refresh of the routes, installing a version included.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the server until it is told to stop.
///
/// # Errors
/// Why it could not start.
pub async fn serve(settings: Settings) -> Result<(), AppError> {
    let settings = Arc::new(settings);
    let room = open_files::room(open_files::raise(), &settings);
    if let Some(lacks) = room.lacks(&settings) {
        tracing::warn!("{lacks}");
    }
    let listeners = Listeners::bind(&settings)?;
    let files = Files::prepare(&settings)?;
    let mut base = Base::make(&settings, &files)?;
    let tables = Arc::new(Tables::new());
    let (observer, writing) = seeing::observer(&settings, &files)?;
    let metrics = Data::new(Metrics::new(&observer, &tables));
    let early = early::operator(&listeners.operator, &tables, &metrics)?;
    let stop = CancellationToken::new();
    cancel_on_signal(&stop);
    base.last_table = last_table::publish(&settings, &files.routes, &base.versions, &tables).await;
    if !settings.tls.listen.is_empty() {
        last_table::certificates::publish(&files.certificates, &base.tls, &base.sealer).await;
    }
    let edge_address = listeners.probe_address().map(|a| a.to_string()).unwrap_or_default();
    let shown = |addresses: Vec<std::net::SocketAddr>| addresses.iter().map(ToString::to_string).collect();
    let places = Places {
        front: shown(listeners.front_addresses()),
        secure: shown(listeners.secure_addresses()),
        operator: listeners.operator.local_addr().map(|a| a.to_string()).map_err(AppError::Run)?,
    };
    let port = listeners.front_addresses().first().map_or(80, |a| a.port());
    let surface = control::Late::default();
    let tls_port = listeners.secure_addresses().first().map(std::net::SocketAddr::port);
    let edge = edge_state(&settings, &base, &tables, tls_port)?;
    let forgetting = tokio::spawn(forget(Arc::clone(&edge.rates)));
    let Listeners { front: plain, secure, operator: operator_socket } = listeners;
    let sockets = listeners_of(plain, secure, &base.tls)?;
    let limit = Duration::from_secs(settings.http.shutdown_timeout_seconds);
    // Workers of the last table are served from here on, and without one everybody hears 503; whatever follows may
    // wait for the database.
    let front = open_door(&settings, room, sockets, edge.clone(), surface.clone(), &observer)?;
    let queue_stop = CancellationToken::new();
    let made = tokio::select! {
        made = Parts::make(Arc::clone(&settings), &files, base, port, queue_stop.clone()) => made.map(Some),
        () = stop.cancelled() => Ok(None),
    };
    let parts = match made {
        Ok(Some(parts)) => parts,
        ended => {
            queue_stop.cancel();
            front.close(limit).await;
            return ended.map(drop);
        }
    };
    check_isolation(&settings, &parts).await?;
    warn_of_shared_domain(&settings);

    let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
    let book = Arc::new(AddressBook::default());
    let faults =
        Arc::new(Faults::holding(&settings.testing.hold).map_err(|e| AppError::Settings(e.to_string()))?);
    let pipeline = pipeline(&parts, &files, &book, &faults);
    let actor_parts = ActorParts {
        pipeline,
        queue: parts.queue.clone(),
        tables: Arc::clone(&tables),
        fetches_at_once: settings.runtime.fetches,
        edge_address,
        draining: draining.clone(),
        grace: limit.saturating_sub(HANDING_OVER),
        stopping: stopping.clone(),
    };
    let builders = Arbiter::new();
    let supervisor =
        Supervisor::new(actor_parts, Arc::clone(&book), settings.pipeline.concurrency, builders.handle())
            .start();
    let health = Health::new(settings.environment.as_str());
    let probed = Probed {
        control: Arc::clone(&parts.control),
        queue: parts.queue.clone(),
        sandboxes: Arc::clone(&parts.sandboxes),
    };
    let background = CancellationToken::new();
    tokio::spawn(Arc::clone(&health).watch(probed, background.clone()));
    // Event streams stay on the thread that made them.
    actix_web::rt::spawn(listen_for_changes(parts.queue.clone(), Arc::clone(&book), background.clone()));

    let door = front_door(&settings, &parts, &edge, &book, &health, &draining)?;
    let operator = operator_server(&settings, operator_socket, door.clone(), metrics, faults)?;
    let operator_handle = operator.handle();
    tokio::spawn(operator);
    tokio::select! {
        () = wait_for_table(&tables) => {}
        () = stop.cancelled() => {}
    }
    surface.set(control_surface(door));
    // The access log ends with the last thread that writes to it.
    drop(observer);
    early.stop(false).await;
    let keeper = Keeper::new(&settings, &files.routes, parts.control.store.clone(), Arc::clone(&tables));
    tokio::spawn(keeper.keep(background.clone()));
    if !settings.tls.listen.is_empty() {
        let kept = CertificateFile::new(&settings, &files.certificates, parts.control.store.clone());
        tokio::spawn(kept.keep(background.clone()));
    }
    let url = parts.control.addresses.platform();
    let server_file = ServerFile::write(&files.data_dir, &places, &url)?;
    tracing::info!(url = %url, listen = %places.front.join(", "), tls = %places.secure.join(", "), operator = %places.operator,
        environment = settings.environment.as_str(), "serving");

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        () = watch(&supervisor, &server_file) => Err(AppError::SupervisorLost),
    };
    tracing::info!("stopping");
    drain(&supervisor, limit).await;
    stopping.cancel();
    drop(server_file);
    if let Err(e) = parts.control.store.edge_leave(&parts.node).await {
        tracing::warn!(error = %e, "this edge could not sign off");
    }
    front.close(limit).await;
    if let Some(writing) = writing {
        writing.finish(seeing::LAST_LINES).await;
    }
    operator_handle.stop(false).await;
    background.cancel();
    forgetting.abort();
    builders.stop();
    parts.queue.shutdown().await;
    queue_stop.cancel();
    parts.control.store.clone().close().await;
    tracing::info!("stopped");
    ended
}

/// Returns when the supervisor is gone: nobody would rebuild its children then, so the process ends
/// in order and is started again by whoever runs it.
async fn watch(supervisor: &actix::Addr<Supervisor>, server_file: &ServerFile) {
    while supervisor.connected() {
        server_file.keep();
        tokio::time::sleep(SUPERVISOR_LOOK).await;
    }
}

/// Says which isolation there is, loudly where there is none; production refuses what it must.
async fn check_isolation(settings: &Settings, parts: &Parts) -> Result<(), AppError> {
    for (index, report) in parts.sandboxes.report().await.into_iter().enumerate() {
        let default = index == 0;
        tracing::info!(
            provider = report.provider,
            default,
            ok = report.ok,
            limiter = %report.limiter,
            host_uid = report.host_uid,
            slots = report.slots,
            "sandbox"
        );
        for missing in &report.missing {
            tracing::warn!(provider = report.provider, missing = %missing, "this provider can't run builds");
        }
        for limit in &report.not_enforced {
            tracing::warn!(provider = report.provider, limit = %limit, "a limit is not enforced as the settings say");
        }
        if default && settings.environment == Environment::Production {
            crate::sandbox::check_limiter_for_production(&settings.sandbox, report.limiter)
                .map_err(AppError::Settings)?;
        }
    }
    Ok(())
}

/// A tenant's page on the platform's own registrable domain can set cookies that the platform reads.
fn warn_of_shared_domain(settings: &Settings) {
    if settings.environment != Environment::Production {
        return;
    }
    let domains = &settings.domains;
    let own = psl::domain_str(&domains.base);
    let shared = domains.platform_hosts.is_empty()
        || domains.platform_hosts.iter().any(|host| psl::domain_str(host) == own);
    if shared {
        tracing::warn!(
            base = %domains.base,
            "THE PLATFORM'S OWN HOST SHARES ITS REGISTRABLE DOMAIN WITH THE TENANTS: give domains.platform_hosts a host of another domain"
        );
    }
}

fn pipeline(parts: &Parts, files: &Files, book: &Arc<AddressBook>, faults: &Arc<Faults>) -> Pipeline {
    let refresh_book = Arc::clone(book);
    let queue = parts.queue.clone();
    let refresh_routes: RefreshRoutes = Arc::new(move |at_least| {
        let book = Arc::clone(&refresh_book);
        let queue = queue.clone();
        Box::pin(async move { refresh(&book, &queue, at_least).await })
    });
    parts.control.routes.attach(Arc::clone(&refresh_routes));
    Pipeline {
        control: Arc::clone(&parts.control),
        sandboxes: Arc::clone(&parts.sandboxes),
        toolchain: Arc::clone(&parts.toolchain),
        versions: Arc::clone(&parts.versions),
        refresh_routes,
        prober: Arc::clone(&parts.prober),
        faults: Arc::clone(faults),
        node: parts.node.clone(),
        scratch: files.scratch.clone(),
    }
}

/// Has the registry bring the table to an epoch, and tells the other edges. An address that was
/// closed is fetched anew: the owner builds a fresh actor.
async fn refresh(book: &AddressBook, queue: &Queue, at_least: i64) -> Result<i64, String> {
    let body = Bytes::from(at_least.to_string());
    if let Err(e) = queue.publish_event(ROUTES_CHANGED, body).await {
        // The other edges poll the epoch each second.
        tracing::debug!(error = %e, "a route change was not announced");
    }
    let deadline = tokio::time::Instant::now() + REFRESH_TIMEOUT;
    loop {
        let answer = match book.worker_registry() {
            Some(registry) => registry.send(Refresh { at_least }).timeout(REFRESH_TIMEOUT).await,
            None => Err(actix::MailboxError::Closed),
        };
        let problem = match answer {
            Ok(Ok(epoch)) => return Ok(epoch),
            Ok(Err(e)) => e,
            Err(e) => e.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(problem);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Other nodes' changes: each event, and each gap in them, has the registry look.
async fn listen_for_changes(queue: Queue, book: Arc<AddressBook>, stop: CancellationToken) {
    let mut events = match queue.subscribe_events(ROUTES_CHANGED) {
        Ok(events) => events,
        Err(e) => return tracing::error!(error = %e, "route changes of other nodes are seen by polling only"),
    };
    while events.next(&stop).await.is_some() {
        if let Some(registry) = book.worker_registry() {
            // A full mailbox has a look waiting already.
            drop(registry.try_send(Refresh { at_least: 0 }));
        }
    }
}

fn front_door(
    settings: &Settings,
    parts: &Parts,
    edge: &EdgeState,
    book: &Arc<AddressBook>,
    health: &Arc<Health>,
    draining: &CancellationToken,
) -> Result<Data<FrontDoor>, AppError> {
    let document =
        openapi::document().map_err(|e| AppError::Make { what: "the OpenAPI document", source: e.into() })?;
    let per_minute = std::num::NonZeroU32::new(settings.http.status_requests_per_minute)
        .ok_or_else(|| AppError::Settings("http.status_requests_per_minute must be at least 1".into()))?;
    Ok(Data::new(FrontDoor {
        control: Arc::clone(&parts.control),
        tables: Arc::clone(&edge.tables),
        rules: Arc::clone(&edge.rules),
        book: Arc::clone(book),
        health: Arc::clone(health),
        status_limit: ClientLimit::per_minute(per_minute),
        trusted_proxies: Arc::clone(&edge.trusted_proxies),
        streams: StreamPlaces::new(settings.http.streams, settings.http.streams_of_one),
        openapi: document.into(),
        draining: draining.clone(),
    }))
}

async fn wait_for_table(tables: &Tables) {
    let started = tokio::time::Instant::now();
    let mut noticed = false;
    while !tables.is_of_the_record() {
        if !noticed && started.elapsed() > LOAD_NOTICE {
            noticed = true;
            tracing::warn!("the routing table is not loaded yet; serving begins when it is");
        }
        tokio::time::sleep(LOAD_LOOK).await;
    }
}

pub(super) async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::not_found())
}

/// Answers whatever the host: for load balancers and operators, on loopback.
fn operator_server(
    settings: &Settings,
    listener: std::net::TcpListener,
    door: Data<FrontDoor>,
    metrics: Data<Metrics>,
    faults: Arc<Faults>,
) -> Result<Server, AppError> {
    let fault_injection = settings.testing.fault_injection;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(door.clone())
            .app_data(metrics.clone())
            .service(
                web::scope("")
                    .wrap(from_fn(surface::wrap))
                    .configure(health::routes)
                    .configure(metrics::routes)
                    .configure(|config| {
                        if fault_injection {
                            testing::routes(config, &faults);
                        }
                    })
                    .default_service(web::to(not_found)),
            )
            .default_service(web::to(surface::pathless))
    })
    .workers(1)
    .disable_signals();
    Ok(server.listen(listener).map_err(AppError::Run)?.run())
}

async fn drain(supervisor: &actix::Addr<Supervisor>, limit: Duration) {
    let (done, drained) = tokio::sync::oneshot::channel();
    if supervisor.send(Drain { done }).timeout(limit).await.is_err() {
        tracing::warn!("the supervisor did not take the order to drain");
        return;
    }
    if tokio::time::timeout(limit, drained).await.is_err() {
        tracing::warn!("not every deployment was handed over in time; its lease runs out");
    }
}
