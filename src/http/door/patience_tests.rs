//! Who is waited for, and for how long: slow readers, slow senders, heads that never end, origins of their own mind.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::test_house::*;
use crate::domain::upstream::{HostHeader, UpstreamPolicy};

/// Reads the whole answer in small pieces that together take longer than a connection is kept without a request.
async fn read_slowly(socket: &mut TcpStream, takes: Duration, bytes: usize) -> Vec<u8> {
    let (mut seen, began) = (Vec::new(), Instant::now());
    let mut piece = vec![0; bytes / 40];
    let mut tick = tokio::time::interval(takes / 50);
    loop {
        tick.tick().await;
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(bytes) => seen.extend_from_slice(&piece[..bytes]),
        }
        // The connection stays: its end says nothing.
        if seen.len() > bytes {
            break;
        }
    }
    assert!(began.elapsed() >= takes / 2, "the answer fitted into the socket; the test proves nothing");
    seen
}

#[tokio::test]
async fn a_slow_reader_gets_its_whole_answer_however_long_it_was_asked_ago() {
    let body = "x".repeat(8 << 20);
    let answer: &'static str =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak();
    let origin = origin(answer, Then::Stay).await;
    let patient = UpstreamPolicy { idle_timeout: PATIENCE, ..policy() };
    let house = house(&[origin.port], patient);
    // With little room of its own: else the system takes the whole answer at once, and nobody is slow.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut socket = socket.connect(house.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    // The small settings keep a connection without a request for one second.
    let seen = read_slowly(&mut socket, Duration::from_secs(3), body.len()).await;
    assert!(seen.len() > body.len(), "{} of {}", seen.len(), body.len());
    house.close().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_and_never_ends_is_not_held() {
    let origin = origin("", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let endless = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: {}", "a".repeat(40_000));
    let began = Instant::now();
    house.ask(endless.as_bytes(), |_| false).await;
    assert!(began.elapsed() < PATIENCE / 2);
    house.close().await;
}

#[tokio::test]
async fn an_upload_may_take_longer_than_the_first_byte_and_a_silent_one_is_the_clients_fault() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 10\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut tick = tokio::time::interval(policy().first_byte_timeout / 4);
    for _ in 0..10 {
        tick.tick().await;
        socket.write_all(b"x").await.unwrap();
    }
    let answer = read(&mut socket, |_| false).await;
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    for _ in 0..5 {
        let mut silent = TcpStream::connect(house.address).await.unwrap();
        silent.write_all(head.as_bytes()).await.unwrap();
        let answer = read(&mut silent, |_| false).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(!house.upstream.report()[0].ejected, "no origin is left out for what clients do");
    house.close().await;
}

#[tokio::test]
async fn a_body_of_unknown_size_beyond_the_limit_is_a_413() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let piece = format!("10000\r\n{}\r\n", "x".repeat(65_536));
    let endless =
        format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{}", piece.repeat(17));
    let answer = house.ask(endless.as_bytes(), |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(!house.upstream.report()[0].ejected);
    house.close().await;
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_size_keeps_it() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let request = format!(
        "GET /_search HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    house.ask(request.as_bytes(), |_| false).await;
    assert!(origin.asked()[0].ends_with("\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), "{:?}", origin.asked());
    house.close().await;
}

#[tokio::test]
async fn an_origin_may_want_its_own_name() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Stay).await;
    let house = house(&[origin.port], UpstreamPolicy { host_header: HostHeader::Origin, ..policy() });
    house.get("").await;
    let asked = origin.asked().remove(0).to_ascii_lowercase();
    assert!(asked.contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", origin.port)), "{asked}");
    assert!(asked.contains("x-forwarded-host: app.libra.localhost"), "{asked}");
    house.close().await;
}

#[tokio::test]
async fn a_switch_of_protocols_sets_no_cookie_for_others() {
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSet-Cookie: a=b; Domain=libra.localhost\r\nX-Libra-Version: x\r\n\r\n";
    let origin = origin(agreed, Then::Hold).await;
    let house = house(&[origin.port], policy());
    for (path, host) in [("/", HOST), ("/dispatch/app/", "localhost")] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        );
        let seen = house.ask(request.as_bytes(), |seen| seen.contains("\r\n\r\n")).await;
        assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
        assert!(!seen.contains("set-cookie") && !seen.contains("x-libra-version"), "{seen}");
    }
    house.close().await;
}

#[tokio::test]
async fn a_websocket_reaches_the_origin_that_is_there() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let agreed = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let origin = origin(agreed, Then::Hold).await;
    let house = house(&[gone, origin.port], policy());
    for _ in 0..4 {
        let request =
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        let seen = house.ask(request.as_bytes(), |seen| seen.contains("\r\n\r\n")).await;
        assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    }
    assert_eq!(origin.connections.load(Ordering::SeqCst), 4);
    house.close().await;
}

#[tokio::test]
async fn a_request_that_comes_back_by_its_own_origin_is_refused() {
    let origin = origin("", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let answer = house.get("CDN-Loop: other; id=1\r\nCDN-Loop: libra; id=test\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("leads back"), "{answer}");
    assert!(origin.asked().is_empty());
    house.close().await;
}

#[tokio::test]
async fn cookies_that_came_in_crumbs_arrive_in_one_line() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Then::Stay).await;
    let house = house(&[origin.port], policy());
    house.get("Cookie: a=1\r\nCookie: b=2\r\n").await;
    let asked = origin.asked().remove(0).to_ascii_lowercase();
    assert!(asked.contains("\r\ncookie: a=1; b=2\r\n"), "{asked}");
    house.close().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_behind_its_next_requests_too() {
    for more in [1, 200] {
        let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome", Then::Hold).await;
        let patient = UpstreamPolicy { idle_timeout: PATIENCE, first_byte_timeout: PATIENCE, ..policy() };
        let house = house(&[origin.port], patient);
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        let pipeline = format!("{request}{}GET /half", request.repeat(more));
        let seen = house.ask(pipeline.as_bytes(), |seen| seen.ends_with("some")).await;
        assert!(seen.ends_with("some"));
        origin.closed().await;
        house.close().await;
    }
}

#[tokio::test]
async fn who_declines_an_upgrade_may_not_be_silent_for_ever() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", Then::Hold).await;
    let house = house(&[origin.port], policy());
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n{upgrade}\r\n");
    let began = Instant::now();
    let answer = house.ask(request.as_bytes(), |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("only this"), "{answer}");
    assert!(began.elapsed() < PATIENCE / 2);
    origin.closed().await;
    house.close().await;
}

#[tokio::test]
async fn an_idle_connection_that_its_origin_has_closed_is_closed_without_a_request() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::HalfClose).await;
    let house = house(&[origin.port], policy());
    assert!(house.get("").await.ends_with("ok"));
    origin.close.notify_one();
    origin.closed().await;
    house.close().await;
}

#[tokio::test]
async fn a_byte_now_and_then_is_no_upload() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let house = house(&[origin.port], policy());
    for body in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n8000\r\n"] {
        let mut socket = TcpStream::connect(house.address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{body}");
        socket.write_all(head.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = socket.into_split();
        let dripping = async {
            // Each in time, and all together next to nothing.
            let mut tick = tokio::time::interval(policy().idle_timeout / 2);
            while writer.write_all(b"x").await.is_ok() {
                tick.tick().await;
            }
            std::future::pending::<()>().await;
        };
        let mut answer = String::new();
        let reading = tokio::time::timeout(PATIENCE / 2, reader.read_to_string(&mut answer));
        tokio::select! {
            () = dripping => {}
            read = reading => drop(read.expect("it drips for ever")),
        }
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    assert!(!house.upstream.report()[0].ejected);
    house.close().await;
}

#[tokio::test]
async fn an_origin_that_answers_early_may_wait_for_a_long_upload_before_it_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let head = read(&mut socket, |seen| seen.contains("\r\n\r\n")).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
        let already = head.split_once("\r\n\r\n").unwrap().1.len();
        let mut rest = vec![0; 10 - already];
        socket.read_exact(&mut rest).await.unwrap();
        socket.write_all(b"done").await.unwrap();
    });
    let house = house(&[port], policy());
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 10\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    // Each piece well within what an origin may be silent, all of them together well beyond.
    let mut tick = tokio::time::interval(policy().idle_timeout / 4);
    for _ in 0..10 {
        tick.tick().await;
        socket.write_all(b"x").await.unwrap();
    }
    let answer = read(&mut socket, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("done"), "{answer}");
    house.close().await;
}
