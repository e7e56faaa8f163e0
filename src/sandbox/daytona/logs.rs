//! The followed log of a session command: one stream of bytes over a WebSocket, in which three equal
//! bytes say whose output comes next. Takes the marks out, and knows how much it has seen, because a new
//! connection begins at the beginning.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{RequestBuilder, Response, StatusCode};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// A log message that is longer is no log message.
const MESSAGE_BYTES: usize = 4 << 20;
const MARKS: [[u8; 3]; 2] = [[1; 3], [2; 3]];

/// A request that asks for the upgrade.
pub fn upgrade(request: RequestBuilder) -> RequestBuilder {
    // Against caches that answer with what they have kept; it proves nothing else.
    let key = STANDARD.encode(uuid::Uuid::new_v4().as_bytes());
    request
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, key)
}

/// Where the reading of a log stands.
#[derive(Default)]
pub struct Log {
    /// Bytes of the log seen so far, marks included.
    seen: u64,
    marks: Marks,
}

impl Log {
    /// Reads until the log ends or the connection breaks; answers whether it was closed in order.
    pub async fn follow(&mut self, answer: Response, output: &mpsc::Sender<Bytes>) -> Result<bool, Refused> {
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Refused);
        }
        let upgraded = answer.upgrade().await.map_err(|_| Refused)?;
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(MESSAGE_BYTES);
        config.max_frame_size = Some(MESSAGE_BYTES);
        let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let mut skip = self.seen;
        let mut closed = false;
        while let Some(Ok(message)) = socket.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => {
                    closed = true;
                    break;
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= known as u64;
            let new = bytes.slice(known..);
            self.seen += new.len() as u64;
            let text = self.marks.strip(&new);
            if !text.is_empty() {
                // Nobody listens any more: the command goes on all the same.
                drop(output.send(text).await);
            }
        }
        Ok(closed)
    }

    /// What was held back because it might have been half a mark.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.marks.held).into()
    }
}

#[derive(Debug)]
pub struct Refused;

#[derive(Default)]
struct Marks {
    /// The last bytes, where they may be the beginning of a mark.
    held: Vec<u8>,
}

impl Marks {
    fn strip(&mut self, new: &[u8]) -> Bytes {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(new);
        let mut out = Vec::with_capacity(all.len());
        let mut rest = all.as_slice();
        while let Some(first) = rest.first() {
            if MARKS.iter().any(|mark| rest.starts_with(mark)) {
                rest = &rest[3..];
            } else if rest.len() < 3 && matches!(first, 1 | 2) && rest.iter().all(|byte| byte == first) {
                self.held = rest.to_vec();
                break;
            } else {
                out.push(*first);
                rest = &rest[1..];
            }
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_however_they_are_cut() {
        let log = b"\x01\x01\x01out\n\x02\x02\x02err\x01\n\x01\x01\x01more\x02\x02";
        for size in 1..log.len() {
            let mut marks = Marks::default();
            let mut text = Vec::new();
            for chunk in log.chunks(size) {
                text.extend_from_slice(&marks.strip(chunk));
            }
            text.extend_from_slice(&marks.held);
            assert_eq!(text, b"out\nerr\x01\nmore\x02\x02", "{size}");
        }
    }
}
