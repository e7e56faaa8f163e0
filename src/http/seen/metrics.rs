//! Owns `/metrics`: the numbers of all threads, summed when somebody asks, as Prometheus text.
//! Never answers on the front door: only on `http.operator_listen`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::http::Method;
use actix_web::web::{Data, ServiceConfig};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Observer;
use super::counters::{BOUNDS_US, CLASSES, CODES, Count, Counters, FAILURES, KINDS, PROTOCOLS, REASONS};
use crate::http::problem::Problem;
use crate::http::surface::{read, resource};
use crate::routing::Tables;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics(Registry);

#[derive(Debug)]
struct House {
    threads: Vec<Arc<Counters>>,
    accepting: Arc<Counters>,
    dropped: Option<Arc<AtomicU64>>,
    tables: Arc<Tables>,
    started: Instant,
    start_seconds: f64,
}

impl Metrics {
    pub fn new(observer: &Observer, tables: &Arc<Tables>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let house = House {
            threads: observer.threads.clone(),
            accepting: Arc::clone(&observer.accepting),
            dropped: observer.log.as_ref().map(super::AccessLog::dropped),
            tables: Arc::clone(tables),
            started: Instant::now(),
            start_seconds: now.as_secs_f64(),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(house));
        Self(registry)
    }

    /// # Errors
    /// Never: text takes whatever is written.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        prometheus_text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// `/metrics`, for the operator's listener.
pub fn routes(config: &mut ServiceConfig) {
    config.service(resource("/metrics", vec![(Method::GET, read().to(get))]));
}

async fn get(metrics: Data<Metrics>) -> Result<HttpResponse, Problem> {
    let text = metrics.text().map_err(|_| Problem::internal())?;
    Ok(HttpResponse::Ok().content_type(prometheus_text::CONTENT_TYPE).body(text))
}

impl House {
    fn sum(&self, of: impl Fn(&Counters) -> &Count) -> u64 {
        self.threads.iter().chain([&self.accepting]).map(|thread| of(thread).get()).sum()
    }
}

/// One family, for each of these labels.
fn counters<const N: usize>(
    to: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    values: [&str; N],
    of: impl Fn(usize) -> u64,
) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (at, value) in values.iter().enumerate() {
        family.encode_family(&[(label, *value)])?.encode_counter::<NoLabelSet, _, u64>(&of(at), None)?;
    }
    Ok(())
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut one = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    one.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

impl Collector for House {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let to = &mut encoder;
        self.requests(to)?;
        self.connections(to)?;
        let bad = |at: usize| self.sum(|c| &c.bad_requests[at]);
        counters(to, "libra_bad_requests", "Requests refused for their bytes", "reason", REASONS, bad)?;
        let refused = |at: usize| self.sum(|c| &c.refusals[at]);
        counters(to, "libra_refusals", "Requests refused by the front door", "code", CODES, refused)?;
        let failed = |at: usize| self.sum(|c| &c.failures[at]);
        counters(
            to,
            "libra_upstream_failures",
            "Requests that no origin answered",
            "kind",
            FAILURES,
            failed,
        )?;
        let retries = self.sum(|c| &c.retries);
        counter(to, "libra_upstream_retries", "Tries beyond a request's first", retries)?;
        let ways = |at: usize| self.sum(|c| if at == 0 { &c.opened } else { &c.reused });
        let how = ["opened", "reused"];
        counters(
            to,
            "libra_upstream_connections",
            "Connections to origins that requests took",
            "how",
            how,
            ways,
        )?;
        let dropped = self.dropped.as_ref().map_or(0, |dropped| dropped.load(Ordering::Relaxed));
        counter(to, "libra_access_log_dropped_lines", "Lines of the access log that were lost", dropped)?;
        let omitted = self.sum(|c| &c.omitted);
        let help = "Lines of the access log that were not written, there being too many of their sort";
        counter(to, "libra_access_log_omitted_lines", help, omitted)?;
        self.routes(to)?;
        let name = "process_start_time_seconds";
        gauge(to, name, "When this process started, in seconds since 1970", self.start_seconds)?;
        let up = self.started.elapsed().as_secs_f64();
        gauge(to, "libra_uptime_seconds", "Since the server started", up)
    }
}

impl House {
    fn requests(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that were answered or given up";
        let mut family = to.encode_descriptor("libra_requests", help, None, MetricType::Counter)?;
        for (kind, name) in KINDS.iter().enumerate() {
            for (class, status) in CLASSES.iter().enumerate() {
                let count = self.sum(|c| &c.requests[kind][class]);
                let labels = [("kind", *name), ("status", *status)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let help = "From a request's head to the last byte of its answer";
        let name = "libra_request_duration_seconds";
        let mut family = to.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (kind, name) in KINDS.iter().enumerate() {
            let bound = |at: usize| BOUNDS_US.get(at).map_or(f64::MAX, |us| *us as f64 / 1e6);
            let buckets: Vec<(f64, u64)> =
                (0..=BOUNDS_US.len()).map(|at| (bound(at), self.sum(|c| &c.durations[kind][at]))).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = self.sum(|c| &c.duration_us[kind]) as f64 / 1e6;
            let labels = [("kind", *name)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        let sent = |at: usize| self.sum(|c| &c.sent_bytes[at]);
        counters(to, "libra_sent_bytes", "Bytes of bodies that were given", "kind", KINDS, sent)
    }

    fn connections(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections of clients that are open";
        let mut family = to.encode_descriptor("libra_connections", help, None, MetricType::Gauge)?;
        for (number, thread) in self.threads.iter().enumerate() {
            let number = number.to_string();
            for (at, protocol) in PROTOCOLS.iter().enumerate() {
                let labels = [("thread", number.as_str()), ("protocol", *protocol)];
                family.encode_family(&labels)?.encode_gauge(&thread.connections[at].get())?;
            }
        }
        let in_hand = self.sum(|c| &c.in_hand) as f64;
        gauge(to, "libra_requests_in_hand", "Requests whose answer has not been given whole", in_hand)
    }

    fn routes(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.tables.counts();
        let mut family =
            to.encode_descriptor("libra_routes", "Entries of the routing table", None, MetricType::Gauge)?;
        for (table, count) in
            [("workers", counts.workers), ("previews", counts.previews), ("hosts", counts.hosts)]
        {
            family.encode_family(&[("table", table)])?.encode_gauge(&count)?;
        }
        gauge(to, "libra_route_epoch", "Of the routing table", self.tables.epoch() as f64)
    }
}
