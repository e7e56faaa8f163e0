//! Requests that are malformed, ambiguous, too large or too slow: each gets a clear answer, and the
//! one who sent it sees it.

use reqwest::Method;
use serde_json::json;

use crate::app::{TestApp, answer};
use crate::wire::{ask, exchange};

const TWENTY_MEGABYTES: usize = 20 * 1024 * 1024;

#[tokio::test]
async fn bytes_that_are_no_clear_request_are_refused_and_the_connection_closed() {
    let app = TestApp::start_with(&[("LIBRA__HTTP__HEADER_TIMEOUT_MS", "400")]).await;
    let address = app.server.address.clone();
    let host = format!("Host: {address}\r\n");
    let json = "Content-Type: application/json\r\n";
    for (what, bytes) in [
        ("two hosts", format!("GET / HTTP/1.1\r\n{host}{host}\r\n")),
        ("two other hosts", format!("GET / HTTP/1.1\r\n{host}Host: a.b\r\n\r\n")),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("no host beside a whole target", format!("GET http://{address}/ HTTP/1.1\r\n\r\n")),
        ("no host in 1.0", "GET / HTTP/1.0\r\n\r\n".to_owned()),
        ("a bad host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("a target that is not the host", format!("GET http://a.b/ HTTP/1.1\r\n{host}\r\n")),
        (
            "two lengths",
            format!(
                "POST /deploy HTTP/1.1\r\n{host}{json}Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"
            ),
        ),
        (
            "length and encoding",
            format!(
                "POST /deploy HTTP/1.1\r\n{host}{json}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
        ),
        (
            "an encoding in 1.0",
            format!("POST /deploy HTTP/1.0\r\n{host}{json}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "an unknown encoding",
            format!("POST /deploy HTTP/1.1\r\n{host}{json}Transfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n"),
        ),
        ("a signed length", format!("POST /deploy HTTP/1.1\r\n{host}{json}Content-Length: +2\r\n\r\n{{}}")),
        ("no HTTP at all", "hello\r\n\r\n".to_owned()),
    ] {
        let reply = ask(&address, bytes.as_bytes()).await;
        assert_eq!(reply.status, 400, "{what}: {reply:?}");
        // Bytes that never became a request are answered bare.
        assert!(reply.body.is_empty() || reply.code() == "INVALID_REQUEST", "{what}: {reply:?}");
        assert!(reply.head.starts_with("http/1.0") || reply.header("connection") == Some("close"), "{what}");
    }

    let slow = ask(&address, format!("GET / HTTP/1.1\r\n{host}X-Slow: ").as_bytes()).await;
    assert_eq!((slow.status, slow.header("connection")), (408, Some("close")));

    for (bytes, is_parsed) in [(33_000, true), (200_000, false)] {
        let filler = "a".repeat(bytes);
        for host in [host.as_str(), "Host: nobody.libra.localhost\r\n"] {
            let request = format!("GET / HTTP/1.1\r\n{host}Connection: close\r\nX-Big: {filler}\r\n\r\n");
            let reply = ask(&address, request.as_bytes()).await;
            assert_eq!(reply.status, 431, "{bytes}: {}", reply.head);
            assert_eq!(reply.code() == "REQUEST_TOO_LARGE", is_parsed, "{bytes}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n{host}Connection: close\r\n\r\n", &filler[..33_000]);
        assert_eq!(ask(&address, long.as_bytes()).await.status, 431);
    }
}

#[tokio::test]
async fn every_parsed_request_is_answered_in_order_with_its_id() {
    let app = TestApp::start().await;
    let address = app.server.address.clone();
    let host = format!("Host: {address}\r\n");
    let close = "Connection: close\r\n";
    let pipeline = format!(
        "GET /livez HTTP/1.1\r\n{host}X-Request-Id: one\r\n\r\n\
         POST /deploy HTTP/1.1\r\n{host}X-Request-Id: two\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}\
         GET / HTTP/1.1\r\nHost: nobody.libra.localhost\r\nX-Request-Id: three\r\n\r\n\
         DELETE /deploy HTTP/1.1\r\n{host}X-Request-Id: four\r\n{close}\r\n"
    );
    let replies = exchange(&address, pipeline.as_bytes()).await;
    let seen: Vec<_> = replies.iter().map(|r| (r.header("x-request-id").unwrap_or(""), r.status)).collect();
    assert_eq!(seen, [("one", 200), ("two", 401), ("three", 404), ("four", 405)]);
    assert_eq!(replies[3].header("allow"), Some("post"));

    for (what, listener, head, status) in [
        ("a target without a path", &app.server.address, format!("OPTIONS * HTTP/1.1\r\n{host}"), 404),
        ("an unknown path", &app.server.address, format!("GET /nope HTTP/1.1\r\n{host}"), 404),
        ("an unknown method", &app.server.address, format!("BREW / HTTP/1.1\r\n{host}"), 405),
        (
            "the operator's listener",
            &app.server.operator,
            "GET /livez HTTP/1.1\r\nHost: any\r\n".to_owned(),
            200,
        ),
        ("its unknown paths", &app.server.operator, "GET /deploy HTTP/1.1\r\nHost: any\r\n".to_owned(), 404),
        ("its other methods", &app.server.operator, "PUT /readyz HTTP/1.1\r\nHost: any\r\n".to_owned(), 405),
    ] {
        let reply = ask(listener, format!("{head}X-Request-Id: mine\r\n{close}\r\n").as_bytes()).await;
        assert_eq!((reply.status, reply.header("x-request-id")), (status, Some("mine")), "{what}: {reply:?}");
        assert_eq!(reply.code().is_empty(), status == 200, "{what}: {reply:?}");
    }
    let expected = format!(
        "POST /deploy HTTP/1.1\r\n{host}{close}Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(exchange(&address, expected.as_bytes()).await.last().unwrap().status, 401);
    let head = ask(&address, format!("HEAD /health HTTP/1.1\r\n{host}{close}\r\n").as_bytes()).await;
    assert!(head.header("content-length").unwrap().parse::<u64>().unwrap() > 0 && head.body.is_empty());
}

#[tokio::test]
async fn bodies_that_do_not_fit_are_refused_and_nothing_is_recorded() {
    let app = TestApp::start().await;
    let id = "0".repeat(32);
    let credential = format!("Authorization: Bearer {}\r\n", app.token);
    for (method, path) in [
        ("POST", "/deploy".to_owned()),
        ("POST", "/api/v1/projects".to_owned()),
        ("PUT", format!("/api/v1/projects/{id}/files")),
        ("POST", format!("/api/v1/deployments/{id}/cancel")),
        ("GET", "/".to_owned()),
    ] {
        let mut bytes = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{credential}Content-Type: application/json\r\n\
             Content-Length: {TWENTY_MEGABYTES}\r\nConnection: close\r\n\r\n",
            app.server.address
        )
        .into_bytes();
        bytes.resize(bytes.len() + TWENTY_MEGABYTES, b' ');
        let reply = ask(&app.server.address, &bytes).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (413, "REQUEST_TOO_LARGE"),
            "{method} {path}: {reply:?}"
        );
    }
    // Without a declared length the bound holds all the same.
    let mut chunked = format!(
        "POST /deploy HTTP/1.1\r\nHost: {}\r\n{credential}Content-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        app.server.address
    )
    .into_bytes();
    for _ in 0..20 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.resize(chunked.len() + 0x10_0000, b' ');
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let reply = ask(&app.server.address, &chunked).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "REQUEST_TOO_LARGE"));

    for (content_type, sent) in
        [(None, "{}"), (Some("text/plain"), "{}"), (Some("multipart/form-data"), "{}")]
    {
        let mut request = app.request(Method::POST, "/deploy").body(sent);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let (status, document) = answer(request.send().await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), &document["code"]),
            (415, &json!("CONTENT_TYPE_REQUIRED")),
            "{content_type:?}"
        );
    }
    assert_eq!(app.rows("select count(*) from deployment"), [["0"]]);
    assert_eq!(app.rows("select count(*) from blob_ref"), [["0"]]);
}
