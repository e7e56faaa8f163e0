//! Makes the front door from the settings: the edge's state, its bounds, and the control surface behind it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use actix_web::middleware::from_fn;
use actix_web::web::{self, Data};
use tokio_util::sync::CancellationToken;

use super::AppError;
use super::https::secure;
use super::open_files::Room;
use super::parts::Base;
use super::serve::not_found;
use crate::config::Settings;
use crate::http::door::{Bounds, Door, DoorSettings, Http2, Listener, Patience, control};
use crate::http::edge::rates::{Rate, RateSettings};
use crate::http::edge::{EdgeState, Limits, Rates, TrustedProxies};
use crate::http::seen::Observer;
use crate::http::{FrontDoor, api, problem, surface};
use crate::routing::{HostRules, Tables};
use crate::runtime::BodyCache;

/// At a stop, sockets are closed within this; half of the least time that a stop may take.
const SOCKET_JITTER: Duration = Duration::from_secs(2);

pub fn edge_state(
    settings: &Settings,
    base: &Base,
    tables: &Arc<Tables>,
    tls_port: Option<u16>,
) -> Result<EdgeState, AppError> {
    let domains = &settings.domains;
    let rules = HostRules::new(&domains.base, &domains.platform_hosts, &domains.reserved)
        .map_err(|e| AppError::Settings(format!("domains: {e}")))?;
    Ok(EdgeState {
        tables: Arc::clone(tables),
        rules: Arc::new(rules),
        cache: Arc::new(BodyCache::new(&settings.runtime)),
        probe_key: base.probe_key(),
        trusted_proxies: Arc::new(trusted_proxies(settings)?),
        limits: Limits {
            body_bytes: settings.http.worker_body_bytes,
            path_routing: settings.dispatch.path_routing,
            socket_jitter: SOCKET_JITTER,
        },
        secure: Arc::new(secure(settings, &base.tls, tls_port)),
        rates: Arc::new(Rates::new(rate_settings(settings))),
        loop_mark: loop_mark(),
        stopping: CancellationToken::new(),
        refuse: problem::refuse,
    })
}

/// This process, as origins and everybody behind them see it.
fn loop_mark() -> http::HeaderValue {
    let mark = format!("libra; id={}", crate::domain::id::random());
    http::HeaderValue::from_str(&mark).unwrap_or(http::HeaderValue::from_static("libra"))
}

fn rate_settings(settings: &Settings) -> RateSettings {
    let rates = &settings.http.rates;
    let rate = |per_second, burst| {
        Some(Rate { per_second: NonZeroU32::new(per_second)?, burst: NonZeroU32::new(burst)? })
    };
    RateSettings {
        client: rate(rates.client_per_second, rates.client_burst),
        worker: rate(rates.worker_per_second, rates.worker_burst),
        exempt: rates.exempt.clone(),
        remembered: rates.remembered,
    }
}

pub fn open_door(
    settings: &Settings,
    room: Room,
    listeners: Vec<Listener>,
    edge: EdgeState,
    control: control::Late,
    observer: &Observer,
) -> Result<Door, AppError> {
    Door::open(door_settings(settings, room, &edge), listeners, edge, control, observer)
        .map_err(AppError::Run)
}

pub fn control_surface(door: Data<FrontDoor>) -> control::Configure {
    Arc::new(move |config| {
        config
            .app_data(door.clone())
            .service(
                web::scope("")
                    .wrap(from_fn(surface::wrap))
                    .configure(api::routes)
                    .default_service(web::to(not_found)),
            )
            .default_service(web::to(surface::pathless));
    })
}

fn door_settings(settings: &Settings, room: Room, edge: &EdgeState) -> DoorSettings {
    let http = &settings.http;
    DoorSettings {
        threads: http.threads(),
        bounds: Bounds {
            head_bytes: http.header_bytes,
            patience: Patience {
                head: Duration::from_millis(http.header_timeout_ms),
                keep_alive: Duration::from_secs(http.keep_alive_seconds),
                stream: Duration::from_secs(http.stream_idle_seconds),
                linger: Duration::from_millis(http.linger_ms),
                slowest_bytes_per_second: http.slowest_bytes_per_second,
            },
        },
        tls_handshake: Duration::from_millis(http.tls_handshake_ms),
        connections: room.connections,
        connections_of_one: http.max_connections_of_one,
        requests: room.requests,
        http2: Http2 {
            streams: http.http2.streams,
            pending_resets: http.http2.pending_resets,
            own_resets: http.http2.own_resets,
            stream_window_bytes: http.http2.stream_window_bytes,
            connection_window_bytes: http.http2.connection_window_bytes,
            send_buffer_bytes: http.http2.send_buffer_bytes,
            ping: Duration::from_secs(http.http2.ping_seconds),
            ping_timeout: Duration::from_secs(http.http2.ping_timeout_seconds),
        },
        trusted_proxies: Arc::clone(&edge.trusted_proxies),
    }
}

fn trusted_proxies(settings: &Settings) -> Result<TrustedProxies, AppError> {
    TrustedProxies::parse(&settings.http.trusted_proxies)
        .map_err(|e| AppError::Settings(format!("http.trusted_proxies: {e}")))
}
