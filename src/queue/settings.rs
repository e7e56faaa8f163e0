//! The `[nats]` section of the configuration: what may be set, and the checks that need no broker.
//!
//! It never reads files or the environment, and has no defaults of its own: `config.toml` is the default.

use std::fmt;
use std::time::Duration;

use async_nats::ServerAddr;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// Deliveries of one message, in all. A constant and not a setting: promise 3 of the architecture.
pub const MAX_DELIVERIES: i64 = 3;

const URL: &str = "nats.url";
const URL_FORM: &str = "use nats://host:port or tls://host:port, comma separated";

/// One setting that can't work, and what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingProblem {
    pub key: &'static str,
    pub problem: &'static str,
}

/// Settings of the broker and of what lies on it. `config.toml` documents each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: ServerUrl,
    pub user: String,
    pub password: SecretString,
    pub credentials_file: String,
    pub nkey_file: String,
    pub ca_file: String,
    pub client_certificate_file: String,
    pub client_key_file: String,
    pub allow_plaintext: bool,
    pub binary: String,

    pub stream: String,
    pub dead_letter_stream: String,
    pub consumer: String,
    pub replicas: u8,

    pub ack_wait_seconds: u64,
    pub pull_expires_seconds: u64,
    pub max_ack_pending: u32,
    pub duplicate_window_seconds: u64,
    pub stream_max_messages: u64,
    pub stream_max_bytes: u64,
    pub message_max_bytes: u64,
    pub dead_letter_max_bytes: u64,
    pub dead_letter_max_age_seconds: u64,

    pub publish_timeout_ms: u64,
    pub publish_pending_max: usize,
    pub request_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub ping_interval_seconds: u64,
    pub event_buffer_messages: usize,
    pub retry_backoff_min_ms: u64,
    pub retry_backoff_max_ms: u64,

    pub max_payload_bytes: u64,
    pub store_max_bytes: u64,
    pub log_max_bytes: u64,
    pub start_timeout_seconds: u64,
    pub stop_timeout_seconds: u64,
    pub hang_timeout_seconds: u64,
    pub owner_poll_ms: u64,
}

impl Settings {
    /// Everything that the keys alone show to be wrong, so that it can be reported at once.
    #[must_use]
    pub fn problems(&self) -> Vec<SettingProblem> {
        let mut problems = Vec::new();
        let mut demand = |holds: bool, key: &'static str, problem: &'static str| {
            if !holds {
                problems.push(SettingProblem { key, problem });
            }
        };
        for (key, name) in [
            ("nats.stream", &self.stream),
            ("nats.dead_letter_stream", &self.dead_letter_stream),
            ("nats.consumer", &self.consumer),
        ] {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            let holds = plain && !name.is_empty() && name.len() <= 64;
            demand(holds, key, "use 1 to 64 letters, digits, hyphens or underscores");
        }
        for (key, value) in [
            ("nats.ack_wait_seconds", self.ack_wait_seconds),
            ("nats.pull_expires_seconds", self.pull_expires_seconds),
            ("nats.publish_timeout_ms", self.publish_timeout_ms),
            ("nats.publish_pending_max", self.publish_pending_max as u64),
            ("nats.request_timeout_ms", self.request_timeout_ms),
            ("nats.connect_timeout_ms", self.connect_timeout_ms),
            ("nats.ping_interval_seconds", self.ping_interval_seconds),
            ("nats.event_buffer_messages", self.event_buffer_messages as u64),
            ("nats.retry_backoff_min_ms", self.retry_backoff_min_ms),
            ("nats.start_timeout_seconds", self.start_timeout_seconds),
            ("nats.hang_timeout_seconds", self.hang_timeout_seconds),
            ("nats.owner_poll_ms", self.owner_poll_ms),
        ] {
            demand(value > 0, key, "must be at least 1");
        }
        let differ = self.stream != self.dead_letter_stream;
        demand(differ, "nats.dead_letter_stream", "must differ from nats.stream");
        demand(matches!(self.replicas, 1 | 3 | 5), "nats.replicas", "use 1, 3 or 5");
        demand(self.url.servers().is_some(), URL, URL_FORM);
        if self.is_embedded() {
            demand(self.replicas == 1, "nats.replicas", "the embedded broker holds one copy; use 1");
            let streams = self.stream_max_bytes.saturating_add(self.dead_letter_max_bytes);
            demand(
                streams <= self.store_max_bytes,
                "nats.store_max_bytes",
                "must hold stream_max_bytes and dead_letter_max_bytes together",
            );
        } else {
            self.demand_remote(&mut demand);
        }
        problems
    }

    /// What a broker that runs elsewhere asks for: one way to sign in, and no bytes in the clear.
    fn demand_remote(&self, demand: &mut impl FnMut(bool, &'static str, &'static str)) {
        let servers = self.url.servers().unwrap_or_default();
        let password = !self.password.expose_secret().is_empty();
        demand(
            self.user.is_empty() != password,
            "nats.password",
            "goes with nats.user: set both, or neither",
        );
        let ways = [
            !self.user.is_empty(),
            servers.iter().any(ServerAddr::has_user_pass),
            !self.credentials_file.trim().is_empty(),
            !self.nkey_file.trim().is_empty(),
        ];
        demand(
            ways.iter().filter(|way| **way).count() <= 1,
            "nats.user",
            "sign in one way: user and password, in the address, credentials_file or nkey_file",
        );
        let (certificate, key) = (self.client_certificate_file.trim(), self.client_key_file.trim());
        demand(
            certificate.is_empty() == key.is_empty(),
            "nats.client_key_file",
            "goes with nats.client_certificate_file: set both, or neither",
        );
        let plain = |server: &ServerAddr| !server.tls_required();
        let means_tls = !self.ca_file.trim().is_empty() || !certificate.is_empty();
        demand(
            !(means_tls && servers.iter().any(plain)),
            URL,
            "certificates are set, so every address has to be tls://host:port",
        );
        let leaves = servers.iter().any(|server| plain(server) && !is_loopback(server.host()));
        demand(
            !leaves || self.allow_plaintext,
            URL,
            "is not encrypted; use tls://, or set nats.allow_plaintext = true for a network you trust",
        );
    }

    /// True when the broker is our own child rather than one that the operator runs.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.url.0.trim().is_empty()
    }

    pub(super) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(super) fn stop_timeout(&self) -> Duration {
        Duration::from_secs(self.stop_timeout_seconds)
    }
}

/// Addresses of a broker, comma separated. May carry a user and password, which `Debug` hides.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct ServerUrl(String);

impl ServerUrl {
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The addresses without user and password, for people and logs.
    #[must_use]
    pub fn masked(&self) -> String {
        self.0.split(',').map(|one| mask_userinfo(one.trim())).collect::<Vec<_>>().join(",")
    }

    /// `None` when one of them is no address. The parser's own message may quote a password.
    pub(super) fn servers(&self) -> Option<Vec<ServerAddr>> {
        let parts = self.0.split(',').map(str::trim).filter(|one| !one.is_empty());
        parts.map(|one| one.parse::<ServerAddr>().ok()).collect()
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.masked())
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn mask_userinfo(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let hidden = if host.len() == rest.len() { "" } else { "***@" };
    let separator = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{separator}{hidden}{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_of_an_address_are_never_shown() {
        let url = ServerUrl::new("nats://me:p@ss@a.example:4222, tls://b.example");
        assert_eq!(url.masked(), "nats://***@a.example:4222,tls://b.example");
        assert!(!format!("{url:?}").contains("p@ss"));
    }

    #[test]
    fn every_mistake_is_reported_at_once_and_none_quotes_a_password() {
        let settings: Settings = toml::from_str(
            r#"
            url = "nats://me:secret@:::"
            user = ""
            password = ""
            credentials_file = ""
            nkey_file = ""
            ca_file = ""
            client_certificate_file = ""
            client_key_file = ""
            allow_plaintext = false
            binary = ""
            stream = "a.b"
            dead_letter_stream = "dlq"
            consumer = ""
            replicas = 2
            ack_wait_seconds = 0
            pull_expires_seconds = 1
            max_ack_pending = 1
            duplicate_window_seconds = 1
            stream_max_messages = 1
            stream_max_bytes = 1
            message_max_bytes = 1
            dead_letter_max_bytes = 1
            dead_letter_max_age_seconds = 1
            publish_timeout_ms = 1
            publish_pending_max = 1
            request_timeout_ms = 1
            connect_timeout_ms = 1
            ping_interval_seconds = 1
            event_buffer_messages = 1
            retry_backoff_min_ms = 1
            retry_backoff_max_ms = 1
            max_payload_bytes = 1
            store_max_bytes = 1
            log_max_bytes = 1
            start_timeout_seconds = 1
            stop_timeout_seconds = 1
            hang_timeout_seconds = 1
            owner_poll_ms = 1
            "#,
        )
        .unwrap();
        let problems = settings.problems();
        let keys: Vec<&str> = problems.iter().map(|one| one.key).collect();
        assert_eq!(
            keys,
            ["nats.stream", "nats.consumer", "nats.ack_wait_seconds", "nats.replicas", "nats.url"]
        );
        assert!(!format!("{problems:?} {settings:?}").contains("secret"));
    }

    fn remote(changes: &str) -> Vec<&'static str> {
        let defaults: toml::Table = crate::config::DEFAULTS.parse().unwrap();
        let mut table = defaults["nats"].as_table().unwrap().clone();
        table.extend(changes.parse::<toml::Table>().unwrap());
        let settings: Settings = table.try_into().unwrap();
        settings.problems().into_iter().map(|one| one.key).collect()
    }

    #[test]
    fn plain_text_leaves_this_machine_only_where_it_is_allowed() {
        let none: [&str; 0] = [];
        for fine in [
            "url = 'nats://127.0.0.1:1,nats://[::1]:2,nats://localhost:3'",
            "url = 'tls://a.example, tls://b.example'",
            "url = 'nats://a.example'\nallow_plaintext = true",
        ] {
            assert_eq!(remote(fine), none, "{fine}");
        }
        for open in ["nats://a.example", "tls://a.example,nats://b.example", "nats://127.0.0.1.example"] {
            assert_eq!(remote(&format!("url = '{open}'")), ["nats.url"], "{open}");
        }
        // Whoever names certificates does not mean plain text, not even on this machine.
        assert_eq!(remote("url = 'nats://127.0.0.1:1'\nca_file = 'ca.pem'"), ["nats.url"]);
    }

    #[test]
    fn there_is_one_way_to_sign_in_and_pairs_are_whole() {
        let url = "url = 'nats://127.0.0.1:1'\n";
        assert_eq!(remote(&format!("{url}user = 'me'")), ["nats.password"]);
        assert_eq!(remote(&format!("{url}password = 'x'")), ["nats.password"]);
        let two = format!("{url}user = 'me'\npassword = 'x'\nnkey_file = 'seed'");
        assert_eq!(remote(&two), ["nats.user"]);
        let half = "url = 'tls://a.example'\nclient_certificate_file = 'c.pem'";
        assert_eq!(remote(half), ["nats.client_key_file"]);
    }
}
