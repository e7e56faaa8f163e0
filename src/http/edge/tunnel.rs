//! Owns WebSockets: two connections that speak past us once client and origin have agreed (RFC 6455 §4).
//! Never offers an origin another protocol than that: `Upgrade: h2c` would be a way around everything we check.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::request::Parts;
use http::{Method, Response, Version, response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use crate::runtime::upstream::Switched;

/// One read from an origin.
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
        if let Err(e) = relay(TokioIo::new(client), socket, early, &ending).await {
            tracing::trace!(error = %e, "a tunnel ended early");
        }
    });
    let mut response = Response::from_parts(head, Body::empty());
    response.extensions_mut().insert(Tunnel(Arc::new(Mutex::new(Some(told)))));
    response
}

/// `early` is what the origin said before.
async fn relay<C, O>(client: C, origin: O, early: Bytes, ending: &Ending) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
    O: AsyncRead + AsyncWrite,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_origin, mut to_origin) = tokio::io::split(origin);
    let mut from_origin = io::Cursor::new(early).chain(from_origin);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_origin).await?;
        to_origin.shutdown().await
    };
    let down = async {
        let mut frames = Frames::default();
        let mut piece = vec![0; PIECE_BYTES];
        let mut reached = std::pin::pin!(ending.reached());
        let mut is_over = false;
        loop {
            if is_over && frames.is_between() {
                to_client.write_all(&COME_AGAIN).await?;
                to_client.flush().await?;
                return Ok(true);
            }
            let bytes = tokio::select! {
                bytes = from_origin.read(&mut piece) => bytes?,
                () = &mut reached, if !is_over => {
                    is_over = true;
                    continue;
                }
            };
            if bytes == 0 {
                to_client.shutdown().await?;
                return Ok::<bool, io::Error>(false);
            }
            frames.follow(&piece[..bytes]);
            to_client.write_all(&piece[..bytes]).await?;
            // Inside TLS, what was written may still lie with us.
            to_client.flush().await?;
        }
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    tokio::select! {
        sent = up.as_mut() => {
            sent?;
            down.await.map(drop)
        }
        told = down.as_mut() => {
            // A client that was told answers with its own close; one whose origin has closed may still be sending.
            if told? {
                drop(tokio::time::timeout(LAST_WORD, up).await);
                return Ok(());
            }
            up.await
        }
    }
}

/// Where in the frames of one direction we are (RFC 6455 §5.2): between two of them we may speak ourselves.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; 14],
    held: usize,
    left: u64,
}

impl Frames {
    fn is_between(&self) -> bool {
        self.held == 0 && self.left == 0
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= here as u64;
                bytes = &bytes[here..];
                continue;
            }
            self.head[self.held] = first;
            self.held += 1;
            bytes = rest;
            if self.held < 2 {
                continue;
            }
            let (extended, mask) = match self.head[1] & 0x7f {
                126 => (2, self.head[1] & 0x80),
                127 => (8, self.head[1] & 0x80),
                _ => (0, self.head[1] & 0x80),
            };
            if self.held == 2 + extended + if mask == 0 { 0 } else { 4 } {
                self.left = match extended {
                    0 => u64::from(self.head[1] & 0x7f),
                    _ => self.head[2..2 + extended].iter().fold(0, |sum, b| sum << 8 | u64::from(*b)),
                };
                self.held = 0;
            }
        }
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
    use super::*;
    use proptest::prelude::*;

    fn frame(size: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match size {
            0..126 => frame.push(mask | size as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(size as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(size as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(0xff, size + if is_masked { 4 } else { 0 }));
        frame
    }

    proptest! {
        #[test]
        fn between_two_frames_and_nowhere_else(
            sizes in prop::collection::vec((prop_oneof![0usize..130, 65_530usize..65_540], any::<bool>()), 1..4),
            cut in 0usize..200_000,
        ) {
            let whole: Vec<Vec<u8>> = sizes.iter().map(|(size, masked)| frame(*size, *masked)).collect();
            let ends: Vec<usize> = whole.iter().scan(0, |sum, f| { *sum += f.len(); Some(*sum) }).collect();
            let bytes = whole.concat();
            let cut = cut % (bytes.len() + 1);
            let mut frames = Frames::default();
            frames.follow(&bytes[..cut]);
            prop_assert_eq!(frames.is_between(), cut == 0 || ends.contains(&cut));
            frames.follow(&bytes[cut..]);
            prop_assert!(frames.is_between());
        }
    }

    fn ending(drain: Duration) -> Ending {
        let token = CancellationToken::new;
        Ending { stopping: token(), retired: token(), drain, jitter: Duration::from_millis(1) }
    }

    #[tokio::test]
    async fn a_socket_is_told_to_come_again_behind_a_whole_frame() {
        let ending = ending(Duration::ZERO);
        let (client, mut browser) = tokio::io::duplex(1024);
        let (origin, mut server) = tokio::io::duplex(1024);
        let (whole, told) = (frame(10, false), ending.clone());
        let relaying = tokio::spawn(async move { relay(client, origin, Bytes::new(), &told).await });
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
    }
}
