//! Owns what a client's connection can do beyond reading and writing bytes: letting the system send parts of files.
//! Never sends a part over a connection that changes the bytes on their way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::runtime::FilePart;

/// A client's own socket, or one inside TLS.
pub trait ClientSocket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Lets the system send at most so many bytes from the front of `part`.
    fn poll_send_file(
        &mut self,
        _cx: &mut Context<'_>,
        _part: &mut FilePart,
        _at_most: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Sends what has more behind it, so that both may share a packet.
    fn poll_send_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, bytes)
    }
}

impl ClientSocket for tokio_rustls::server::TlsStream<TcpStream> {}

impl ClientSocket for TcpStream {
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        part: &mut FilePart,
        at_most: usize,
    ) -> Poll<io::Result<usize>> {
        poll_writing(self, cx, |socket| part.send(socket, at_most))
    }

    fn poll_send_more(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        poll_writing(self, cx, |socket| Ok(rustix::net::send(socket, bytes, SendFlags::MORE)?))
    }
}

fn poll_writing(
    socket: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_io(Interest::WRITABLE, || write(socket)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            written => return Poll::Ready(written),
        }
    }
}

#[cfg(test)]
impl ClientSocket for tokio::io::DuplexStream {}

#[cfg(test)]
impl ClientSocket for tokio::io::BufStream<tokio::io::DuplexStream> {}
