//! Settings: every key with its type, read once at start.
//!
//! `config.toml` is the embedded default and documents each key; then `config.<environment>.toml`,
//! then `--config FILE`, then `LIBRA__SECTION__KEY`, with the guides' own variables as aliases.
//! Never read after the start, and never printed without masking secrets.

mod aliases;
mod check;
mod domains;
mod load;
mod show;
mod upstream;

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;

pub use domains::{DomainChecks, DomainClaims, Domains};
pub use load::{Loaded, Mistake, Mistakes, load};
pub use show::show;
pub use upstream::Upstream;

/// The defaults, and their documentation.
pub const DEFAULTS: &str = include_str!("../../config.toml");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    Development,
    Production,
}

impl Environment {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub environment: Environment,
    pub data_dir: PathBuf,
    pub tools_dir: PathBuf,
    pub mirror_dir: PathBuf,
    pub start: Start,
    pub log: Log,
    pub http: Http,
    pub dispatch: Dispatch,
    pub routes: Routes,
    pub domains: Domains,
    pub tls: crate::tls::Settings,
    pub security: Security,
    pub database: crate::store::Settings,
    pub nats: crate::queue::Settings,
    pub blobs: crate::blobs::Settings,
    pub runtime: crate::runtime::Settings,
    pub sources: Sources,
    pub quota: Quota,
    pub dead_letters: DeadLetters,
    pub queue: Queue,
    pub pipeline: Pipeline,
    pub sandbox: crate::sandbox::Settings,
    pub toolchain: crate::toolchain::Settings,
    pub versions: Versions,
    pub upstream: Upstream,
    pub sweep: Sweep,
    pub testing: Testing,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    pub wait_seconds: u64,
    pub notice_seconds: u64,
    pub retry_ms: u64,
    pub serve_without_broker: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routes {
    pub file_seconds: u64,
    pub changes_kept_hours: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
    pub access: LogAccess,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogAccess {
    pub enabled: bool,
    pub file: PathBuf,
    pub file_bytes: u64,
    pub flush_ms: u64,
    pub buffer_bytes: usize,
    pub buffers: usize,
    pub bare_per_second: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: Vec<String>,
    pub operator_listen: String,
    pub backlog: u32,
    pub workers: usize,
    pub trusted_proxies: Vec<String>,
    pub body_bytes: usize,
    pub header_bytes: usize,
    pub header_timeout_ms: u64,
    pub keep_alive_seconds: u64,
    pub stream_idle_seconds: u64,
    pub slowest_bytes_per_second: u64,
    pub linger_ms: u64,
    pub max_connections: usize,
    pub max_connections_of_one: usize,
    pub max_requests: usize,
    pub worker_body_bytes: u64,
    pub tls_handshake_ms: u64,
    pub shutdown_timeout_seconds: u64,
    pub status_requests_per_minute: u32,
    pub stream_max_seconds: u64,
    pub streams: usize,
    pub streams_of_one: usize,
    pub http2: Http2,
    pub rates: Rates,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    pub client_per_second: u32,
    pub client_burst: u32,
    pub worker_per_second: u32,
    pub worker_burst: u32,
    pub exempt: Vec<ipnet::IpNet>,
    pub remembered: usize,
}

impl Rates {
    /// A burst is earned again within this, because who asked nothing for so long is forgotten.
    pub const BURST_SECONDS: u32 = 120;
}

impl Http {
    /// Threads that serve requests.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            set => set,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http2 {
    pub streams: u32,
    pub pending_resets: usize,
    pub own_resets: usize,
    pub stream_window_bytes: u32,
    pub connection_window_bytes: u32,
    pub send_buffer_bytes: usize,
    pub ping_seconds: u64,
    pub ping_timeout_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    pub path_routing: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    pub secret_key: SecretString,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    pub max_files: usize,
    pub max_file_bytes: usize,
    pub max_total_bytes: u64,
    pub max_history_messages: usize,
    pub max_env_variables: usize,
    pub max_env_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    pub deployments_per_month: i64,
    pub waiting_deployments: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetters {
    pub env_kept_days: u64,
    pub invalid_per_organization: u64,
    pub original_bytes: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Queue {
    pub organization_running: u32,
    pub project_running: u32,
    pub preview_age_seconds: u64,
    pub heartbeat_seconds: u64,
    pub silent_seconds: u64,
    pub grant_seconds: u64,
    pub line_jobs: u64,
    pub look_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    pub concurrency: usize,
    pub lease_seconds: u64,
    pub heartbeat_seconds: u64,
    pub look_ms: u64,
    pub retry_first_seconds: u64,
    pub retry_second_seconds: u64,
    pub retry_crashed_seconds: u64,
    pub hand_overs: i32,
    pub total_timeout_seconds: u64,
    pub validate_timeout_seconds: u64,
    pub sync_timeout_seconds: u64,
    pub sandbox_timeout_seconds: u64,
    pub build_timeout_seconds: u64,
    pub deploy_timeout_seconds: u64,
    pub cleanup_timeout_seconds: u64,
    pub probe_timeout_ms: u64,
    pub edge_confirm_ms: u64,
    pub log_bytes: usize,
    pub log_line_bytes: usize,
    pub log_flush_ms: u64,
    pub manifest_bytes: usize,
    pub project_file_bytes: usize,
    pub diagnosis_bytes: usize,
    pub output_files: u64,
    pub output_bytes: u64,
    pub output_file_bytes: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    pub retained: u64,
    pub confirm_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    pub interval_ms: u64,
    pub thorough_seconds: u64,
    pub batch: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Testing {
    pub fault_injection: bool,
    pub hold: Vec<String>,
}

/// Keys whose values are never shown.
const SECRET_KEYS: &[&str] = &[
    "security.secret_key",
    "database.url",
    "nats.url",
    "nats.password",
    "blobs.url",
    "blobs.secret_access_key",
    "blobs.session_token",
    "sandbox.e2b.api_key",
    "sandbox.daytona.api_key",
    "tls.acme.eab_hmac_key",
    "tls.acme.second_eab_hmac_key",
];

fn is_secret(key: &str) -> bool {
    SECRET_KEYS.contains(&key)
}

/// Whether a key nobody knows may be a secret one, misspelt.
fn sounds_secret(key: &str) -> bool {
    let words = ["secret", "key", "token", "password", "credential", "url"];
    words.iter().any(|word| key.to_lowercase().contains(word))
}
