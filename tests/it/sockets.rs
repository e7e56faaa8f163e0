//! A WebSocket's client, frame by frame (RFC 6455): short frames only.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::PATIENCE;

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;

pub struct Socket(TcpStream);

/// The bytes that ask for one.
pub fn handshake(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

impl Socket {
    pub async fn open(address: &str, host: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(handshake(host, "/socket").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
            head.push(byte.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&head))));
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self(stream)
    }

    /// One frame and its payload.
    pub async fn read(&mut self) -> (u8, Vec<u8>) {
        let reading = async {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).await?;
            assert!(head[1] < 126, "a server masks nothing and these are short: {head:?}");
            let mut payload = vec![0; usize::from(head[1])];
            self.0.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((head[0] & 0xf, payload))
        };
        tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap()
    }

    /// The origin's answer to some words, which are the same.
    pub async fn echoes(&mut self, words: &str) {
        let mut frame = vec![0x80 | TEXT, 0x80 | u8::try_from(words.len()).unwrap(), 1, 2, 3, 4];
        frame.extend(words.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.write_all(&frame).await.unwrap();
        assert_eq!(self.read().await, (TEXT, words.as_bytes().to_vec()));
    }
}
