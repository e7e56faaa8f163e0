//! Makes the upstream that a Worker's route leads to from what an operator registered.
//! Keeps the one that is in the table while nothing was changed: its connections and what it learnt of its origins.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Settings;
use crate::control::upstreams::{self, origin_rule};
use crate::routing::{Live, Tables};
use crate::runtime::upstream::{self, MayConnect, Parts, Reuse, Upstream};
use crate::store::upstreams::UpstreamRow;
use crate::tls::{client_config, trusting_nobody};

/// The upstream of `worker`, with its origins watched.
pub fn upstream_of(settings: &Settings, tables: &Tables, worker: &str, row: &UpstreamRow) -> Arc<Upstream> {
    // Each change of a registration has an epoch of its own; two may share a millisecond.
    let key = format!("{}.{}", row.id, row.route_epoch);
    if let Some(route) = tables.worker(worker)
        && let Live::Upstream(known) = &route.live
        && known.key() == key
    {
        return Arc::clone(known);
    }
    let registered = upstreams::Upstream::of(row, &settings.upstream.policy());
    let rule = origin_rule(settings);
    // Judged again: the operator may have narrowed the rule since.
    let (origins, refused): (Vec<_>, Vec<_>) =
        registered.origins.into_iter().partition(|origin| rule.check(origin).is_ok());
    for origin in refused {
        tracing::warn!(project.id = %row.project_id, origin = %origin, "a registered origin is not allowed any more");
    }
    let tls = match &registered.ca {
        None => upstream::trusted_authorities(),
        Some(pem) => authorities(pem, row),
    };
    let may_connect: MayConnect =
        Arc::new(move |address| rule.networks.may_connect(address.ip()) && !rule.is_own(address));
    let upstream = Arc::new(Upstream::new(Parts {
        key,
        origins,
        policy: registered.policy,
        reuse: Reuse {
            threads: settings.http.threads(),
            idle_connections: settings.upstream.idle_connections,
            keep_idle: Duration::from_millis(settings.upstream.keep_idle_ms),
            look: Duration::from_millis(settings.upstream.look_ms),
            retries: settings.upstream.retries,
            drain: Duration::from_secs(settings.upstream.drain_seconds),
            keep_names: Duration::from_millis(settings.upstream.keep_names_ms),
        },
        may_connect,
        tls,
    }));
    upstream::watch(&upstream);
    upstream
}

/// Where the authorities can't be used, which registering made sure of, nobody is trusted in their place.
fn authorities(pem: &str, row: &UpstreamRow) -> Arc<rustls::ClientConfig> {
    client_config(pem).unwrap_or_else(|e| {
        tracing::error!(project.id = %row.project_id, error = %e, "the authorities of registered origins can't be used");
        trusting_nobody()
    })
}
