//! Bytes on a connection, for what no HTTP client would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::PATIENCE;

/// One answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let start = format!("\r\n{}: ", name.to_ascii_lowercase());
        self.head.split_once(&start).map(|(_, rest)| rest.split("\r\n").next().unwrap_or(rest))
    }

    /// The code of an error document.
    pub fn code(&self) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_default();
        document["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends `bytes` and reads until the server closes the connection.
pub async fn exchange(address: &str, bytes: &[u8]) -> Vec<Reply> {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = connection.into_split();
    let mut received = Vec::new();
    let talking = async {
        // A server that has refused already may close before everything was sent.
        let sending = async {
            drop(write.write_all(bytes).await);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = sending => {}
            _ = read.read_to_end(&mut received) => {}
        }
    };
    let closed = tokio::time::timeout(PATIENCE, talking).await.is_ok();
    let text = String::from_utf8_lossy(&received).into_owned();
    assert!(closed, "the server keeps the connection open: {text}");
    replies(&text)
}

/// As [`exchange`], for one answer.
pub async fn ask(address: &str, bytes: &[u8]) -> Reply {
    let mut replies = exchange(address, bytes).await;
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies.remove(0)
}

fn replies(mut text: &str) -> Vec<Reply> {
    let mut found = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap();
        let mut reply = Reply { status, head, body: String::new() };
        let length = reply.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let (body, after) = rest.split_at(rest.len().min(length));
        body.clone_into(&mut reply.body);
        text = after;
        found.push(reply);
    }
    found
}
