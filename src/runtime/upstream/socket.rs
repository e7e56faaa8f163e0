//! Owns reaching an origin: finding where its name leads, judging what came out, connecting to exactly that address.
//! Never connects to an address that was not judged: a name may lead elsewhere a moment later.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::{OriginState, Upstream};
use crate::domain::origin::Origin;

/// An open way to an origin.
#[derive(Debug)]
pub enum OriginSocket {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// The authorities of this machine, for origins that speak TLS. Read once.
pub fn trusted_authorities() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    let make = || {
        let mut roots = rustls::RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        let (added, ignored) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(added, ignored, failed = found.errors.len(), "certificate authorities were read");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("the provider knows both versions");
        let mut config = versions.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    };
    Arc::clone(CONFIG.get_or_init(make))
}

/// Bounded by the policy's time for connecting, all of it together.
pub async fn connect(upstream: &Upstream, origin: &OriginState) -> io::Result<OriginSocket> {
    let connecting = async {
        match &origin.address {
            Origin::Unix(path) => UnixStream::connect(&**path).await.map(OriginSocket::Unix),
            Origin::Http { host, port, tls: false } => {
                tcp(upstream, origin, host.as_str(), *port).await.map(OriginSocket::Tcp)
            }
            Origin::Http { host, port, tls: true } => {
                let name = ServerName::try_from(bare(host.as_str()).to_owned()).map_err(io::Error::other)?;
                let socket = tcp(upstream, origin, host.as_str(), *port).await?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(&upstream.tls));
                connector.connect(name, socket).await.map(|socket| OriginSocket::Tls(Box::new(socket)))
            }
        }
    };
    tokio::time::timeout(upstream.policy.connect_timeout, connecting).await?
}

async fn tcp(upstream: &Upstream, origin: &OriginState, host: &str, port: u16) -> io::Result<TcpStream> {
    if let Ok(ip) = bare(host).parse::<IpAddr>() {
        return tcp_to(upstream, &[SocketAddr::new(ip, port)]).await;
    }
    let found = origin.names.of(host, port, upstream.reuse.keep_names).await?;
    tcp_to(upstream, &found.addresses).await
}

/// The first of these that may be connected to and lets us.
async fn tcp_to(upstream: &Upstream, addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the origin's name has no address");
    for address in addresses {
        if !(upstream.may_connect)(SocketAddr::new(address.ip().to_canonical(), address.port())) {
            last = io::Error::new(io::ErrorKind::PermissionDenied, "the origin's address is not allowed");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                return Ok(socket);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// An IPv6 literal without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
}

macro_rules! each {
    ($self:ident, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            OriginSocket::Tcp($socket) => $call,
            OriginSocket::Tls($socket) => $call,
            OriginSocket::Unix($socket) => $call,
        }
    };
}

impl AsyncRead for OriginSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for OriginSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(socket) => socket.is_write_vectored(),
            Self::Tls(socket) => socket.is_write_vectored(),
            Self::Unix(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
