//! Owns the way to Workers that are HTTP origins: which one gets a request, its connections, its health. HOT.
//! Never looks at what a request says beyond its method, and connects nowhere that the operator has not allowed.

mod alarm;
mod answer;
mod answer_body;
mod answer_head;
mod body;
mod choose;
mod exchange;
mod health;
mod link;
mod names;
mod pace;
mod pool;
mod send;
mod socket;
mod sweep;
mod trace;
pub mod trailers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio_util::sync::CancellationToken;

use crate::domain::origin::Origin;
use crate::domain::upstream::UpstreamPolicy;
use names::Names;
use pool::Pool;

pub use alarm::Alarm;
pub use answer::{OriginBody, OriginBodyError};
pub use body::{RequestBody, RequestBodyError};
pub use exchange::Order;
pub use pace::{Pace, Slowest};
pub use send::{Answer, Failure, Switched, send};
pub use socket::{OriginSocket, trusted_authorities};
pub use sweep::watch;
pub use trace::{FailureKind, Trace};

/// How connections are kept, and how often another one is tried.
#[derive(Debug, Clone, Copy)]
pub struct Reuse {
    /// Serving threads, each with a shelf of its own.
    pub threads: usize,
    /// Connections without a request that are kept, per origin and thread.
    pub idle_connections: usize,
    pub keep_idle: Duration,
    /// How often they are looked at: one that its origin has closed goes then at the latest.
    pub look: Duration,
    /// Further tries where nothing was sent yet.
    pub retries: usize,
    /// How long sockets and answers on their way stay with an upstream that no route leads to any more.
    pub drain: Duration,
    /// How long the addresses of an origin's name are used before it is asked anew.
    pub keep_names: Duration,
}

/// Whether an address may be connected to; asked after names were resolved.
pub type MayConnect = Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>;

/// What an upstream is made of.
pub struct Parts {
    /// Tells this registration from an earlier or later one of the same Worker.
    pub key: String,
    pub origins: Vec<Origin>,
    pub policy: UpstreamPolicy,
    pub reuse: Reuse,
    pub may_connect: MayConnect,
    pub tls: Arc<rustls::ClientConfig>,
}

/// Of [`Upstream::cut_at`]: not given up.
const STAYS: u64 = u64::MAX;

/// The origins of one Worker, shared by all threads.
pub struct Upstream {
    key: String,
    origins: Box<[OriginState]>,
    policy: UpstreamPolicy,
    reuse: Reuse,
    may_connect: MayConnect,
    tls: Arc<rustls::ClientConfig>,
    made: Instant,
    turn: AtomicUsize,
    retired: CancellationToken,
    /// In ms since `made`, when answers on their way are given up; [`STAYS`] while a route leads here.
    cut_at: AtomicU64,
}

struct OriginState {
    address: Origin,
    /// Shown in logs and metrics.
    name: Box<str>,
    /// Its own name, for origins that want it.
    host: HeaderValue,
    names: Names,
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
    pub fn new(parts: Parts) -> Self {
        let Parts { key, origins, policy, reuse, may_connect, tls } = parts;
        let state = |address: Origin| OriginState {
            name: address.to_string().into(),
            // A parsed host is a valid header value.
            host: HeaderValue::from_str(&address.authority()).unwrap_or(HeaderValue::from_static("")),
            address,
            names: Names::default(),
            pool: Pool::new(reuse.threads, reuse.idle_connections),
            in_hand: AtomicUsize::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            is_well: AtomicBool::new(true),
        };
        let origins = origins.into_iter().map(state).collect();
        Self {
            key,
            origins,
            policy,
            reuse,
            may_connect,
            tls,
            made: Instant::now(),
            turn: AtomicUsize::new(0),
            retired: CancellationToken::new(),
            cut_at: AtomicU64::new(STAYS),
        }
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    /// No route leads here any more; what is under way stays for a while.
    pub fn retire(&self) {
        // Not a moment too early: the clock's milliseconds are cut off, so the next one counts.
        let now = self.now_ms() + 1;
        let at = now.saturating_add(choose::millis(self.reuse.drain)).min(STAYS - 1);
        let _only_the_first = self.cut_at.compare_exchange(STAYS, at, Ordering::AcqRel, Ordering::Relaxed);
        self.retired.cancel();
    }

    /// Until when answers that are on their way may go on, once no route leads here any more.
    fn stays_until(&self) -> Option<Instant> {
        match self.cut_at.load(Ordering::Relaxed) {
            STAYS => None,
            at => self.made.checked_add(Duration::from_millis(at)),
        }
    }

    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// How long an origin may be silent on an open stream.
    pub fn idle_timeout(&self) -> Duration {
        self.policy.idle_timeout
    }

    pub fn drain(&self) -> Duration {
        self.reuse.drain
    }

    /// The origin of this number, as logs show it.
    pub fn origin(&self, at: usize) -> Option<&str> {
        self.origins.get(at).map(|origin| &*origin.name)
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
