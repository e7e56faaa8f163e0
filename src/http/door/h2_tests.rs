//! HTTP/2 clients before origins: what comes behind bodies, and bodies that do not come.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::test_house::*;
use crate::domain::upstream::UpstreamPolicy;

type Upload = UnsyncBoxBody<Bytes, std::io::Error>;

async fn client(house: &House) -> SendRequest<Upload> {
    let socket = TcpStream::connect(house.address).await.unwrap();
    let (sender, driver) = handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(driver);
    sender
}

/// Sends these frames; then nothing more, and no end.
fn endless(frames: Vec<Frame<Bytes>>) -> Upload {
    let frames = futures_util::stream::iter(frames.into_iter().map(Ok));
    StreamBody::new(frames.chain(futures_util::stream::pending())).boxed_unsync()
}

fn upload(frames: Vec<Frame<Bytes>>) -> Upload {
    StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

fn post(body: Upload) -> Request<Upload> {
    Request::post(format!("http://{HOST}/up")).header("trailer", "x-sum, cookie").body(body).unwrap()
}

fn fields(names: &[&'static str]) -> HeaderMap {
    names.iter().map(|name| (name.parse().unwrap(), HeaderValue::from_static("1"))).collect()
}

#[tokio::test]
async fn no_trailer_says_what_belongs_into_a_head() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie, X_Libra_Version\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=b\r\nX_Libra_Version: 1\r\nAge: 1\r\n\r\n";
    let origin = origin(answer, Then::Stay).await;
    let house = house(&[origin.port], policy());
    let frames = vec![
        Frame::data(Bytes::from_static(b"hello")),
        Frame::trailers(fields(&["x-sum", "cookie", "x-forwarded-for"])),
    ];
    let answered = client(&house).await.send_request(post(upload(frames))).await.unwrap();
    assert_eq!(answered.headers()["trailer"], "x-sum");
    let whole = answered.into_body().collect().await.unwrap();
    let trailers: Vec<&str> = whole.trailers().unwrap().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(trailers, ["x-sum"]);
    let request = format!(
        "POST /up HTTP/1.1\r\nHost: {HOST}\r\nConnection: close, TE, X-Hop\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Cookie, X-Forwarded-For, X-Hop\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nCookie: a=b\r\nX-Forwarded-For: 6.6.6.6\r\nX-Hop: 1\r\n\r\n"
    );
    let told = house.ask(request.as_bytes(), |_| false).await.to_ascii_lowercase();
    assert!(told.contains("\r\ntrailer: x-sum\r\n") && told.ends_with("\r\n0\r\nx-sum: 7\r\n\r\n"), "{told}");
    for asked in origin.asked() {
        let asked = asked.to_ascii_lowercase();
        assert!(asked.contains("\r\ntrailer: x-sum\r\n"), "{asked}");
        assert!(asked.ends_with("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), "{asked}");
    }
    assert_eq!(origin.asked().len(), 2);
    house.close().await;
}

#[tokio::test]
async fn an_upload_that_never_comes_is_the_clients_fault_while_others_on_the_connection_live() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let mut sender = client(&house).await;
    let began = Instant::now();
    let mut silent = Vec::new();
    for frames in [vec![], vec![Frame::data(Bytes::from_static(b"hal"))]] {
        silent.push(tokio::spawn(sender.send_request(post(endless(frames)))));
    }
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    while !silent.iter().all(tokio::task::JoinHandle::is_finished) {
        tick.tick().await;
        let other = Request::get(format!("http://{HOST}/other")).body(upload(vec![])).unwrap();
        assert_eq!(sender.send_request(other).await.unwrap().status(), 200);
        assert!(began.elapsed() < PATIENCE / 2, "it is waited for without end");
    }
    for answered in silent {
        assert_eq!(answered.await.unwrap().unwrap().status(), 408);
    }
    // Whatever of them has reached the origin has ended there too: it has both heads, cut short.
    let started = Instant::now();
    while origin.asked().iter().filter(|asked| asked.starts_with("POST /up ")).count() < 2 {
        assert!(started.elapsed() < PATIENCE / 2, "{:?}", origin.asked());
        tokio::task::yield_now().await;
    }
    let is_whole = |asked: &String| asked.starts_with("POST") && asked.contains("\r\n0\r\n");
    assert!(!origin.asked().iter().any(is_whole), "{:?}", origin.asked());
    assert!(!house.upstream.report()[0].ejected);
    house.close().await;
}

#[tokio::test]
async fn an_upload_of_a_byte_now_and_then_is_given_up() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let house = house(&[origin.port], policy());
    let tick = tokio::time::interval(policy().idle_timeout / 2);
    let drips = futures_util::stream::unfold(tick, async |mut tick| {
        tick.tick().await;
        Some((Ok(Frame::data(Bytes::from_static(b"x"))), tick))
    });
    let body = StreamBody::new(drips).boxed_unsync();
    let mut sender = client(&house).await;
    let answered = tokio::time::timeout(PATIENCE / 2, sender.send_request(post(body))).await;
    assert_eq!(answered.expect("it drips for ever").unwrap().status(), 408);
    house.close().await;
}

#[tokio::test]
async fn an_upload_is_given_up_by_the_shorter_of_the_two_patiences() {
    let origin = origin("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::Stay).await;
    let long = UpstreamPolicy { idle_timeout: PATIENCE * 3, first_byte_timeout: PATIENCE * 3, ..policy() };
    let house = house(&[origin.port], long);
    let mut sender = client(&house).await;
    let answered = tokio::time::timeout(PATIENCE / 2, sender.send_request(post(endless(vec![])))).await;
    assert_eq!(answered.expect("the origin's patience counts alone").unwrap().status(), 408);
    house.close().await;
}
