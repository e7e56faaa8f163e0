//! What can be known of the settings without trying them: ranges, and what production demands.

use secrecy::ExposeSecret;

use super::{Environment, Settings};
use crate::domain::hostname::Hostname;

/// A key shorter than this can be guessed.
const SECRET_BYTES: usize = 32;

/// Every mistake as `(key, what is allowed)`.
pub fn mistakes(s: &Settings) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut demand = |holds: bool, key: &str, allowed: &str| {
        if !holds {
            found.push((key.to_owned(), allowed.to_owned()));
        }
    };
    demand(!s.http.listen.is_empty(), "http.listen", "must name at least one address");
    for address in s.http.listen.iter().chain(std::iter::once(&s.http.operator_listen)) {
        let key = if address == &s.http.operator_listen { "http.operator_listen" } else { "http.listen" };
        demand(
            address.parse::<std::net::SocketAddr>().is_ok(),
            key,
            "must be IP:PORT, such as 127.0.0.1:3008",
        );
    }
    demand(
        matches!(s.log.level.as_str(), "trace" | "debug" | "info" | "warn" | "error"),
        "log.level",
        "must be one of trace, debug, info, warn, error",
    );
    for (holds, key, allowed) in access_log(&s.log.access) {
        demand(holds, key, allowed);
    }
    for (holds, key, allowed) in front_door(&s.http) {
        demand(holds, key, allowed);
    }
    let base = Hostname::parse(&s.domains.base);
    let plain = base
        .is_ok_and(|h| h.as_str() == s.domains.base && !h.is_ip_literal() && s.domains.base.contains('.'));
    demand(plain, "domains.base", "must be a domain name in lower case, such as libra.sh");
    let url = &s.domains.public_url;
    let url_ok = url.is_empty() || url.starts_with("http://") || url.starts_with("https://");
    demand(url_ok, "domains.public_url", "must be empty or an http:// or https:// address");
    demand(s.start.wait_seconds <= 3600, "start.wait_seconds", "must be 0 to 3600");
    demand(s.start.notice_seconds >= 1, "start.notice_seconds", "must be at least 1");
    demand((1..=3600).contains(&s.routes.file_seconds), "routes.file_seconds", "must be 1 to 3600");
    demand(
        (1..=8_760).contains(&s.routes.changes_kept_hours),
        "routes.changes_kept_hours",
        "must be 1 to 8760 (a year)",
    );
    demand(s.pipeline.hand_overs >= 0, "pipeline.hand_overs", "must be at least 0");
    demand((1..=64).contains(&s.runtime.fetches), "runtime.fetches", "must be 1 to 64");
    demand(s.start.retry_ms >= 10, "start.retry_ms", "must be at least 10");
    demand((1..=64).contains(&s.pipeline.concurrency), "pipeline.concurrency", "must be 1 to 64");
    demand(s.pipeline.heartbeat_seconds >= 1, "pipeline.heartbeat_seconds", "must be at least 1");
    demand(
        s.pipeline.heartbeat_seconds * 2 <= s.pipeline.lease_seconds,
        "pipeline.lease_seconds",
        "must be at least twice pipeline.heartbeat_seconds",
    );
    demand(
        s.pipeline.lease_seconds < s.nats.ack_wait_seconds,
        "pipeline.lease_seconds",
        "must be less than nats.ack_wait_seconds",
    );
    demand(s.pipeline.look_ms >= 50, "pipeline.look_ms", "must be at least 50");
    demand(s.pipeline.total_timeout_seconds >= 1, "pipeline.total_timeout_seconds", "must be at least 1");
    let files = [
        ("pipeline.manifest_bytes", s.pipeline.manifest_bytes),
        ("pipeline.project_file_bytes", s.pipeline.project_file_bytes),
        ("pipeline.diagnosis_bytes", s.pipeline.diagnosis_bytes),
    ];
    for (key, bytes) in files {
        demand((1_024..=16_777_216).contains(&bytes), key, "must be 1024 to 16777216");
    }
    demand(s.sources.max_files >= 1, "sources.max_files", "must be at least 1");
    demand(s.quota.deployments_per_month >= 0, "quota.deployments_per_month", "must not be negative");
    for (holds, key, allowed) in dead_letters(&s.dead_letters) {
        demand(holds, key, allowed);
    }
    for (holds, key, allowed) in queue(&s.queue) {
        demand(holds, key, allowed);
    }
    demand(
        s.toolchain.install_timeout_seconds < s.pipeline.sandbox_timeout_seconds,
        "toolchain.install_timeout_seconds",
        "must be less than pipeline.sandbox_timeout_seconds",
    );
    demand(s.versions.retained >= 1, "versions.retained", "must be at least 1");
    demand(s.versions.confirm_ms <= 60_000, "versions.confirm_ms", "must be 0 to 60000");
    demand(s.sweep.interval_ms >= 50, "sweep.interval_ms", "must be at least 50");
    demand(s.http.status_requests_per_minute >= 1, "http.status_requests_per_minute", "must be at least 1");
    for point in &s.testing.hold {
        let known = point.parse::<crate::pipeline::Point>().is_ok();
        demand(
            known,
            "testing.hold",
            "must be <step>.<begin|switch|end>, with @<project> for one project only",
        );
    }
    for proxy in &s.http.trusted_proxies {
        let ok = proxy.parse::<ipnet::IpNet>().is_ok() || proxy.parse::<std::net::IpAddr>().is_ok();
        demand(ok, "http.trusted_proxies", "must be IP addresses or networks, such as 10.0.0.0/8");
    }
    match s.sandbox.provider.as_str() {
        "local" | "daytona" | "e2b" | "none" => {}
        _ => demand(false, "sandbox.provider", "must be local, daytona or e2b, or none in development"),
    }
    // A sandbox that ends before its deployment would look like a provider's failure.
    let total = s.pipeline.total_timeout_seconds;
    let longer = "must be longer than pipeline.total_timeout_seconds";
    demand(s.sandbox.e2b.lifetime_seconds > total, "sandbox.e2b.lifetime_seconds", longer);
    demand(s.sandbox.daytona.lifetime_minutes * 60 > total, "sandbox.daytona.lifetime_minutes", longer);
    if s.environment == Environment::Production {
        production(s, &mut demand);
    }
    let owned = |(key, allowed): (&str, &str)| (key.to_owned(), allowed.to_owned());
    found.extend(s.upstream.mistakes());
    found.extend(s.domains.mistakes().into_iter().map(owned));
    found.extend(s.blobs.problems().into_iter().map(owned));
    found.extend(s.sandbox.mistakes().into_iter().map(|text| split(&text)));
    found.extend(s.tls.problems());
    found.extend(s.database.problems());
    found.extend(s.toolchain.mistakes().into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
    found.extend(s.nats.problems().into_iter().map(|p| (p.key.to_owned(), p.problem.to_owned())));
    found
}

/// Bounds that would make the front door useless, or that the protocol forbids.
fn front_door(http: &super::Http) -> [(bool, &'static str, &'static str); 17] {
    let h2 = &http.http2;
    // RFC 9113 §6.9.1.
    let window = |bytes: u32| (65_535..=i32::MAX as u32).contains(&bytes);
    let is_earned =
        |rate: u32, burst: u32| rate == 0 || burst <= rate.saturating_mul(super::Rates::BURST_SECONDS);
    let windows = "must be 65535 to 2147483647";
    [
        ((1_024..=1_048_576).contains(&http.header_bytes), "http.header_bytes", "must be 1024 to 1048576"),
        ((1..=65_535).contains(&http.backlog), "http.backlog", "must be 1 to 65535"),
        (http.header_timeout_ms >= 100, "http.header_timeout_ms", "must be at least 100"),
        (http.stream_idle_seconds >= 1, "http.stream_idle_seconds", "must be at least 1"),
        (
            http.slowest_bytes_per_second <= 1_048_576,
            "http.slowest_bytes_per_second",
            "must be at most 1048576: an ordinary client must keep up",
        ),
        (http.max_connections >= 1, "http.max_connections", "must be at least 1"),
        (http.max_connections_of_one >= 1, "http.max_connections_of_one", "must be at least 1"),
        (http.max_requests >= 1, "http.max_requests", "must be at least 1"),
        (http.tls_handshake_ms >= 100, "http.tls_handshake_ms", "must be at least 100"),
        (h2.streams >= 1, "http.http2.streams", "must be at least 1"),
        (
            (http.rates.client_per_second == 0) == (http.rates.client_burst == 0)
                && (http.rates.worker_per_second == 0) == (http.rates.worker_burst == 0),
            "http.rates",
            "a rate and its burst are both 0, or neither",
        ),
        (
            is_earned(http.rates.client_per_second, http.rates.client_burst)
                && is_earned(http.rates.worker_per_second, http.rates.worker_burst),
            "http.rates",
            "a burst is at most 120 times its rate, or it would outlive what is remembered of a client",
        ),
        (http.rates.remembered >= 100, "http.rates.remembered", "must be at least 100"),
        (window(h2.stream_window_bytes), "http.http2.stream_window_bytes", windows),
        (window(h2.connection_window_bytes), "http.http2.connection_window_bytes", windows),
        (h2.send_buffer_bytes >= 16_384, "http.http2.send_buffer_bytes", "must be at least 16384"),
        (
            h2.ping_seconds >= 1 && h2.ping_timeout_seconds >= 1,
            "http.http2.ping_seconds",
            "must be at least 1, and http.http2.ping_timeout_seconds too",
        ),
    ]
}

/// Secrets of failures are not kept for ever, and nobody fills the database with refused messages.
fn dead_letters(desk: &super::DeadLetters) -> [(bool, &'static str, &'static str); 3] {
    [
        ((1..=3_650).contains(&desk.env_kept_days), "dead_letters.env_kept_days", "must be 1 to 3650"),
        (
            desk.invalid_per_organization <= 100_000,
            "dead_letters.invalid_per_organization",
            "must be at most 100000",
        ),
        (
            (1_024..=1_048_576).contains(&desk.original_bytes),
            "dead_letters.original_bytes",
            "must be 1024 to 1048576",
        ),
    ]
}

/// A builder must be able to miss a report, and a grant to be claimed in its time.
fn queue(queue: &super::Queue) -> [(bool, &'static str, &'static str); 5] {
    [
        (queue.heartbeat_seconds >= 1, "queue.heartbeat_seconds", "must be at least 1"),
        (
            queue.silent_seconds >= queue.heartbeat_seconds * 2,
            "queue.silent_seconds",
            "must be at least twice queue.heartbeat_seconds",
        ),
        ((1..=60).contains(&queue.grant_seconds), "queue.grant_seconds", "must be 1 to 60"),
        ((100..=100_000).contains(&queue.line_jobs), "queue.line_jobs", "must be 100 to 100000"),
        ((50..=10_000).contains(&queue.look_ms), "queue.look_ms", "must be 50 to 10000"),
    ]
}

/// Too small, and each line would wake the writing thread; too large, and memory goes to lines that wait.
fn access_log(log: &super::LogAccess) -> [(bool, &'static str, &'static str); 4] {
    [
        (log.file_bytes >= 65_536, "log.access.file_bytes", "must be at least 65536"),
        ((10..=60_000).contains(&log.flush_ms), "log.access.flush_ms", "must be 10 to 60000"),
        (
            (4_096..=16_777_216).contains(&log.buffer_bytes),
            "log.access.buffer_bytes",
            "must be 4096 to 16777216",
        ),
        ((1..=4_096).contains(&log.buffers), "log.access.buffers", "must be 1 to 4096"),
    ]
}

fn production(s: &Settings, demand: &mut impl FnMut(bool, &str, &str)) {
    let secret = s.security.secret_key.expose_secret();
    let strong = secret.len() >= SECRET_BYTES && !secret.contains("development");
    demand(
        strong,
        "security.secret_key",
        "production needs a secret of its own: 32 or more random characters, not a development secret",
    );
    demand(
        !s.domains.base.ends_with(".localhost"),
        "domains.base",
        "production needs the domain whose subdomains lead here, such as libra.sh",
    );
    demand(
        s.sandbox.provider != "none",
        "sandbox.provider",
        "none gives no isolation; production refuses it",
    );
    demand(!s.testing.fault_injection, "testing.fault_injection", "production refuses it");
    demand(s.testing.hold.is_empty(), "testing.hold", "production refuses it");
    let bootstrap = s.data_dir.join("bootstrap.json");
    demand(
        !bootstrap.exists(),
        "data_dir",
        "holds bootstrap.json, a development credential; delete the file (the next start names its token, to be revoked)",
    );
}

/// `key: what is allowed` as its two parts.
fn split(text: &str) -> (String, String) {
    text.split_once(": ")
        .map_or_else(|| (text.to_owned(), String::new()), |(k, v)| (k.to_owned(), v.to_owned()))
}
