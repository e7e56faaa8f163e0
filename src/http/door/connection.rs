//! Owns one client's connection from its first byte to its last: which protocol it speaks, and its end.
//! Never waits for a client without a limit.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::Accepted;
use super::findings::Findings;
use super::guard::Guarded;
use super::socket::ClientSocket;
use super::stalls;
use super::thread::Shared;
use crate::http::edge::{Body, Connection};
use crate::http::problem::Unasked;
use crate::http::seen::{Bare, Protocol, Seen};
use crate::runtime::upstream::Slowest;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Beyond the largest head, what one read of a body may hold.
const READ_BYTES: usize = 64 * 1024;

/// Serves it to its end.
pub async fn serve(accepted: Accepted, shared: Rc<Shared>) {
    let Accepted { socket, peer, tls, place } = accepted;
    let connection = Connection { peer: Some(peer), is_tls: tls.is_some(), takes_files: false };
    let served = async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::TcpStream::from_std(socket)?;
        // An answer is written whole; waiting to fill a packet only delays it.
        socket.set_nodelay(true)?;
        match tls {
            None => plain(socket, connection, &shared).await,
            // Boxed, as is HTTP/2: a plain connection would be kept at the size of the largest kind.
            Some(config) => Box::pin(encrypted(socket, config, connection, &shared)).await,
        }
    };
    if let Err(e) = served.await {
        tracing::trace!(error = %e, "a connection ended early");
    }
    drop(place);
}

async fn plain(socket: tokio::net::TcpStream, connection: Connection, shared: &Rc<Shared>) -> io::Result<()> {
    let mut socket = socket;
    let mut ahead = Vec::with_capacity(2048);
    let begins_http2 = |ahead: &[u8]| PREFACE.starts_with(&ahead[..ahead.len().min(PREFACE.len())]);
    let reading = async {
        while ahead.len() < PREFACE.len() && begins_http2(&ahead) {
            if socket.read_buf(&mut ahead).await? == 0 {
                return Ok::<_, io::Error>(false);
            }
        }
        Ok(!ahead.is_empty())
    };
    match tokio::select! {
        read = timeout(shared.settings.patience().head, reading) => read,
        // Nothing was asked yet, so nothing is owed.
        () = shared.draining.cancelled() => return Ok(()),
    } {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) | Err(_) => return Ok(()),
        Ok(Err(e)) => return Err(e),
    }
    if ahead.starts_with(PREFACE) {
        Box::pin(speak_http2(socket, ahead, connection, shared)).await
    } else {
        let connection = Connection { takes_files: true, ..connection };
        speak_http1(socket, ahead, connection, shared).await
    }
}

async fn encrypted(
    socket: tokio::net::TcpStream,
    config: Arc<rustls::ServerConfig>,
    connection: Connection,
    shared: &Rc<Shared>,
) -> io::Result<()> {
    let shaking = tokio_rustls::TlsAcceptor::from(config).accept(socket);
    let socket = timeout(shared.settings.tls_handshake, shaking).await??;
    match socket.get_ref().1.alpn_protocol() {
        Some(b"h2") => Box::pin(speak_http2(socket, Vec::new(), connection, shared)).await,
        None | Some(b"http/1.1") => speak_http1(socket, Vec::new(), connection, shared).await,
        // A certificate was proved by the handshake itself; there is nothing to say.
        Some(_) => Ok(()),
    }
}

async fn speak_http1(
    socket: impl ClientSocket,
    ahead: Vec<u8>,
    connection: Connection,
    shared: &Rc<Shared>,
) -> io::Result<()> {
    let _counted = Counted::new(shared, Protocol::Http1);
    let findings = Arc::new(Findings::default());
    let bounds = shared.settings.bounds;
    let guarded = Guarded::http1(socket, ahead, bounds, Arc::clone(&findings));
    let service = Answering { shared: Rc::clone(shared), connection, findings: Arc::clone(&findings) };
    let mut builder = http1::Builder::new();
    // The guard has all limits of time.
    builder.header_read_timeout(None).max_buf_size(bounds.head_bytes + READ_BYTES);
    let serving = builder.serve_connection(TokioIo::new(guarded), service).with_upgrades();
    let mut serving = pin!(serving);
    // Asked when it has something to say, and not each time that the connection has: that would take two locks, which
    // all connections share.
    let mut draining: FuturesUnordered<_> = [shared.draining.cancelled()].into_iter().collect();
    tokio::select! {
        biased;
        ended = serving.as_mut() => {
            tell(&findings, &ended, connection, &shared.seen);
            findings.tunnel_ended().await;
            return ended.map_err(io::Error::other);
        }
        _ = draining.next() => serving.as_mut().graceful_shutdown(),
    }
    let ended = serving.await;
    tell(&findings, &ended, connection, &shared.seen);
    findings.tunnel_ended().await;
    ended.map_err(io::Error::other)
}

/// What was answered without the service: hyper can't read every head that the guard has judged, and who sends none in
/// time is told by the guard.
fn tell(findings: &Findings, ended: &hyper::Result<()>, connection: Connection, seen: &Seen) {
    if let Some(what) = findings.unasked() {
        seen.counters.bad_request(what);
    }
    let what = match ended {
        _ if findings.was_late() => Unasked::Late,
        Err(e) if e.is_parse_too_large() => Unasked::TooLarge,
        Err(e) if e.is_parse() => Unasked::Unreadable,
        _ => return,
    };
    let client = connection.peer.map(|peer| peer.ip().to_canonical());
    seen.bare(&Bare { client, is_tls: connection.is_tls, what });
}

async fn speak_http2(
    socket: impl ClientSocket,
    ahead: Vec<u8>,
    connection: Connection,
    shared: &Rc<Shared>,
) -> io::Result<()> {
    let _counted = Counted::new(shared, Protocol::Http2);
    let findings = Arc::new(Findings::default());
    let bounds = shared.settings.bounds;
    let guarded = Guarded::http2(socket, ahead, bounds, Arc::clone(&findings));
    let service = Answering { shared: Rc::clone(shared), connection, findings: Arc::clone(&findings) };
    let limits = &shared.settings.http2;
    let header_bytes = u32::try_from(bounds.head_bytes).unwrap_or(u32::MAX);
    let serving = http2::Builder::new(OnThisThread { slowest: bounds.patience.slowest() })
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.pending_resets)
        .max_local_error_reset_streams(limits.own_resets)
        .max_header_list_size(header_bytes)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buf_size(limits.send_buffer_bytes)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping_timeout)
        .serve_connection(TokioIo::new(guarded), service);
    let mut serving = pin!(serving);
    let patience = bounds.patience;
    let mut quiet = Quiet { looked: Instant::now(), moved: 0 };
    let mut is_ending = false;
    loop {
        // Looked at once in a while, not told of each piece: a silent client stays up to twice as long. Each stream
        // has limits of its own, which come first.
        let limit = if findings.is_idle() { patience.keep_alive } else { patience.stream * 2 };
        let due = quiet.looked + if is_ending { patience.stream } else { limit };
        tokio::select! {
            ended = serving.as_mut() => return ended.map_err(io::Error::other),
            () = shared.draining.cancelled(), if !is_ending => {
                is_ending = true;
                quiet.looked = Instant::now();
                serving.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(due) => {
                let has_moved = quiet.has_moved(findings.moved());
                match (has_moved, findings.is_idle(), is_ending) {
                    (true, ..) => {}
                    (false, true, false) => {
                        is_ending = true;
                        serving.as_mut().graceful_shutdown();
                    }
                    // Neither side of any stream has moved for so long: a client that opens no window, or that
                    // announced a body and sends none.
                    (false, ..) => return Err(io::ErrorKind::TimedOut.into()),
                }
            }
        }
    }
}

/// Whether anything was asked, sent or taken on a connection since the last look.
struct Quiet {
    looked: Instant,
    moved: u64,
}

impl Quiet {
    fn has_moved(&mut self, moved: u64) -> bool {
        self.looked = Instant::now();
        std::mem::replace(&mut self.moved, moved) != moved
    }
}

/// Counts a connection while it is open.
struct Counted {
    seen: Rc<Seen>,
    protocol: Protocol,
}

impl Counted {
    fn new(shared: &Rc<Shared>, protocol: Protocol) -> Self {
        shared.seen.counters.connection_opened(protocol);
        Self { seen: Rc::clone(&shared.seen), protocol }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.seen.counters.connection_closed(self.protocol);
    }
}

/// The service of one connection.
struct Answering {
    shared: Rc<Shared>,
    connection: Connection,
    findings: Arc<Findings>,
}

impl Service<hyper::Request<Incoming>> for Answering {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>>>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let bad = self.findings.next();
        let (shared, findings) = (Rc::clone(&self.shared), Arc::clone(&self.findings));
        Box::pin(shared.answer(request, self.connection, bad, findings))
    }
}

/// Runs the streams of a connection on the thread that serves it.
#[derive(Debug, Clone, Copy)]
struct OnThisThread {
    /// With a client that takes nothing, or next to nothing.
    slowest: Slowest,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        let slowest = self.slowest;
        // Ends with its connection, or with the thread.
        drop(tokio::task::spawn_local(async move {
            stalls::bounded(task, slowest).await;
        }));
    }
}
