//! A front door on a port of its own before origins that do as a test says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Door, DoorSettings, Listener};
use crate::domain::origin::Origin;
use crate::domain::upstream::{Ejection, HealthCheck, HostHeader, UpstreamPolicy};
use crate::http::edge::{EdgeState, Limits, TrustedProxies};
use crate::http::problem;
use crate::routing::probe::ProbeKey;
use crate::routing::{HostRules, Live, Tables, WorkerRoute};
use crate::runtime::BodyCache;
use crate::runtime::upstream::{Parts, Reuse, Upstream, trusted_authorities};

pub(super) const HOST: &str = "app.libra.localhost";
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long answers stay with an origin that was replaced.
pub(super) const DRAIN: Duration = Duration::from_millis(400);
/// A shelf for every thread that any test of the process has: none is another's by chance.
const SHELVES: usize = 4096;

/// A front door before origins.
pub(super) struct House {
    pub(super) door: Option<Door>,
    pub(super) address: std::net::SocketAddr,
    pub(super) upstream: Arc<Upstream>,
}

pub(super) fn policy() -> UpstreamPolicy {
    UpstreamPolicy {
        health: HealthCheck {
            path: "/".into(),
            interval: Duration::ZERO,
            timeout: PATIENCE,
            healthy_after: 1,
            unhealthy_after: 1,
        },
        connect_timeout: Duration::from_secs(2),
        first_byte_timeout: Duration::from_millis(700),
        idle_timeout: Duration::from_millis(700),
        connections_per_origin: 100,
        host_header: HostHeader::Preserve,
        ejection: Ejection { after: 3, base: PATIENCE * 3, max: PATIENCE * 30, max_percent: 50 },
    }
}

pub(super) fn house(origins: &[u16], policy: UpstreamPolicy) -> House {
    let at = |port: &u16| format!("http://127.0.0.1:{port}");
    house_of(&origins.iter().map(at).collect::<Vec<_>>(), policy, 1)
}

/// One with so many serving threads before origins of any kind.
pub(super) fn house_of(origins: &[String], policy: UpstreamPolicy, threads: usize) -> House {
    let upstream = upstream(origins, policy, threads);
    let tables = Tables::new();
    tables.publish_worker(WorkerRoute {
        worker: "app".into(),
        org_id: "o".into(),
        project_id: "p".into(),
        live: Live::Upstream(Arc::clone(&upstream)),
        epoch: 1,
    });
    open(tables, upstream, threads)
}

/// A front door before a site.
pub(super) fn site_house(version: Arc<crate::runtime::SiteVersion>) -> House {
    let tables = Tables::new();
    tables.publish_worker(WorkerRoute {
        worker: "app".into(),
        org_id: "o".into(),
        project_id: "p".into(),
        live: Live::Site(version),
        epoch: 1,
    });
    open(tables, upstream(&[], policy(), 1), 1)
}

fn upstream(origins: &[String], policy: UpstreamPolicy, threads: usize) -> Arc<Upstream> {
    let upstream = Arc::new(Upstream::new(Parts {
        key: "1".into(),
        origins: origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect(),
        policy,
        reuse: Reuse {
            threads: if threads == 1 { 1 } else { SHELVES },
            idle_connections: 16,
            keep_idle: PATIENCE * 3,
            look: Duration::from_millis(100),
            retries: 2,
            drain: DRAIN,
            keep_names: Duration::from_secs(1),
        },
        may_connect: Arc::new(|address| address.ip().is_loopback()),
        tls: trusted_authorities(),
    }));
    crate::runtime::upstream::watch(&upstream);
    upstream
}

fn open(tables: Tables, upstream: Arc<Upstream>, threads: usize) -> House {
    tables.workers_are_at(1);
    tables.hosts_are_at(1);
    let edge = EdgeState {
        tables: Arc::new(tables),
        rules: Arc::new(HostRules::new("libra.localhost", &[], &[]).unwrap()),
        cache: Arc::new(BodyCache::new(&crate::runtime::test_site::settings())),
        probe_key: ProbeKey::new(b"key"),
        trusted_proxies: Arc::new(TrustedProxies::default()),
        limits: Limits { body_bytes: 1 << 20, path_routing: true, socket_jitter: Duration::ZERO },
        rates: Arc::new(crate::http::edge::Rates::new(crate::http::edge::rates::RateSettings::default())),
        secure: Arc::default(),
        loop_mark: http::HeaderValue::from_static("libra; id=test"),
        stopping: tokio_util::sync::CancellationToken::new(),
        refuse: problem::refuse,
    };
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let no_routes = Arc::new(|_: &mut actix_web::web::ServiceConfig| {});
    let observer = crate::http::seen::Observer::new(threads, None);
    let settings = DoorSettings { threads, ..DoorSettings::small() };
    let door =
        Door::open(settings, vec![Listener { socket, tls: None }], edge, no_routes, &observer).unwrap();
    House { door: Some(door), address, upstream }
}

impl House {
    /// Sends bytes and reads until `enough` or the end.
    pub(super) async fn ask(&self, bytes: &[u8], enough: impl Fn(&str) -> bool) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        read(&mut socket, enough).await
    }

    pub(super) async fn get(&self, fields: &str) -> String {
        let request = format!("GET /a?b=c HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{fields}\r\n");
        self.ask(request.as_bytes(), |_| false).await
    }

    pub(super) async fn close(mut self) {
        if let Some(door) = self.door.take() {
            door.close(PATIENCE).await;
        }
    }
}

pub(super) async fn read(socket: &mut TcpStream, enough: impl Fn(&str) -> bool) -> String {
    let mut seen = Vec::new();
    let reading = async {
        loop {
            let mut piece = vec![0; 16_384];
            match socket.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(bytes) => seen.extend_from_slice(&piece[..bytes]),
            }
            if enough(&String::from_utf8_lossy(&seen)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("nothing more came");
    String::from_utf8_lossy(&seen).into_owned()
}

/// An origin that reads a head and whatever `body` bytes, and then answers with fixed bytes.
pub(super) struct Peer {
    pub(super) port: u16,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) heads: Arc<std::sync::Mutex<Vec<String>>>,
    /// Tells [`Then::HalfClose`].
    pub(super) close: Arc<tokio::sync::Notify>,
}

/// What an origin does after its answer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Then {
    /// Waits for the next request.
    Stay,
    Close,
    /// When told to, says that it has no more to say, and waits until the other side closes too.
    HalfClose,
    /// Neither says nor does anything, until the other side closes.
    Hold,
}

pub(super) async fn origin(answer: &'static str, then: Then) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = Peer {
        port: listener.local_addr().unwrap().port(),
        connections: Arc::default(),
        heads: Arc::default(),
        close: Arc::default(),
    };
    let (connections, heads) = (Arc::clone(&origin.connections), Arc::clone(&origin.heads));
    let close = Arc::clone(&origin.close);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (heads, close) = (Arc::clone(&heads), Arc::clone(&close));
            tokio::spawn(async move {
                loop {
                    let asked = read(&mut socket, is_whole).await;
                    if asked.is_empty() {
                        return;
                    }
                    heads.lock().unwrap().push(asked);
                    drop(socket.write_all(answer.as_bytes()).await);
                    match then {
                        Then::Stay => {}
                        Then::Close => return,
                        Then::Hold | Then::HalfClose => {
                            if then == Then::HalfClose {
                                close.notified().await;
                                drop(socket.shutdown().await);
                            }
                            read(&mut socket, |_| false).await;
                            heads.lock().unwrap().push("closed".to_owned());
                            return;
                        }
                    }
                }
            });
        }
    });
    origin
}

/// Head and body of a request.
pub(super) fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        return body.ends_with("\r\n\r\n") && body.contains("0\r\n");
    }
    let length =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    body.len() >= length.unwrap_or(0)
}

impl Peer {
    /// Waits until the other side has closed a connection.
    pub(super) async fn closed(&self) {
        let started = std::time::Instant::now();
        while !self.asked().contains(&"closed".to_owned()) {
            assert!(started.elapsed() < PATIENCE / 2, "still open: {:?}", self.asked());
            tokio::task::yield_now().await;
        }
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}
