//! Clients that keep the front door waiting: each is given up in its time, and costs little until then.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::PATIENCE;
use crate::attacked::{LARGE_BYTES, Rig};
use crate::wire::{ask, exchange};

#[tokio::test]
async fn a_client_that_is_slow_or_half_gone_is_given_up() {
    let rig = Rig::start().await;
    let host = &rig.proxied;
    let slow = ask(rig.address(), format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-").as_bytes()).await;
    assert_eq!(slow.status, 408);
    // Nothing at all, and an empty line.
    for bytes in ["", "\r\n", "G"] {
        let replies = exchange(rig.address(), bytes.as_bytes()).await;
        assert!(replies.iter().all(|reply| reply.status == 408), "{bytes:?}: {replies:?}");
    }
    for host in rig.hosts() {
        for body in ["Content-Length: 10\r\n\r\nhal", "Transfer-Encoding: chunked\r\n\r\n5\r\nhal"] {
            let request =
                format!("POST /deploy HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{body}");
            let replies = exchange(rig.address(), request.as_bytes()).await;
            assert!(replies.len() <= 1, "{replies:?}");
            assert!(replies.iter().all(|reply| reply.status >= 400), "{host} {body:?}: {replies:?}");
        }
    }
    rig.still_serves("slow bodies").await;
    // Half closed behind a whole request: answered, or given up as by a client that has gone, which looks the same.
    // Behind half a one: nobody hears of it.
    let mut socket = TcpStream::connect(rig.address()).await.unwrap();
    socket.write_all(format!("GET /half HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 200 ") && text.ends_with("ok"), "{text}");
    let mut socket = TcpStream::connect(rig.address()).await.unwrap();
    socket.write_all(format!("GET /never HTTP/1.1\r\nHost: {host}\r\n").as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let mut rest = Vec::new();
    drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap());
    assert!(!rig.origin.received().contains("/never"), "{}", rig.origin.received());
    rig.still_serves("half a request").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_little_and_not_for_long() {
    let rig = Rig::start().await;
    let before = rig.resident_bytes();
    let mut sockets = Vec::new();
    for _ in 0..20 {
        let mut socket = TcpStream::connect(rig.address()).await.unwrap();
        let request = format!("GET /large HTTP/1.1\r\nHost: {}\r\n\r\n", rig.proxied);
        socket.write_all(request.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    rig.app.wait("all are asked", async || rig.origin.asked().len() == 20).await;
    rig.still_serves("twenty clients that read nothing").await;
    let grown = rig.resident_bytes().saturating_sub(before);
    assert!(grown < 20 * (4 << 20), "{grown} bytes for 20 answers of {LARGE_BYTES}");
    // They are given up without having read anything, and their origin learns it.
    rig.app.wait("all are given up", async || rig.origin.failed() == 20).await;
    drop(sockets);
    rig.still_serves("clients that were given up").await;
}
