//! Health: real probes of every part, made in the background, shown with their age.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Data, ServiceConfig};
use arc_swap::{ArcSwap, ArcSwapOption};
use serde::Serialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::FrontDoor;
use super::api::ENDPOINTS;
use super::api::dispatch::NAMESPACE;
use super::openapi::PublicRefusals;
use super::surface::{read, resource};
use crate::actors::AddressBook;
use crate::control::Control;
use crate::control::certificates::TlsReport;
use crate::domain::time;
use crate::queue::Queue;
use crate::routing::Tables;
use crate::sandbox::IsolationReport;

const SERVICE: &str = "Libra";
/// Between two rounds of probes; a dead part shows within this.
const ROUND: Duration = Duration::from_secs(4);
/// A probe that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// A result older than this says nothing any more.
const STALE: Duration = Duration::from_secs(15);
/// The sandbox's trial waits for its slot and starts processes.
const SANDBOX_PATIENCE: Duration = Duration::from_secs(20);
/// Trying the sandbox takes 100 ms of work, so it is done rarely.
const SANDBOX_ROUND: Duration = Duration::from_secs(60);

/// The last result of one probe.
#[derive(Debug, Clone)]
struct Probe {
    healthy: bool,
    latency: Duration,
    at: Instant,
    more: Value,
}

#[derive(Debug, Clone, Default)]
struct Probes {
    database: Option<Probe>,
    queue: Option<Probe>,
    blobs: Option<Probe>,
    edges: Option<Probe>,
}

/// The probes of this process.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    environment: &'static str,
    probes: ArcSwap<Probes>,
    sandbox: ArcSwapOption<Probe>,
}

/// What is probed.
pub struct Probed {
    pub control: Arc<Control>,
    pub queue: Queue,
    pub sandboxes: Arc<crate::sandbox::Providers>,
}

impl Health {
    #[must_use]
    pub fn new(environment: &'static str) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            environment,
            probes: ArcSwap::default(),
            sandbox: ArcSwapOption::empty(),
        })
    }

    /// Probes until the server stops.
    pub async fn watch(self: Arc<Self>, probed: Probed, stop: CancellationToken) {
        let mut trial: Option<Instant> = None;
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if trial.as_ref().is_none_or(|at| at.elapsed() >= SANDBOX_ROUND) {
                trial = Some(Instant::now());
                // Beside the loop: on a busy machine it takes longer than the other probes may.
                let (health, sandboxes) = (Arc::clone(&self), Arc::clone(&probed.sandboxes));
                tokio::spawn(async move {
                    let tried = async { sandbox_result(&sandboxes.report().await) };
                    let probe = timed(SANDBOX_PATIENCE, tried).await;
                    health.sandbox.store(Some(Arc::new(probe)));
                });
            }
            let store = &probed.control.store;
            let (database, queue, blobs, edges) = tokio::join!(
                timed(PATIENCE, async {
                    let (open, idle) = store.connections();
                    let shown = json!({ "kind": store.kind().as_str(), "connections": open, "idle": idle });
                    store.probe().await.map(|()| shown.clone()).map_err(|_| shown)
                }),
                timed(PATIENCE, async {
                    probed.queue.inspect().await.map_err(|_| json!({})).map(|s| {
                        json!({
                            "messages": s.messages,
                            "ackPending": s.ack_pending,
                            "undelivered": s.undelivered,
                            "deadLetters": s.dead_letters,
                        })
                    })
                }),
                timed(PATIENCE, async {
                    let store = if probed.control.settings.blobs.is_remote() { "s3" } else { "folder" };
                    let shown = json!({ "store": store });
                    match probed.control.blobs.probe().await {
                        Ok(()) => Ok(shown),
                        Err(_) => Err(shown),
                    }
                }),
                timed(PATIENCE, async {
                    let epoch = store.route_epoch().await.map_err(|_| json!({}))?;
                    let live = store.edge_live().await.map_err(|_| json!({}))?;
                    let behind = live.iter().filter(|e| e.epoch < epoch).count();
                    let shown = json!({ "live": live.len(), "behind": behind, "epoch": epoch });
                    if live.is_empty() { Err(shown) } else { Ok(shown) }
                }),
            );
            self.probes.store(Arc::new(Probes {
                database: Some(database),
                queue: Some(queue),
                blobs: Some(blobs),
                edges: Some(edges),
            }));
        }
    }

    fn basic(&self) -> HealthDocument {
        let probes = self.probes.load();
        let checks = Checks { database: word(probes.database.as_ref()), queue: word(probes.queue.as_ref()) };
        let healthy = checks.database == HEALTHY && checks.queue == HEALTHY;
        HealthDocument {
            status: if healthy { HEALTHY } else { UNHEALTHY },
            timestamp: time::now(),
            service: SERVICE,
            version: env!("CARGO_PKG_VERSION"),
            environment: self.environment,
            uptime: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            checks,
        }
    }

    fn parts(&self, tables: &Tables, book: &AddressBook, pool: usize) -> BTreeMap<&'static str, Value> {
        let probes = self.probes.load();
        let counts = tables.counts();
        let actors = book.states(pool);
        let all_run = actors.values().all(|a| a.running);
        let mut database = part(probes.database.as_ref());
        database["status"] =
            json!(if word(probes.database.as_ref()) == HEALTHY { "available" } else { "unavailable" });
        database["connection_pool"] =
            json!(if word(probes.database.as_ref()) == HEALTHY { "active" } else { "inactive" });
        BTreeMap::from([
            ("hyperdrive", database),
            (
                "dispatcher",
                json!({
                    "status": if tables.is_loaded() { "available" } else { "unavailable" },
                    "namespace": NAMESPACE,
                    "epoch": tables.epoch(),
                    "workers": counts.workers,
                    "previews": counts.previews,
                    "customDomains": counts.hosts,
                }),
            ),
            ("queue", part(probes.queue.as_ref())),
            ("blobs", part(probes.blobs.as_ref())),
            ("sandbox", part(self.sandbox.load().as_deref())),
            (
                "runtime",
                json!({ "status": if tables.is_loaded() { HEALTHY } else { UNHEALTHY }, "kinds": ["static", "upstream"] }),
            ),
            ("actors", json!({ "status": if all_run { HEALTHY } else { UNHEALTHY }, "actors": actors })),
            ("edges", part(probes.edges.as_ref())),
        ])
    }
}

const HEALTHY: &str = "healthy";
const UNHEALTHY: &str = "unhealthy";

fn word(probe: Option<&Probe>) -> &'static str {
    match probe {
        Some(p) if p.healthy && p.at.elapsed() < STALE => HEALTHY,
        _ => UNHEALTHY,
    }
}

fn part(probe: Option<&Probe>) -> Value {
    let Some(probe) = probe else { return json!({ "status": UNHEALTHY, "probed": false }) };
    let mut shown = probe.more.clone();
    shown["status"] = json!(if probe.healthy { HEALTHY } else { UNHEALTHY });
    shown["latencyMs"] = json!(probe.latency.as_secs_f64() * 1_000.0);
    shown["ageMs"] = json!(u64::try_from(probe.at.elapsed().as_millis()).unwrap_or(u64::MAX));
    shown
}

/// What the providers' own trials found, without paths. The default one decides the health; an
/// organization's other one is shown beside it.
fn sandbox_result(reports: &[IsolationReport]) -> Result<Value, Value> {
    let Some((default, others)) = reports.split_first() else { return Err(json!({})) };
    let mut shown = provider_shown(default);
    if !others.is_empty() {
        let others: Vec<Value> = others
            .iter()
            .map(|report| {
                let mut shown = provider_shown(report);
                shown["status"] = json!(if report.ok { HEALTHY } else { UNHEALTHY });
                shown
            })
            .collect();
        shown["others"] = json!(others);
    }
    if default.ok { Ok(shown) } else { Err(shown) }
}

fn provider_shown(report: &IsolationReport) -> Value {
    let mut shown = json!({
        "provider": report.provider,
        "limiter": report.limiter.to_string(),
        "slots": report.slots,
        "missing": report.missing.len(),
    });
    if !report.not_enforced.is_empty() {
        shown["notEnforced"] = json!(report.not_enforced);
    }
    shown
}

/// Certificates, in numbers: which files and names they are stays in the log and with their owners.
fn tls(report: &TlsReport) -> Value {
    json!({
        "status": if report.is_well() { HEALTHY } else { UNHEALTHY },
        "names": report.names,
        "issued": report.issued,
        "soonestExpiry": report.soonest_end.map(time::rfc3339),
        "files": report.files,
        "failedFiles": report.failed_files,
        "unreadable": report.unreadable,
    })
}

async fn timed(patience: Duration, work: impl Future<Output = Result<Value, Value>>) -> Probe {
    let started = Instant::now();
    let result = tokio::time::timeout(patience, work).await;
    let (healthy, more) = match result {
        Ok(Ok(more)) => (true, more),
        Ok(Err(more)) => (false, more),
        Err(_) => (false, json!({})),
    };
    Probe { healthy, latency: started.elapsed(), at: Instant::now(), more }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Checks {
    #[schema(example = "healthy")]
    pub database: &'static str,
    #[schema(example = "healthy")]
    pub queue: &'static str,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Health)]
pub struct HealthDocument {
    /// `healthy` or `unhealthy`.
    #[schema(example = "healthy")]
    pub status: &'static str,
    pub timestamp: String,
    pub service: &'static str,
    pub version: &'static str,
    pub environment: &'static str,
    /// Milliseconds since the start.
    pub uptime: u64,
    pub checks: Checks,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ServiceInfo {
    pub message: &'static str,
    pub service: &'static str,
    pub version: &'static str,
    pub status: &'static str,
    pub timestamp: String,
    pub architecture: &'static str,
    pub description: &'static str,
    pub endpoints: Vec<&'static str>,
}

/// What this service is.
#[utoipa::path(get, path = "/", operation_id = "getService", tag = "service",
    responses((status = 200, description = "Service information", body = ServiceInfo), PublicRefusals))]
pub async fn info() -> HttpResponse {
    HttpResponse::Ok().json(ServiceInfo {
        message: "Libra control plane",
        service: SERVICE,
        version: env!("CARGO_PKG_VERSION"),
        status: "running",
        timestamp: time::now(),
        architecture: "one binary: actors, JetStream queue, sandboxed builds, in-process edge",
        description: "Deploys web projects from source to a live address, and serves them",
        endpoints: ENDPOINTS.to_vec(),
    })
}

/// What the operator's listener answers whatever the host; the front door answers it too.
pub fn routes(config: &mut ServiceConfig) {
    config
        .service(resource("/health", vec![(Method::GET, read().to(health))]))
        .service(resource("/health/detailed", vec![(Method::GET, read().to(detailed))]))
        .service(resource("/livez", vec![(Method::GET, read().to(livez))]))
        .service(resource("/readyz", vec![(Method::GET, read().to(readyz))]));
}

/// Whether database and queue answer.
#[utoipa::path(get, path = "/health", operation_id = "getHealth", tag = "service",
    responses((status = 200, description = "Healthy", body = HealthDocument),
        (status = 503, description = "Unhealthy", body = HealthDocument)))]
pub async fn health(door: Data<FrontDoor>) -> HttpResponse {
    let document = door.health.basic();
    HttpResponse::build(status_of(document.status))
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(document)
}

/// Every part, with the latency and age of its last real probe.
#[utoipa::path(get, path = "/health/detailed", operation_id = "getHealthDetailed", tag = "service",
    responses((status = 200, description = "Healthy", body = serde_json::Value),
        (status = 503, description = "Unhealthy", body = serde_json::Value)))]
pub async fn detailed(door: Data<FrontDoor>) -> HttpResponse {
    let basic = door.health.basic();
    let pool = door.control.settings.pipeline.concurrency;
    let mut parts = door.health.parts(&door.tables, &door.book, pool);
    parts.insert("tls", tls(&door.control.tls_report()));
    let status = status_of(basic.status);
    let mut document = json!(basic);
    for (name, part) in parts {
        document["checks"][name] = part;
    }
    HttpResponse::build(status)
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .json(document)
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", operation_id = "getLiveness", tag = "service",
    responses((status = 200, description = "Alive", content_type = "text/plain", body = String)))]
pub async fn livez() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// Whether requests should be sent here: the table is loaded and the server is not draining.
#[utoipa::path(get, path = "/readyz", operation_id = "getReadiness", tag = "service",
    responses((status = 200, description = "Ready", content_type = "text/plain", body = String),
        (status = 503, description = "Not ready", content_type = "text/plain", body = String)))]
pub async fn readyz(door: Data<FrontDoor>) -> HttpResponse {
    readiness(door.tables.is_loaded() && !door.draining.is_cancelled())
}

fn readiness(ready: bool) -> HttpResponse {
    let (status, text) =
        if ready { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") };
    HttpResponse::build(status).content_type("text/plain; charset=utf-8").body(text)
}

/// What the operator's listener answers while the control surface waits for its database.
pub fn early_routes(config: &mut ServiceConfig) {
    config
        .service(resource("/livez", vec![(Method::GET, read().to(livez))]))
        .service(resource("/readyz", vec![(Method::GET, read().to(early_readyz))]));
}

async fn early_readyz(tables: Data<Tables>) -> HttpResponse {
    readiness(tables.is_loaded())
}

fn status_of(word: &str) -> StatusCode {
    if word == HEALTHY { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
