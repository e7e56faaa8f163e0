//! What the attacks are made on: a server with short waits, a static Worker, and a Worker whose origin writes down every
//! byte that reaches it, so that whatever was smuggled is seen.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;

use crate::app::{BASE, TestApp, answer};
use crate::failing::quick;
use crate::wire::exchange;

/// What nobody but an attacker asks for.
pub const SMUGGLED: &str = "/smuggled";
/// The whole answer to `/large`.
pub const LARGE_BYTES: usize = 64 << 20;
/// Waits for clients, as short as the settings allow.
const SHORT: &[(&str, &str)] = &[
    ("LIBRA__HTTP__HEADER_TIMEOUT_MS", "700"),
    ("LIBRA__HTTP__STREAM_IDLE_SECONDS", "2"),
    ("LIBRA__HTTP__KEEP_ALIVE_SECONDS", "2"),
    ("LIBRA__HTTP__LINGER_MS", "300"),
    ("LIBRA__HTTP__BODY_BYTES", "100000"),
    ("LIBRA__HTTP__HTTP2__PING_SECONDS", "1"),
    ("LIBRA__HTTP__WORKERS", "1"),
];

pub struct Rig {
    pub app: TestApp,
    /// The host of a static Worker.
    pub site: String,
    /// The host of a Worker with an origin.
    pub proxied: String,
    pub origin: Origin,
}

/// An origin that answers `ok` to each request, and what it was sent: one entry for each connection.
#[derive(Clone)]
pub struct Origin {
    pub address: String,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Answers that nobody took.
    failed: Arc<AtomicUsize>,
}

impl Rig {
    pub async fn start() -> Self {
        let app = TestApp::start_with(&quick(SHORT)).await;
        let (site, site_worker) = app.project("still").await;
        app.deploy_live(&app.body(&site, &[("index.html", "static page"), ("a/b.txt", "file")])).await;
        let (proxied, proxied_worker) = app.project("proxied").await;
        let origin = Origin::start();
        let body = json!({ "origins": [origin.address], "policy": { "health": { "intervalMs": 0 } } });
        let path = format!("/api/v1/projects/{proxied}/upstream");
        let (status, said) = answer(app.request(Method::PUT, &path).json(&body).send().await.unwrap()).await;
        assert_eq!(status, 200, "{said}");
        let host = |worker: &str| format!("{worker}.{BASE}");
        Self { site: host(&site_worker), proxied: host(&proxied_worker), app, origin }
    }

    pub fn address(&self) -> &str {
        &self.app.server.address
    }

    /// A static Worker, one with an origin, and the platform.
    pub fn hosts(&self) -> [&str; 3] {
        [&self.site, &self.proxied, self.address()]
    }

    /// Resident memory of the server.
    pub fn resident_bytes(&self) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.app.server.pid())).unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    /// A new client is served as if nothing had happened, by everybody.
    pub async fn still_serves(&self, after: &str) {
        for (host, path) in self.hosts().into_iter().zip(["/", "/", "/livez"]) {
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            let replies = exchange(self.address(), request.as_bytes()).await;
            let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
            assert_eq!(statuses, [200], "{host} after {after}: {replies:?}");
        }
        self.origin.forget();
    }
}

impl Origin {
    fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let origin = Self { address, received: Arc::default(), failed: Arc::default() };
        let of_thread = origin.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let origin = of_thread.clone();
                std::thread::spawn(move || origin.talk(stream));
            }
        });
        origin
    }

    /// Answers until the other side closes.
    fn talk(&self, mut stream: std::net::TcpStream) {
        let mut left = Vec::new();
        let mut piece = vec![0; 65_536];
        let mut number: Option<usize> = None;
        while let Ok(bytes @ 1..) = stream.read(&mut piece) {
            {
                let mut received = self.received.lock().unwrap();
                // Forgotten meanwhile: what comes now begins anew.
                if number.is_none_or(|number| number >= received.len()) {
                    number = Some(received.len());
                    received.push(Vec::new());
                }
                received[number.unwrap()].extend_from_slice(&piece[..bytes]);
            }
            left.extend_from_slice(&piece[..bytes]);
            while let Some(length) = whole(&left) {
                let request: Vec<u8> = left.drain(..length).collect();
                let sent = if request.starts_with(b"GET /large ") {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE_BYTES}\r\n\r\n");
                    stream
                        .write_all(head.as_bytes())
                        .and_then(|()| stream.write_all(&vec![b'x'; LARGE_BYTES]))
                } else if request.starts_with(b"GET /crumbs ") {
                    let crumb = format!("28\r\n{}\r\n", "x".repeat(40));
                    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                    stream.write_all(format!("{head}{}0\r\n\r\n", crumb.repeat(300)).as_bytes())
                } else if request.starts_with(b"HEAD ") {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
                } else {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                };
                if sent.is_err() {
                    self.failed.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
    }

    /// All that came, of all connections, in lower case.
    pub fn received(&self) -> String {
        let received = self.received.lock().unwrap();
        let texts = received.iter().map(|bytes| String::from_utf8_lossy(bytes).to_ascii_lowercase());
        texts.collect::<Vec<_>>().join("\n---\n")
    }

    /// Request lines, in lower case.
    pub fn asked(&self) -> Vec<String> {
        let text = self.received();
        text.split("\r\n").filter_map(|line| line.strip_suffix(" http/1.1")).map(str::to_owned).collect()
    }

    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::SeqCst)
    }

    pub fn forget(&self) {
        self.received.lock().unwrap().clear();
    }
}

/// How long the request at the front is, if it is whole.
fn whole(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let lower = head.to_ascii_lowercase();
    let start = head.len() + 4;
    if lower.contains("transfer-encoding: chunked") {
        let last = if body.starts_with("0\r\n") { 0 } else { body.find("\r\n0\r\n")? + 2 };
        // Trailers may come before the empty line.
        return body[last..].find("\r\n\r\n").map(|at| start + last + at + 4);
    }
    let length =
        lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
    Some(start + length.unwrap_or(0)).filter(|end| *end <= bytes.len())
}
