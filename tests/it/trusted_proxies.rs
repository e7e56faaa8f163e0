//! A proxy before this server that is believed: whom it asked for, for whom, and how; and what nobody else may say.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::app::{BASE, TestApp};
use crate::failing::quick;

/// A client, as the proxy saw it, behind another proxy.
const CLIENT: (&str, &str) = ("x-forwarded-for", "6.6.6.6, 198.51.100.7:4711");
const TRUSTED: &[(&str, &str)] = &[
    ("LIBRA__HTTP__TRUSTED_PROXIES", "127.0.0.0/8"),
    ("LIBRA__HTTP__RATES__EXEMPT", "::1/128"),
    ("LIBRA__HTTP__RATES__CLIENT_PER_SECOND", "1"),
    ("LIBRA__HTTP__RATES__CLIENT_BURST", "20"),
    ("LIBRA__LOG__ACCESS__FLUSH_MS", "20"),
];

/// Where it listens, and the heads that it was sent, in lower case.
fn application() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut piece = [0; 4_096];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(read) if read > 0 => head.extend_from_slice(&piece[..read]),
                    _ => break,
                }
            }
            seen.lock().unwrap().push(String::from_utf8_lossy(&head).to_ascii_lowercase());
            // A client that has gone away already needs no answer.
            drop(
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\norigin"),
            );
        }
    });
    (format!("http://{address}"), heads)
}

async fn register(app: &TestApp, project: &str, origin: &str) {
    let body = json!({ "origins": [origin], "policy": { "health": { "intervalMs": 0 } } });
    let path = format!("/api/v1/projects/{project}/upstream");
    let answer = app.request(Method::PUT, &path).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

#[tokio::test]
async fn a_trusted_proxy_says_host_scheme_and_client_and_others_say_nothing() {
    let app = TestApp::start_with(&quick(TRUSTED)).await;
    let (project, worker) = app.project("proxied").await;
    let (origin, heads) = application();
    register(&app, &project, &origin).await;
    let host = format!("{worker}.{BASE}");
    let asked = |http: &reqwest::Client, address: &str| {
        let request = http.get(format!("http://{address}/page?q"));
        request
            .header("host", "inner.example")
            .header("x-forwarded-host", &host)
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-port", "8443")
            .header("x-real-ip", "6.6.6.6")
            .header("via", "1.0 edge")
            .header("x-request-id", "proxied-1")
            .header(CLIENT.0, CLIENT.1)
    };
    let h2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for (http, via) in [(&app.http, "1.1 libra"), (&h2, "2.0 libra")] {
        let mut request = asked(http, &app.server.address);
        if via.starts_with('2') {
            // Over HTTP/2 the address says the host.
            let (client, built) = request.build_split();
            let mut built = built.unwrap();
            built.headers_mut().remove("host");
            request = reqwest::RequestBuilder::from_parts(client, built);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "origin");
        let head = heads.lock().unwrap().pop().unwrap();
        for line in [
            "host: HOST",
            "x-forwarded-host: HOST",
            "x-forwarded-proto: https",
            "x-forwarded-for: 6.6.6.6, 198.51.100.7, 127.0.0.1",
            "via: 1.0 edge",
        ] {
            let line = format!("\r\n{}\r\n", line.replace("HOST", &host));
            assert!(head.contains(&line), "{line:?} in {head}");
        }
        let (before, after) = head.split_once(&format!("\r\nvia: {via}\r\n")).unwrap();
        assert!(before.contains("\r\nvia: 1.0 edge") && !after.contains("\r\nvia:"), "{head}");
        assert!(!head.contains("x-forwarded-port") && !head.contains("x-real-ip"), "{head}");
    }
    let log = app.folder.data().join("access.log");
    let line = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let whole = text[..text.rfind('\n').map_or(0, |end| end + 1)].to_owned();
        let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["requestId"] == "proxied-1")
    };
    app.wait("the access log's line", async || line().is_some()).await;
    let line = line().unwrap();
    assert_eq!((&line["client"], &line["host"]), (&json!("198.51.100.7"), &json!(host)));

    // The very same words from a peer that is not listed.
    let second = app.folder.serve(&quick(&[]));
    let stranger = asked(&app.http, &second.address).send().await.unwrap();
    assert_problem(stranger, 404, "CUSTOM_DOMAIN_NOT_FOUND").await;
    app.wait("the second server passes requests on", async || {
        let request = asked(&app.http, &second.address).header("host", &host);
        let request = request.build().map(|mut request| {
            request.headers_mut().insert("host", host.parse().unwrap());
            request
        });
        app.http.execute(request.unwrap()).await.unwrap().text().await.unwrap() == "origin"
    })
    .await;
    let head = heads.lock().unwrap().pop().unwrap();
    assert!(head.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{head}");
    assert!(head.contains("\r\nx-forwarded-proto: http\r\n") && !head.contains("6.6.6.6"), "{head}");
}

#[tokio::test]
async fn who_asks_too_often_through_a_proxy_is_refused_and_the_proxy_and_others_are_not() {
    let app = TestApp::start_with(&quick(TRUSTED)).await;
    let ask = async |client: Option<&str>| {
        let request = app.request(Method::GET, "/livez");
        let request = client.iter().fold(request, |request, client| request.header(CLIENT.0, *client));
        request.send().await.unwrap()
    };
    let mut refused = None;
    for _ in 0..200 {
        let answer = ask(Some(CLIENT.1)).await;
        if answer.status() == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("200 requests at once are more than 20 and one a second");
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    assert_problem(refused, 429, "RATE_LIMITED").await;
    assert_eq!(ask(Some("6.6.6.6, 198.51.100.8")).await.status(), 200);
    for _ in 0..60 {
        assert_eq!(ask(None).await.status(), 200, "the proxy itself asks for many");
    }
}
