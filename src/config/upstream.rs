//! The `[upstream]` section: which origins may be registered, and the policy of those that say nothing.
//! Owns the keys and their checks; the ranges of a policy are the domain's.

use std::time::Duration;

use serde::Deserialize;

use crate::domain::upstream::{Ejection, HealthCheck, HostHeader, UpstreamPolicy};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub allowed_networks: Vec<ipnet::IpNet>,
    pub unix_directories: Vec<String>,
    pub max_origins: usize,
    pub ca_bytes: usize,
    pub health_path: String,
    pub health_interval_ms: u64,
    pub health_timeout_ms: u64,
    pub healthy_after: u32,
    pub unhealthy_after: u32,
    pub connect_timeout_ms: u64,
    pub first_byte_timeout_ms: u64,
    pub idle_timeout_ms: u64,
    pub connections_per_origin: u32,
    pub idle_connections: usize,
    pub keep_idle_ms: u64,
    pub look_ms: u64,
    pub keep_names_ms: u64,
    pub retries: usize,
    pub drain_seconds: u64,
    pub host_header: HostHeader,
    pub eject_after: u32,
    pub eject_base_ms: u64,
    pub eject_max_ms: u64,
    pub eject_max_percent: u8,
}

/// A policy's field and the key that is its default.
const KEYS: &[(&str, &str)] = &[
    ("health.path", "upstream.health_path"),
    ("health.intervalMs", "upstream.health_interval_ms"),
    ("health.timeoutMs", "upstream.health_timeout_ms"),
    ("health.healthyAfter", "upstream.healthy_after"),
    ("health.unhealthyAfter", "upstream.unhealthy_after"),
    ("connectTimeoutMs", "upstream.connect_timeout_ms"),
    ("firstByteTimeoutMs", "upstream.first_byte_timeout_ms"),
    ("idleTimeoutMs", "upstream.idle_timeout_ms"),
    ("connectionsPerOrigin", "upstream.connections_per_origin"),
    ("ejection.after", "upstream.eject_after"),
    ("ejection.baseMs", "upstream.eject_base_ms"),
    ("ejection.maxMs", "upstream.eject_max_ms"),
    ("ejection.maxPercent", "upstream.eject_max_percent"),
];

impl Upstream {
    /// What holds where a Worker's own policy says nothing.
    #[must_use]
    pub fn policy(&self) -> UpstreamPolicy {
        let ms = Duration::from_millis;
        UpstreamPolicy {
            health: HealthCheck {
                path: self.health_path.clone(),
                interval: ms(self.health_interval_ms),
                timeout: ms(self.health_timeout_ms),
                healthy_after: self.healthy_after,
                unhealthy_after: self.unhealthy_after,
            },
            connect_timeout: ms(self.connect_timeout_ms),
            first_byte_timeout: ms(self.first_byte_timeout_ms),
            idle_timeout: ms(self.idle_timeout_ms),
            connections_per_origin: self.connections_per_origin,
            host_header: self.host_header,
            ejection: Ejection {
                after: self.eject_after,
                base: ms(self.eject_base_ms),
                max: ms(self.eject_max_ms),
                max_percent: self.eject_max_percent,
            },
        }
    }

    /// Every mistake as `(key, what is allowed)`.
    pub(super) fn mistakes(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, key: &str, allowed: &str| {
            if !holds {
                found.push((key.to_owned(), allowed.to_owned()));
            }
        };
        demand((1..=256).contains(&self.max_origins), "upstream.max_origins", "must be 1 to 256");
        demand((1_024..=1_048_576).contains(&self.ca_bytes), "upstream.ca_bytes", "must be 1024 to 1048576");
        demand(
            (1..=10_000).contains(&self.idle_connections),
            "upstream.idle_connections",
            "must be 1 to 10000",
        );
        demand(self.keep_idle_ms >= 100, "upstream.keep_idle_ms", "must be at least 100");
        demand(self.keep_names_ms <= 60_000, "upstream.keep_names_ms", "must be 0 to 60000");
        demand(self.look_ms >= 100, "upstream.look_ms", "must be at least 100");
        demand(self.retries <= 10, "upstream.retries", "must be 0 to 10");
        let plain = |folder: &String| {
            folder.strip_prefix('/').is_some_and(|rest| {
                rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
                    && !rest.contains(char::is_control)
            })
        };
        demand(
            self.unix_directories.iter().all(plain),
            "upstream.unix_directories",
            "must be absolute folders without a closing /, such as /run/apps",
        );
        found.extend(self.policy().problems().into_iter().map(|problem| {
            let key = KEYS.iter().find(|(field, _)| *field == problem.field);
            (key.map_or(problem.field.clone(), |(_, key)| (*key).to_owned()), problem.message)
        }));
        found
    }
}
