//! Owns the way to Workers that are HTTP origins: which one gets a request, its connections, its health. HOT.
//! Never looks at what a request says beyond its method, and connects nowhere that the operator has not allowed.

mod answer;
mod body;
mod choose;
mod health;
mod link;
mod pool;
mod send;
mod socket;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use pool::Pool;

pub use answer::{OriginBody, OriginBodyError};
pub use body::RequestBody;
pub use health::watch;
pub use send::{Failure, Sent, Switching, send, upgrade};

/// Where one origin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp { host: Box<str>, port: u16, tls: bool },
    Unix(PathBuf),
}

/// How origins are treated.
#[derive(Debug, Clone)]
pub struct Policy {
    pub connect: Duration,
    /// From the request's last head byte to the answer's first.
    pub first_byte: Duration,
    /// Between two pieces of an answer.
    pub idle: Duration,
    /// How long a connection without a request is kept.
    pub keep_idle: Duration,
    /// Requests at once to one origin.
    pub requests: usize,
    /// Connections without a request that are kept, per origin and thread.
    pub idle_connections: usize,
    /// Further origins that are tried where nothing was sent yet.
    pub retries: usize,
    /// Failures in a row after which an origin is left out for a while, and the first such while; it doubles up to
    /// the longest.
    pub eject_after: u32,
    pub eject_first: Duration,
    pub eject_longest: Duration,
    pub health: Option<HealthCheck>,
}

/// Asking an origin whether it is well.
#[derive(Debug, Clone)]
pub struct HealthCheck {
    pub path: Box<str>,
    pub host: Box<str>,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_after: u32,
    pub healthy_after: u32,
}

/// Whether an address may be connected to; asked after names were resolved.
pub type MayConnect = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// The origins of one Worker, shared by all threads.
pub struct Upstream {
    origins: Box<[OriginState]>,
    policy: Policy,
    may_connect: MayConnect,
    tls: Arc<rustls::ClientConfig>,
    made: Instant,
    turn: AtomicUsize,
}

struct OriginState {
    address: Address,
    /// Shown in logs and metrics.
    name: Box<str>,
    pool: Pool,
    in_hand: AtomicUsize,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// In ms since [`Upstream::made`].
    ejected_until: AtomicU64,
    is_well: AtomicBool,
}

/// One origin, as health shows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginReport {
    pub origin: String,
    pub healthy: bool,
    pub ejected: bool,
    pub in_hand: usize,
}

impl Upstream {
    /// `threads` is how many serve requests.
    pub fn new(
        origins: Vec<Address>,
        policy: Policy,
        may_connect: MayConnect,
        tls: Arc<rustls::ClientConfig>,
        threads: usize,
    ) -> Self {
        let state = |address: Address| OriginState {
            name: address.to_string().into(),
            address,
            pool: Pool::new(threads, policy.idle_connections),
            in_hand: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            is_well: AtomicBool::new(true),
        };
        Self {
            origins: origins.into_iter().map(state).collect(),
            may_connect,
            tls,
            made: Instant::now(),
            turn: AtomicUsize::new(0),
            policy,
        }
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Every origin and how it is.
    pub fn report(&self) -> Vec<OriginReport> {
        (0..self.origins.len()).map(|at| self.report_of(at)).collect()
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.origins.iter().map(|origin| &origin.name)).finish()
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, tls } => {
                write!(f, "{}://{host}:{port}", if *tls { "https" } else { "http" })
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
