//! Owns WebSockets: two connections that speak past us once client and origin have agreed (RFC 6455 §4).
//! Never offers an origin another protocol than that: `Upgrade: h2c` would be a way around everything we check.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Response, Version, response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::Body;
use super::frames::Frames;
use crate::runtime::upstream::Switched;

/// One read from either side.
const PIECE_BYTES: usize = 16 * 1024;
/// A close frame with code 1012, service restart.
const COME_AGAIN: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];
/// For the client's own close frame.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Whether the client asks for a WebSocket.
pub(super) fn asked_for(head: &Parts) -> bool {
    head.version == Version::HTTP_11
        && head.method == Method::GET
        && names(&head.headers, &header::UPGRADE, b"websocket")
        && names(&head.headers, &header::CONNECTION, b"upgrade")
}

/// Puts back what was stripped as a matter of one hop.
pub(super) const OFFER: &[u8] = b"connection: Upgrade\r\nupgrade: websocket\r\n";

/// What ends a tunnel from our side.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The server stops.
    pub stopping: CancellationToken,
    /// The upstream was replaced or removed: sockets stay with it for as long as `drain` says.
    pub retired: CancellationToken,
    pub drain: Duration,
    /// Clients are told within this, each at a moment of its own, so that they do not all come back at once.
    pub jitter: Duration,
}

impl Ending {
    async fn reached(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = async {
                self.retired.cancelled().await;
                tokio::time::sleep(self.drain).await;
            } => {}
        }
        let [first, second, ..] = super::request_id::random_bytes();
        let share = f64::from(u16::from_le_bytes([first, second])) / f64::from(u16::MAX);
        tokio::time::sleep(self.jitter.mul_f64(share)).await;
    }
}

/// Joins the two sides. The tunnel ends with either of them, with silence, which the client's connection measures, and
/// with `ending`: then the client is told to come again (close code 1012).
pub(super) fn open(
    head: response::Parts,
    client: OnUpgrade,
    switched: Switched,
    ending: Ending,
) -> Response<Body> {
    let (ended, told) = tokio::sync::oneshot::channel::<()>();
    tokio::task::spawn_local(async move {
        let Switched { socket, early, turn } = switched;
        let _held = (turn, ended);
        let Ok(client) = client.await else { return };
        if let Err(e) = relay(TokioIo::new(client), socket, early, ending).await {
            tracing::trace!(error = %e, "a tunnel ended early");
        }
    });
    let mut response = Response::from_parts(head, Body::empty());
    response.extensions_mut().insert(Tunnel(Arc::new(Mutex::new(Some(told)))));
    response
}

/// `early` is what the origin said before.
async fn relay<C, O>(client: C, origin: O, early: Bytes, ending: Ending) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    O: AsyncRead + AsyncWrite + Unpin,
{
    let mut sides = Sides::new(client, origin, early);
    // A task of its own: asked each time that something comes, it would cost as much as passing that on.
    let mut reached = AbortOnDropHandle::new(tokio::task::spawn_local(async move { ending.reached().await }));
    tokio::select! {
        biased;
        ended = poll_fn(|cx| sides.poll(cx)) => return ended,
        _ = &mut reached => {}
    }
    poll_fn(|cx| sides.poll_told(cx)).await?;
    // A client that was told answers with its own close.
    drop(tokio::time::timeout(LAST_WORD, poll_fn(|cx| sides.poll_up(cx))).await);
    Ok(())
}

/// Both sides, and what is on its way between them.
struct Sides<C, O> {
    client: C,
    origin: O,
    up: Way,
    down: Way,
    /// Where the origin is.
    frames: Frames,
    is_told: bool,
}

impl<C: AsyncRead + AsyncWrite + Unpin, O: AsyncRead + AsyncWrite + Unpin> Sides<C, O> {
    fn new(client: C, origin: O, early: Bytes) -> Self {
        let mut frames = Frames::default();
        frames.follow(&early);
        let down = Way { rest: early, is_written: true, ..Way::default() };
        Self { client, origin, up: Way::default(), down, frames, is_told: false }
    }

    /// Ready when both directions have ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.poll_up(cx)?;
        let down = self.down.poll(cx, &mut self.origin, &mut self.client, |bytes| {
            self.frames.follow(bytes);
            bytes.len()
        })?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.up.poll(cx, &mut self.client, &mut self.origin, <[u8]>::len)
    }

    /// Passes on what is left of a frame that has begun, and tells the client to come again.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whether the client has ended does not matter any more.
        let _ended = self.poll_up(cx)?;
        loop {
            ready!(self.down.poll_rest(cx, &mut self.client))?;
            if self.is_told || self.down.is_over {
                return Poll::Ready(Ok(()));
            }
            if self.frames.is_between() {
                self.down.put(&COME_AGAIN);
                self.is_told = true;
                continue;
            }
            ready!(
                self.down.poll_piece(cx, &mut self.origin, &mut self.client, |b| self.frames.follow_one(b))
            )?;
        }
    }
}

/// One direction. Keeps only what its receiver did not take at once.
#[derive(Debug, Default)]
struct Way {
    rest: Bytes,
    /// Inside TLS, what was written may still lie with us.
    is_written: bool,
    is_over: bool,
    is_shut: bool,
}

impl Way {
    fn put(&mut self, bytes: &[u8]) {
        self.rest = Bytes::copy_from_slice(bytes);
        self.is_written = true;
    }

    /// Ready when the sender has ended and the receiver was told. `follow` says how many of the bytes go on.
    fn poll<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        mut follow: impl FnMut(&[u8]) -> usize,
    ) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            if self.is_shut {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_rest(cx, to))?;
            if self.is_over {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.is_shut = true;
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_piece(cx, from, to, &mut follow))?;
        }
    }

    /// Ready when everything that was read has been taken.
    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let taken = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.advance(taken);
        }
        if self.is_written {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.is_written = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and offers it to the receiver.
    fn poll_piece<F, T>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        follow: impl FnOnce(&[u8]) -> usize,
    ) -> Poll<io::Result<()>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        // On the stack: a socket that is silent holds no buffer.
        let mut space = [const { MaybeUninit::uninit() }; PIECE_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(from).poll_read(cx, &mut space))?;
        let bytes = space.filled();
        if bytes.is_empty() {
            self.is_over = true;
            return Poll::Ready(Ok(()));
        }
        let bytes = &bytes[..follow(bytes)];
        let taken = match Pin::new(to).poll_write(cx, bytes)? {
            Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(taken) => taken,
            Poll::Pending => 0,
        };
        self.is_written = true;
        if taken < bytes.len() {
            self.put(&bytes[taken..]);
        }
        Poll::Ready(Ok(()))
    }
}

/// Tells the connection when its tunnel has ended: until then it has its place.
#[derive(Debug, Clone)]
pub struct Tunnel(Arc<Mutex<Option<tokio::sync::oneshot::Receiver<()>>>>);

impl Tunnel {
    /// `None` where somebody waits already.
    pub fn end(&self) -> Option<tokio::sync::oneshot::Receiver<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn names(headers: &HeaderMap, name: &header::HeaderName, word: &[u8]) -> bool {
    let mut words = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    words.any(|named| named.trim_ascii().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frame;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn ending(drain: Duration) -> Ending {
        let token = CancellationToken::new;
        Ending { stopping: token(), retired: token(), drain, jitter: Duration::from_millis(1) }
    }

    /// What a task does that may not leave its thread.
    async fn on_this_thread(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_socket_is_told_to_come_again_behind_a_whole_frame() {
        on_this_thread(async {
            let ending = ending(Duration::ZERO);
            let (client, mut browser) = tokio::io::duplex(1024);
            let (origin, mut server) = tokio::io::duplex(1024);
            let (whole, told) = (frame(10, false), ending.clone());
            let relaying = tokio::task::spawn_local(relay(client, origin, Bytes::new(), told));
            server.write_all(&whole[..5]).await.unwrap();
            let mut seen = vec![0; 5];
            browser.read_exact(&mut seen).await.unwrap();
            ending.retired.cancel();
            server.write_all(&whole[5..]).await.unwrap();
            let mut rest = vec![0; whole.len() - 5 + COME_AGAIN.len()];
            browser.read_exact(&mut rest).await.unwrap();
            assert_eq!([seen, rest].concat(), [whole, COME_AGAIN.to_vec()].concat());
            drop(browser);
            relaying.await.unwrap().unwrap();
        })
        .await;
    }

    #[tokio::test]
    async fn the_next_frame_is_not_begun_before_it() {
        let (client, mut browser) = tokio::io::duplex(1024);
        let (origin, mut server) = tokio::io::duplex(1024);
        let whole = frame(10, false);
        let mut sides = Sides::new(client, origin, Bytes::copy_from_slice(&whole[..5]));
        server.write_all(&[&whole[5..], &whole[..7]].concat()).await.unwrap();
        poll_fn(|cx| sides.poll_told(cx)).await.unwrap();
        drop(sides);
        let mut seen = Vec::new();
        browser.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, [whole, COME_AGAIN.to_vec()].concat());
    }

    #[tokio::test]
    async fn what_one_side_does_not_take_waits_and_none_of_it_is_lost() {
        on_this_thread(async {
            let (client, mut browser) = tokio::io::duplex(100);
            let (origin, mut server) = tokio::io::duplex(100);
            let relaying = tokio::task::spawn_local(relay(
                client,
                origin,
                frame(20, false).into(),
                ending(Duration::ZERO),
            ));
            let (up, down) = (frame(50_000, true), frame(40_000, false));
            let (mut at_origin, mut at_client) = (Vec::new(), Vec::new());
            let (mut from_browser, mut to_browser) = tokio::io::split(&mut browser);
            let (mut from_server, mut to_server) = tokio::io::split(&mut server);
            let said = async {
                to_browser.write_all(&up).await.unwrap();
                to_browser.shutdown().await.unwrap();
            };
            let answered = async {
                to_server.write_all(&down).await.unwrap();
                to_server.shutdown().await.unwrap();
            };
            let (.., up_bytes, down_bytes) = tokio::join!(
                said,
                answered,
                from_server.read_to_end(&mut at_origin),
                from_browser.read_to_end(&mut at_client),
            );
            up_bytes.unwrap();
            down_bytes.unwrap();
            assert_eq!((at_origin == up, at_client == [frame(20, false), down].concat()), (true, true));
            relaying.await.unwrap().unwrap();
        })
        .await;
    }
}
