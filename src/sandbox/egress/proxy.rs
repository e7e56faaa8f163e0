//! The proxy's HTTP face: CONNECT and nothing else, one listener per sandbox, bounded in connections
//! and in bytes. Everything it runs ends with it.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::Egress;
use super::book::{Book, Verdict};
use crate::domain::hostname::Hostname;
use crate::sandbox::SandboxError;
use crate::sandbox::sockets;

/// The socket's name in the sandbox's own folder.
pub(in crate::sandbox) const NAME: &str = "egress.sock";
/// Time to the whole head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// A CONNECT has few.
const HEADERS: usize = 64;

/// The listener of one sandbox; it and its connections end when dropped.
pub(in crate::sandbox) struct EgressSocket {
    task: tokio::task::JoinHandle<()>,
    pub book: Arc<Book>,
}

impl Drop for EgressSocket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Egress {
    /// Listens on `<folder>/egress.sock`, for `owner` alone. Must be called within a tokio runtime.
    pub(in crate::sandbox) fn listen(
        self: &Arc<Self>,
        folder: &Path,
        owner: Option<u32>,
    ) -> Result<EgressSocket, SandboxError> {
        let failed = |source| SandboxError::Process { action: "listen for a build's connections", source };
        let listener = sockets::bind(folder, NAME, owner).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        let task = tokio::spawn(accept(Arc::clone(self), listener));
        Ok(EgressSocket { task, book: Arc::clone(&self.book) })
    }
}

/// The set ends its tasks when this one is aborted.
async fn accept(egress: Arc<Egress>, listener: UnixListener) {
    let mut open = JoinSet::new();
    loop {
        while open.len() >= egress.settings.connections {
            open.join_next().await;
        }
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                open.spawn(carry(Arc::clone(&egress), stream));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// One connection: its request, and then the tunnel.
async fn carry(egress: Arc<Egress>, stream: UnixStream) {
    let tunnel: Mutex<Option<(hyper::upgrade::OnUpgrade, TcpStream)>> = Mutex::new(None);
    let answer = |mut request: Request<Incoming>| {
        let (egress, tunnel) = (&egress, &tunnel);
        async move {
            let answered = match target(&request) {
                Some((name, port)) => egress.admit(&name, port).await,
                None => Err((
                    StatusCode::METHOD_NOT_ALLOWED,
                    "only CONNECT host:port is understood here\n".into(),
                )),
            };
            let (status, text) = match answered {
                Ok(upstream) => {
                    let upgrade = hyper::upgrade::on(&mut request);
                    *tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((upgrade, upstream));
                    (StatusCode::OK, String::new())
                }
                Err(refused) => refused,
            };
            let mut response = Response::new(text);
            *response.status_mut() = status;
            Ok::<_, std::convert::Infallible>(response)
        }
    };
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
        .await;
    let opened = tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let (Ok(()), Some((upgrade, upstream))) = (served, opened)
        && let Ok(inner) = upgrade.await
    {
        let mut metered = Metered { stream: upstream, book: Arc::clone(&egress.book) };
        // Either side's end is the tunnel's; a build's own time limit bounds the wait for it.
        drop(tokio::io::copy_bidirectional(&mut TokioIo::new(inner), &mut metered).await);
    }
}

/// Name and port of a CONNECT; nothing else is understood.
fn target(request: &Request<Incoming>) -> Option<(String, u16)> {
    let authority = (request.method() == Method::CONNECT).then(|| request.uri().authority())??;
    let name = Hostname::parse(authority.host()).ok()?;
    Some((name.as_str().to_owned(), authority.port_u16()?))
}

impl Egress {
    async fn admit(&self, name: &str, port: u16) -> Result<TcpStream, (StatusCode, String)> {
        let shown = format!("{name}:{port}");
        let opened = self.open(name, port).await;
        let verdict = opened.as_ref().err().copied().unwrap_or(Verdict::Connected);
        self.book.note(&shown, verdict);
        opened.map_err(|verdict| (StatusCode::FORBIDDEN, format!("{shown} {}\n", verdict.words())))
    }
}

/// A connection whose bytes come out of the build's allowance.
struct Metered {
    stream: TcpStream,
    book: Arc<Book>,
}

fn spent() -> io::Error {
    io::Error::other("the build's allowance of bytes is used up")
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = (buffer.filled().len() - before) as u64;
        if read > 0 && !self.book.spend(read) {
            return Poll::Ready(Err(spent()));
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        match polled {
            Poll::Ready(Ok(written)) if !self.book.spend(written as u64) => Poll::Ready(Err(spent())),
            other => other,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
