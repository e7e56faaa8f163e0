//! The guard alone, before a client that is a pipe in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::guard::Guarded;
use super::settings::{Bounds, Patience};

#[tokio::test]
async fn a_client_that_still_takes_an_answer_is_not_late_with_its_next_request() {
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(60));
    let patience =
        Patience { head: short, keep_alive: short, stream: long, linger: short, slowest_bytes_per_second: 0 };
    let (mut client, socket) = tokio::io::duplex(64);
    let bounds = Bounds { head_bytes: 1024, patience };
    let mut guarded = Guarded::http1(socket, Vec::new(), bounds, Arc::default());
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut head = [0; 64];
    assert_eq!(guarded.read(&mut head).await.unwrap(), 18);
    // More than the client has room for: the rest waits for it.
    let writing = tokio::time::timeout(short, guarded.write_all(&[b'x'; 1000])).await;
    assert!(writing.is_err());
    let waiting = tokio::time::timeout(short * 5, guarded.read(&mut head)).await;
    assert!(waiting.is_err(), "given up: {waiting:?}");
}

#[tokio::test]
async fn the_time_to_the_next_request_begins_when_an_answer_was_taken() {
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(60));
    let patience =
        Patience { head: short, keep_alive: short, stream: long, linger: short, slowest_bytes_per_second: 0 };
    let (mut client, socket) = tokio::io::duplex(64);
    let bounds = Bounds { head_bytes: 1024, patience };
    let mut guarded = Guarded::http1(socket, Vec::new(), bounds, Arc::default());
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut head = [0; 64];
    assert_eq!(guarded.read(&mut head).await.unwrap(), 18);
    // Taken whole, and only later than a next request would have had to come.
    let mut space = [0; 100];
    let taking = async {
        tokio::time::sleep(short * 2).await;
        client.read_exact(&mut space).await.unwrap();
    };
    let (written, ()) = tokio::join!(guarded.write_all(&[b'x'; 100]), taking);
    written.unwrap();
    let waiting = tokio::time::timeout(short / 2, guarded.read(&mut head)).await;
    assert!(waiting.is_err(), "given up: {waiting:?}");
    assert_eq!(guarded.read(&mut head).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn who_took_an_answer_late_inside_tls_is_not_kept_for_ever() {
    let (short, long) = (Duration::from_millis(50), Duration::from_secs(60));
    let patience =
        Patience { head: short, keep_alive: short, stream: long, linger: short, slowest_bytes_per_second: 0 };
    let (mut client, socket) = tokio::io::duplex(64);
    let bounds = Bounds { head_bytes: 1024, patience };
    // As TLS does, it takes all that is written and hands it on when it is flushed.
    let buffered = tokio::io::BufStream::new(socket);
    let mut guarded = Guarded::http1(buffered, Vec::new(), bounds, Arc::default());
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut head = [0; 64];
    assert_eq!(guarded.read(&mut head).await.unwrap(), 18);
    guarded.write_all(&[b'x'; 100]).await.unwrap();
    let mut space = [0; 100];
    let (flushed, taken) = tokio::join!(guarded.flush(), client.read_exact(&mut space));
    flushed.unwrap();
    taken.unwrap();
    let waiting = tokio::time::timeout(long / 6, guarded.read(&mut head)).await;
    assert_eq!(waiting.expect("kept for ever").unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

/// More slowly than anybody may, one byte at a time.
const DRIP: Duration = Duration::from_millis(5);

fn impatient_with_drips() -> Bounds {
    let long = Duration::from_secs(60);
    let span = Duration::from_millis(100);
    let patience =
        Patience { head: long, keep_alive: long, stream: span, linger: long, slowest_bytes_per_second: 1000 };
    Bounds { head_bytes: 1 << 20, patience }
}

#[tokio::test]
async fn a_client_that_takes_a_byte_now_and_then_is_given_up() {
    let (mut client, socket) = tokio::io::duplex(64);
    let mut guarded = Guarded::http1(socket, Vec::new(), impatient_with_drips(), Arc::default());
    let taking = async {
        let mut tick = tokio::time::interval(DRIP);
        loop {
            tick.tick().await;
            client.read_u8().await.unwrap();
        }
    };
    let written = tokio::select! {
        written = guarded.write_all(&[b'x'; 10_000]) => written,
        () = taking => unreachable!("it takes for ever"),
    };
    assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn trailers_that_drip_in_are_given_up() {
    let (mut client, socket) = tokio::io::duplex(64);
    let mut guarded = Guarded::http1(socket, Vec::new(), impatient_with_drips(), Arc::default());
    client.write_all(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ").await.unwrap();
    let dripping = async {
        let mut tick = tokio::time::interval(DRIP);
        for _ in 0..10_000 {
            tick.tick().await;
            client.write_u8(b'a').await.unwrap();
        }
    };
    let mut all = Vec::new();
    let read = tokio::select! {
        read = guarded.read_to_end(&mut all) => read,
        () = dripping => unreachable!("it drips for ever"),
    };
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_header_block_of_http2_is_waited_for_like_a_head_whatever_else_goes_on() {
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(60));
    let patience =
        Patience { head: short, keep_alive: long, stream: long, linger: short, slowest_bytes_per_second: 0 };
    let bounds = Bounds { head_bytes: 1024, patience };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // HEADERS with and without END_HEADERS, and one of which only a part has come.
    let (whole, open) = (b"\0\0\x01\x01\x04\0\0\0\x01\x82", b"\0\0\x01\x01\0\0\0\0\x01\x82");
    for (frame, is_owed) in [(&whole[..], false), (&open[..], true), (&whole[..9], true), (&whole[..3], true)]
    {
        let (mut client, socket) = tokio::io::duplex(1024);
        let mut guarded = Guarded::http2(socket, Vec::new(), bounds, Arc::default());
        client.write_all(&[&preface[..], frame].concat()).await.unwrap();
        let mut read = vec![0; preface.len() + frame.len()];
        guarded.read_exact(&mut read).await.unwrap();
        // Answers on other streams are no reason to wait longer.
        let mut space = [0; 4];
        let waiting = tokio::time::timeout(short * 4, async {
            let mut tick = tokio::time::interval(short / 4);
            loop {
                tokio::select! {
                    read = guarded.read(&mut space) => return read,
                    _ = tick.tick() => {}
                }
                guarded.write_all(b"x").await?;
            }
        });
        match waiting.await {
            Err(_) => assert!(!is_owed, "{frame:?} is waited for"),
            Ok(read) => {
                assert!(is_owed, "{frame:?} is given up");
                assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
            }
        }
    }
}
