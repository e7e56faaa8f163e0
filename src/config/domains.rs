//! The settings `[domains]`: names, and how claims on custom domains are bounded and looked after.

use std::net::IpAddr;

use serde::Deserialize;

use crate::domain::proof::Rules;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domains {
    pub base: String,
    pub public_url: String,
    pub platform_hosts: Vec<String>,
    pub reserved: Vec<String>,
    pub addresses: Vec<String>,
    pub claims: DomainClaims,
    pub checks: DomainChecks,
    pub dns: crate::dns::Settings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainClaims {
    pub per_project: u64,
    pub per_organization: u64,
    pub pending_days: i64,
    pub quarantine_days: i64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainChecks {
    pub interval_ms: u64,
    pub concurrency: usize,
    pub hold_seconds: i64,
    pub pending_first_seconds: i64,
    pub pending_longest_seconds: i64,
    pub proved_seconds: i64,
    pub unanswered_seconds: i64,
    pub lost_checks: i32,
    pub lost_seconds: i64,
    pub asked_seconds: i64,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

impl DomainClaims {
    #[must_use]
    pub const fn pending_ms(&self) -> i64 {
        self.pending_days * DAY_MS
    }
}

impl Domains {
    /// When claims are looked at, and what it takes to lose one.
    #[must_use]
    pub const fn rules(&self) -> Rules {
        let DomainChecks { pending_first_seconds, pending_longest_seconds, proved_seconds, .. } = self.checks;
        Rules {
            pending_first: pending_first_seconds * 1_000,
            pending_longest: pending_longest_seconds * 1_000,
            proved: proved_seconds * 1_000,
            unanswered: self.checks.unanswered_seconds * 1_000,
            lost_checks: self.checks.lost_checks,
            lost: self.checks.lost_seconds * 1_000,
            held: self.claims.quarantine_days * DAY_MS,
        }
    }

    /// Every mistake of what belongs to custom domains, as `(key, what is allowed)`.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = self.dns.mistakes();
        let mut demand = |holds: bool, key, allowed| {
            if !holds {
                found.push((key, allowed));
            }
        };
        let addresses = self.addresses.iter().all(|a| a.parse::<IpAddr>().is_ok());
        demand(addresses, "domains.addresses", "must be IP addresses");
        let (claims, checks) = (&self.claims, &self.checks);
        let most = claims.per_organization;
        demand((1..=100_000).contains(&most), "domains.claims.per_organization", "must be 1 to 100000");
        demand(
            (1..=most).contains(&claims.per_project),
            "domains.claims.per_project",
            "must be 1 to domains.claims.per_organization",
        );
        demand((1..=90).contains(&claims.pending_days), "domains.claims.pending_days", "must be 1 to 90");
        demand(
            (1..=365).contains(&claims.quarantine_days),
            "domains.claims.quarantine_days",
            "must be 1 to 365",
        );
        demand(
            (50..=60_000).contains(&checks.interval_ms),
            "domains.checks.interval_ms",
            "must be 50 to 60000",
        );
        demand((1..=256).contains(&checks.concurrency), "domains.checks.concurrency", "must be 1 to 256");
        demand(
            u64::try_from(checks.hold_seconds).is_ok_and(|s| s * 1_000 > self.dns.longest_ms()),
            "domains.checks.hold_seconds",
            "must be longer than domains.dns.timeout_ms × (domains.dns.attempts + 1)",
        );
        let day = 1..=86_400;
        demand(
            day.contains(&checks.pending_first_seconds),
            "domains.checks.pending_first_seconds",
            "must be 1 to 86400",
        );
        demand(
            (checks.pending_first_seconds..=86_400).contains(&checks.pending_longest_seconds),
            "domains.checks.pending_longest_seconds",
            "must be domains.checks.pending_first_seconds to 86400",
        );
        demand(day.contains(&checks.proved_seconds), "domains.checks.proved_seconds", "must be 1 to 86400");
        demand(
            day.contains(&checks.unanswered_seconds),
            "domains.checks.unanswered_seconds",
            "must be 1 to 86400",
        );
        demand((1..=1_000).contains(&checks.lost_checks), "domains.checks.lost_checks", "must be 1 to 1000");
        demand(
            (0..=2_592_000).contains(&checks.lost_seconds),
            "domains.checks.lost_seconds",
            "must be 0 to 2592000",
        );
        demand(
            (0..=3_600).contains(&checks.asked_seconds),
            "domains.checks.asked_seconds",
            "must be 0 to 3600",
        );
        found
    }
}
