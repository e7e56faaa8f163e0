//! Owns the socket of one client: every byte of HTTP/1 passes the strict reading of [`super::head`] and [`super::chunks`] on its way
//! to the parser, and every wait on the client has its limit.
//! Never changes a byte. A finding is told to the service by the number of the request it is about; a body that can't
//! be followed ends the connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::chunks::{Chunks, Followed};
use super::findings::Findings;
use super::frames::Frames;
use super::head::{Framing, Scanned, scan};
use super::settings::Bounds;
use super::socket::ClientSocket;
use crate::http::edge::file_body;
use crate::routing::BadRequest;
use crate::runtime::FilePart;
use crate::runtime::upstream::{Alarm, Pace};

/// What a client that keeps us waiting for its head is told, if nothing else is on the way to it.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// HTTP/2's (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;
/// Up to here what is written is copied together.
const JOINED_BYTES: usize = 2048;
/// After our last byte: as much of what the client still sends is read, so that it sees the answer and no reset.
const LINGER_BYTES: usize = 1024 * 1024;

enum State {
    /// Bytes of a head that is not whole yet.
    Head(Vec<u8>),
    Length(u64),
    Chunked(Chunks),
    /// So many bytes of HTTP/2's preface have not come yet.
    Preface(usize),
    /// HTTP/2 behind it: a header block holds up all streams, so it is waited for like a head.
    Frames(Frames),
    /// Everything from here on is refused, and is not waited for longer than a head is.
    Refused,
    /// Nothing more is looked at: an upgraded connection.
    Passing,
}

/// One client's socket.
pub struct Guarded<S> {
    socket: S,
    /// What was read to tell the protocols apart.
    ahead: Vec<u8>,
    state: State,
    heads: u64,
    bounds: Bounds,
    findings: Arc<Findings>,
    alarm: Alarm,
    /// Since when the client owes us what we wait for.
    waiting_since: Instant,
    write_since: Option<Instant>,
    /// When the client last took something of ours.
    last_write: Instant,
    linger: Option<(Instant, usize)>,
    /// Of a body's bytes as they come, framing included, and of ours as they are taken.
    sending: Pace,
    taking: Pace,
    is_shut: bool,
    /// What blanks stand for now.
    file: Option<FilePart>,
}

impl<S> Guarded<S> {
    /// `ahead` was read from the socket before.
    pub fn http1(socket: S, ahead: Vec<u8>, bounds: Bounds, findings: Arc<Findings>) -> Self {
        Self::new(socket, ahead, State::Head(Vec::new()), bounds, findings)
    }

    pub fn http2(socket: S, ahead: Vec<u8>, bounds: Bounds, findings: Arc<Findings>) -> Self {
        Self::new(socket, ahead, State::Preface(PREFACE_BYTES), bounds, findings)
    }

    fn new(socket: S, ahead: Vec<u8>, state: State, bounds: Bounds, findings: Arc<Findings>) -> Self {
        let now = Instant::now();
        Self {
            socket,
            ahead,
            state,
            heads: 0,
            bounds,
            findings,
            alarm: Alarm::default(),
            waiting_since: now,
            write_since: None,
            last_write: now,
            linger: None,
            sending: Pace::default(),
            taking: Pace::default(),
            is_shut: false,
            file: None,
        }
    }

    /// Follows bytes that go to the parser.
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Passing | State::Refused => return Ok(()),
                State::Preface(left) => {
                    let here = (*left).min(bytes.len());
                    *left -= here;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.state = State::Frames(Frames::default());
                    }
                }
                State::Frames(frames) => {
                    let has_begun = frames.follow(bytes);
                    let has_begun =
                        has_begun.map_err(|_| io::Error::other("the first frame is no SETTINGS"))?;
                    if has_begun && frames.are_owed() {
                        self.waiting_since = Instant::now();
                    }
                    return Ok(());
                }
                State::Length(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= here as u64;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.state = State::Head(Vec::new());
                        self.waiting_since = Instant::now();
                    }
                }
                State::Chunked(chunks) => match chunks.follow(bytes) {
                    Followed::All => return Ok(()),
                    Followed::End(here) => {
                        bytes = &bytes[here..];
                        self.state = State::Head(Vec::new());
                        self.waiting_since = Instant::now();
                    }
                    Followed::Broken => return Err(io::Error::other("the chunked body can't be followed")),
                },
                State::Head(held) => {
                    if held.is_empty() {
                        self.waiting_since = Instant::now();
                    }
                    let before = held.len();
                    let scanned = if before == 0 {
                        scan(bytes)
                    } else {
                        held.extend_from_slice(bytes);
                        // Bytes that end no line end no head: a client that drips must not have it read again.
                        if memchr::memchr(b'\n', bytes).is_some() { scan(held) } else { Scanned::Partial }
                    };
                    match scanned {
                        Scanned::Partial => {
                            if before == 0 {
                                held.extend_from_slice(bytes);
                            }
                            if held.len() > self.bounds.head_bytes {
                                self.refuse(BadRequest::TooLarge { limit_bytes: self.bounds.head_bytes });
                            }
                            return Ok(());
                        }
                        Scanned::Whole { bytes: length, judged } => {
                            bytes = &bytes[length - before..];
                            self.head(length, judged);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn head(&mut self, length: usize, judged: Result<Framing, BadRequest>) {
        let limit_bytes = self.bounds.head_bytes;
        let judged = if length > limit_bytes { Err(BadRequest::TooLarge { limit_bytes }) } else { judged };
        match judged {
            Ok(framing) => {
                self.heads += 1;
                self.state = match framing {
                    Framing::None => State::Head(Vec::new()),
                    Framing::Length(bytes) => State::Length(bytes),
                    Framing::Chunked => State::Chunked(Chunks::new(limit_bytes)),
                };
            }
            Err(what) => self.refuse(what),
        }
    }

    /// Where the bytes behind this head belong to is not known, so nothing behind it is answered either.
    fn refuse(&mut self, what: BadRequest) {
        // Set once: nothing is looked at afterwards.
        let _only_the_first = self.findings.bad.set((self.heads, what));
        self.state = State::Refused;
    }

    /// When the client's time is over, if it is the client's turn.
    fn read_due(&self) -> Option<Instant> {
        // What it has not taken yet comes first, and has a limit of its own.
        if self.write_since.is_some() {
            return None;
        }
        let patience = &self.bounds.patience;
        // An answer may have taken long to be taken; the client's turn began when it was.
        let turn = self.waiting_since.max(self.last_write);
        match &self.state {
            State::Head(held) if held.is_empty() && self.findings.is_idle() => {
                Some(turn + if self.heads == 0 { patience.head } else { patience.keep_alive })
            }
            State::Head(held) if !held.is_empty() && self.findings.is_idle() => Some(turn + patience.head),
            State::Preface(_) | State::Refused => Some(self.waiting_since + patience.head),
            // Whoever reads the body gives up first, and can still say so.
            State::Length(_) | State::Chunked(_) => Some(turn + patience.stream + patience.linger),
            State::Passing if self.findings.upgraded.load(Relaxed) => Some(turn + patience.stream),
            // Whatever is written on other streams meanwhile.
            State::Frames(frames) if frames.are_owed() => Some(self.waiting_since + patience.head),
            State::Head(_) | State::Frames(_) | State::Passing => None,
        }
    }

    /// Whether `due` has passed. Wakes the task when it does.
    fn is_over(&mut self, cx: &mut Context<'_>, due: Instant) -> bool {
        self.alarm.is_over(cx, due)
    }
}

impl<S: ClientSocket> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.findings.upgraded.load(Relaxed) && !matches!(this.state, State::Passing) {
            this.state = State::Passing;
            this.waiting_since = Instant::now();
        }
        if !this.ahead.is_empty() {
            let here = this.ahead.len().min(buf.remaining());
            buf.put_slice(&this.ahead[..here]);
            this.ahead.drain(..here);
            if this.ahead.is_empty() {
                this.ahead = Vec::new();
            }
        } else if Pin::new(&mut this.socket).poll_read(cx, buf)?.is_pending() {
            if matches!(this.state, State::Length(_) | State::Chunked(_)) {
                this.sending.wait();
            }
            let Some(due) = this.read_due() else { return Poll::Pending };
            if !this.is_over(cx, due) {
                return Poll::Pending;
            }
            let owes_a_head = matches!(&this.state, State::Head(held) if !held.is_empty());
            if owes_a_head && this.findings.is_idle() {
                // As far as the socket takes it at once; the connection ends either way.
                drop(Pin::new(&mut this.socket).poll_write(cx, TOO_SLOW));
                this.findings.was_late.store(true, Relaxed);
            }
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if matches!(this.state, State::Length(_) | State::Chunked(_) | State::Passing) {
            this.waiting_since = Instant::now();
        }
        this.sending.moved((buf.filled().len() - before) as u64);
        let followed = match this.sending.is_too_slow(this.bounds.patience.slowest()) {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => this.follow(&buf.filled()[before..]),
        };
        if followed.is_err() {
            // What can't be followed reaches nobody.
            buf.set_filled(before);
        }
        Poll::Ready(followed)
    }
}

impl<S: ClientSocket> Guarded<S> {
    /// While the parser holds bytes of a next request it reads no more, and would not see its client leave in the middle
    /// of an answer. What comes meanwhile is kept for it, as much as a head may have.
    fn look_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let holds_next = self.heads > self.findings.asked.load(Relaxed)
            || matches!(&self.state, State::Head(held) if !held.is_empty());
        if !holds_next || self.findings.is_idle() {
            return Ok(());
        }
        let mut space = [0; 4096];
        while self.ahead.len() < self.bounds.head_bytes {
            let mut buf = ReadBuf::new(&mut space);
            if Pin::new(&mut self.socket).poll_read(cx, &mut buf)?.is_pending() {
                break;
            }
            if buf.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(buf.filled());
        }
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let blank = bufs.iter().position(|buf| file_body::is_blank(buf));
        match blank {
            Some(0) => return self.send_file(cx, bufs[0].len()),
            // What is before a part of a file is the head of its answer.
            Some(_) => return self.socket.poll_send_more(cx, &bufs[0]),
            None => {}
        }
        let size: usize = bufs.iter().map(|buf| buf.len()).sum();
        if bufs.len() == 1 || size > JOINED_BYTES {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        }
        // A small answer in one piece: the system takes that for less than a list of two.
        let mut joined = [0; JOINED_BYTES];
        let mut room = &mut joined[..];
        bufs.iter().for_each(|buf| room.put_slice(buf));
        Pin::new(&mut self.socket).poll_write(cx, &joined[..size])
    }

    /// Sends what a blank of this size stands for.
    fn send_file(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        let part = match &mut self.file {
            Some(part) => part,
            // Each blank goes along with its part, so there is one.
            empty => empty.insert(self.findings.files().next().ok_or(io::ErrorKind::InvalidData)?),
        };
        let sent = ready!(self.socket.poll_send_file(cx, part, bytes))?;
        if part.size() == 0 {
            self.file = None;
        }
        Poll::Ready(Ok(sent))
    }

    /// A client that does not take what we send is given up after a while.
    fn taken(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(taken) = &result {
            self.taking.moved(taken.as_ref().map_or(0, |bytes| *bytes as u64));
            if self.taking.is_too_slow(self.bounds.patience.slowest()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.write_since = None;
            self.last_write = Instant::now();
            return result;
        }
        self.taking.wait();
        let since = *self.write_since.get_or_insert_with(Instant::now);
        if self.is_over(cx, since + self.bounds.patience.stream) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl<S: ClientSocket> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = this.write(cx, bufs);
        this.taken(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Inside TLS, what the client has not taken shows here.
        match Pin::new(&mut this.socket).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                if this.write_since.take().is_some() {
                    this.taking.moved(0);
                    this.last_write = Instant::now();
                }
                Poll::Ready(this.look_ahead(cx))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => this.taken(cx, Poll::Pending).map_ok(drop),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let patience = this.bounds.patience.linger;
        let (until, _) = *this.linger.get_or_insert_with(|| (Instant::now() + patience, 0));
        if !this.is_shut {
            match Pin::new(&mut this.socket).poll_shutdown(cx)? {
                Poll::Ready(()) => this.is_shut = true,
                Poll::Pending if this.is_over(cx, until) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
            // Between two requests nothing is on the way that would turn the close into a reset; and what comes
            // through a tunnel is the origin's.
            let is_between = matches!(&this.state, State::Head(held) if held.is_empty());
            if is_between || this.findings.upgraded.load(Relaxed) {
                this.linger = Some((Instant::now(), LINGER_BYTES));
                return Poll::Ready(Ok(()));
            }
        }
        let mut space = [0; 4096];
        loop {
            let Some((until, read)) = this.linger else { return Poll::Ready(Ok(())) };
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut this.socket).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() && read < LINGER_BYTES => {
                    this.linger = Some((until, read + buf.filled().len()));
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if this.is_over(cx, until) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
