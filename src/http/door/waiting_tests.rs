//! What takes its time through an origin: clients that ask before they send, long polls, events as they come.

use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::test_house::*;
use crate::domain::upstream::UpstreamPolicy;

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// The head of a request that waits to be told to go on.
fn asking(host: &str, bytes: usize) -> String {
    format!(
        "PUT /up HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {bytes}\r\n\r\n"
    )
}

#[tokio::test]
async fn who_asks_before_it_sends_is_told_to_go_on_once_its_origin_is_there() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    socket.write_all(asking(HOST, 5).as_bytes()).await.unwrap();
    assert_eq!(read(&mut socket, |seen| seen.ends_with("\r\n\r\n")).await, CONTINUE);
    socket.write_all(b"hello").await.unwrap();
    let rest = read(&mut socket, |_| false).await;
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("\r\n\r\nok"), "{rest}");
    let asked = origin.asked().remove(0).to_ascii_lowercase();
    // The origin would answer the question a second time.
    assert!(asked.ends_with("\r\n\r\nhello") && !asked.contains("expect"), "{asked}");
    house.close().await;
}

#[tokio::test]
async fn who_asks_for_what_is_refused_sends_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let house = house(&[gone], policy());
    for (host, bytes, status) in [(HOST, 2 << 20, 413), (HOST, 5, 502), ("nobody.libra.localhost", 5, 404)] {
        let told = house.ask(asking(host, bytes).as_bytes(), |_| false).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status} ")), "{told}");
    }
    house.close().await;
}

#[tokio::test]
async fn an_origin_that_answers_before_the_body_came_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            read(&mut socket, |seen| seen.contains("\r\n\r\n")).await;
            let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
            drop(socket.write_all(refusal).await);
            read(&mut socket, |_| false).await;
        }
    });
    let house = house(&[port], policy());
    // The first word is ours; the client that sends nothing more sees the origin's all the same.
    let told = house.ask(asking(HOST, 5).as_bytes(), |seen| seen.ends_with("\r\n\r\nno")).await;
    let told = told.strip_prefix(CONTINUE).unwrap_or_else(|| panic!("{told}"));
    assert!(told.starts_with("HTTP/1.1 401 "), "{told}");
    house.close().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_when_its_origin_has_something_to_say() {
    let (news, mut has_news) = unbounded_channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, mut was_asked) = unbounded_channel();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read(&mut socket, is_whole).await;
        asked.send(()).unwrap();
        has_news.recv().await;
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews").await);
    });
    // Longer than a client may be silent: whoever waits for an origin is not.
    let patient = UpstreamPolicy { first_byte_timeout: PATIENCE, ..policy() };
    let house = house(&[port], patient);
    let mut polling = Box::pin(house.get(""));
    let silent = Duration::from_millis(1_500);
    assert!(tokio::time::timeout(silent, polling.as_mut()).await.is_err());
    was_asked.recv().await.unwrap();
    news.send(()).unwrap();
    assert!(polling.await.ends_with("\r\n\r\nnews"));
    house.close().await;
}

/// Sends each event when it is told to.
async fn events() -> (UnboundedSender<&'static str>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (next, mut told) = unbounded_channel::<&str>();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read(&mut socket, is_whole).await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        drop(socket.write_all(head.as_bytes()).await);
        while let Some(event) = told.recv().await {
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            drop(socket.write_all(chunk.as_bytes()).await);
        }
        drop(socket.write_all(b"0\r\n\r\n").await);
    });
    (next, port)
}

#[tokio::test]
async fn events_reach_their_client_as_they_come() {
    for is_http2 in [false, true] {
        let (next, port) = events().await;
        let house = house(&[port], policy());
        let socket = TokioIo::new(TcpStream::connect(house.address).await.unwrap());
        let request = http::Request::get(format!("http://{HOST}/events")).header("host", HOST);
        let body = Empty::<bytes::Bytes>::new();
        let answered = if is_http2 {
            let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await;
            let (mut sender, driver) = client.unwrap();
            tokio::spawn(driver);
            sender.send_request(request.body(body).unwrap()).await.unwrap()
        } else {
            let (mut sender, driver) = hyper::client::conn::http1::handshake(socket).await.unwrap();
            tokio::spawn(driver);
            sender.send_request(request.body(body).unwrap()).await.unwrap()
        };
        assert_eq!(answered.headers()["content-type"], "text/event-stream");
        let mut body = answered.into_body();
        for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
            assert!(body.frame().now_or_never().is_none(), "nothing was said yet");
            next.send(event).unwrap();
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap();
            assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), event);
        }
        drop(next);
        let rest = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap();
        assert!(rest.unwrap().to_bytes().is_empty(), "it is over, and whole");
        house.close().await;
    }
}
