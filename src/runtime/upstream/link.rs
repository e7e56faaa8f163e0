//! Owns one connection to an origin: its socket, and the bytes on their way in both directions.
//! Never runs in a task of its own: handing each request to another task and its answer back would cost two wake-ups,
//! and a dropped link ends the origin's work at once. Never knows what the bytes mean.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::alarm::Alarm;
use super::exchange::Exchange;
use super::socket::OriginSocket;

/// Largest read; also the largest head of an answer.
pub(super) const READ_BYTES: usize = 128 * 1024;
/// First read of an answer: most are smaller.
const FIRST_READ_BYTES: usize = 8 * 1024;
/// Up to here a piece of a body is copied behind its head, and both are sent in one go.
const JOINED_BYTES: usize = 8 * 1024;

/// A connection.
pub struct Link {
    socket: OriginSocket,
    /// What the origin sent and nobody has looked at.
    pub(super) input: BytesMut,
    /// What it is sent next, `written` bytes of it sent already.
    pub(super) output: Vec<u8>,
    written: usize,
    /// Sent behind `output`, and `tail` behind it.
    piece: Bytes,
    tail: Bytes,
    read_bytes: usize,
    pub(super) alarm: Alarm,
    pub(super) exchange: Exchange,
    pub(super) idle_since: Instant,
}

impl Link {
    pub fn new(socket: OriginSocket) -> Box<Link> {
        Box::new(Link {
            socket,
            input: BytesMut::new(),
            output: Vec::new(),
            written: 0,
            piece: Bytes::new(),
            tail: Bytes::new(),
            read_bytes: FIRST_READ_BYTES,
            alarm: Alarm::default(),
            exchange: Exchange::default(),
            idle_since: Instant::now(),
        })
    }

    /// Reads what is there, after what was read before. 0: the origin has closed.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read_bytes == FIRST_READ_BYTES {
            // By way of the stack, which is near the processor: what is kept is then as large as what came.
            let mut space = [const { MaybeUninit::uninit() }; FIRST_READ_BYTES];
            let mut space = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut space))?;
            let read = space.filled().len();
            self.input.extend_from_slice(space.filled());
            if read == FIRST_READ_BYTES {
                self.read_bytes *= 2;
            }
            return Poll::Ready(Ok(read));
        }
        self.input.reserve(self.read_bytes);
        let room = self.input.capacity() - self.input.len();
        let read = ready!(tokio_util::io::poll_read_buf(Pin::new(&mut self.socket), cx, &mut self.input))?;
        // A large answer is read in large pieces, a small one costs no large buffer.
        if read == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES);
        } else if read < FIRST_READ_BYTES {
            self.read_bytes = FIRST_READ_BYTES;
        }
        Poll::Ready(Ok(read))
    }

    /// Puts a piece of a body behind what is to be sent, and `tail` behind it. There is no other piece yet.
    pub(super) fn put(&mut self, piece: Bytes, tail: Bytes) {
        debug_assert!(self.piece.is_empty() && self.tail.is_empty(), "sent before the next one is taken");
        if self.output.len() + piece.len() <= JOINED_BYTES {
            self.output.extend_from_slice(&piece);
            self.output.extend_from_slice(&tail);
        } else {
            (self.piece, self.tail) = (piece, tail);
        }
    }

    /// Whether all that was put here is sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Nothing more can be sent.
    pub(super) fn discard(&mut self) {
        self.output.clear();
        self.written = 0;
        (self.piece, self.tail) = (Bytes::new(), Bytes::new());
    }

    /// Whether a further piece may be put behind what is to be sent.
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty() && self.output.len() < JOINED_BYTES
    }

    /// Ready when all is sent.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_flushed() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let head = &self.output[self.written..];
            let socket = Pin::new(&mut self.socket);
            let sent = match (head.is_empty(), self.piece.is_empty() && self.tail.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(socket.poll_write(cx, head))?,
                (_, false) => {
                    let slices = [IoSlice::new(head), IoSlice::new(&self.piece), IoSlice::new(&self.tail)];
                    ready!(socket.poll_write_vectored(cx, &slices))?
                }
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = sent.min(head.len());
            let of_piece = (sent - of_head).min(self.piece.len());
            self.written += of_head;
            self.piece.advance(of_piece);
            self.tail.advance(sent - of_head - of_piece);
            self.exchange.moved();
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.output.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Whether a request can be sent on it. Looks at the socket: an origin that has closed shows here, and so does one
    /// that has said more than it was asked.
    pub fn is_usable(&mut self, cx: &mut Context<'_>) -> bool {
        // Whatever comes, were it one byte, makes it useless, so no buffer is needed.
        let mut byte = [0];
        let mut space = ReadBuf::new(&mut byte);
        self.input.is_empty()
            && self.is_flushed()
            && Pin::new(&mut self.socket).poll_read(cx, &mut space).is_pending()
    }

    /// Nothing is asked on it for now: what a large exchange needed is given up.
    pub(super) fn rest(&mut self) {
        self.idle_since = Instant::now();
        self.exchange = Exchange::default();
        if self.output.capacity() > JOINED_BYTES {
            self.output = Vec::new();
        }
        self.read_bytes = FIRST_READ_BYTES;
        self.input = BytesMut::new();
    }

    /// For another protocol: the socket, and what was read of it already.
    pub(super) fn into_socket(self) -> (OriginSocket, Bytes) {
        (self.socket, self.input.freeze())
    }
}
