//! What operators see: the access log, the numbers, and why an address leads where it leads.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::answers::assert_problem;
use crate::app::{BASE, TestApp, answer};
use crate::tenants::Member;
use crate::wire::ask as ask_bytes;

/// The lines so far whose request has this id.
fn line(app: &TestApp, id: &str) -> Option<Value> {
    let text = std::fs::read_to_string(app.folder.data().join("access.log")).unwrap_or_default();
    // The last one may be on its way.
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.find(|line| line["requestId"] == id)
}

async fn logged(app: &TestApp, id: &str) -> Value {
    app.wait(id, async || line(app, id).is_some()).await;
    line(app, id).unwrap()
}

async fn ask(app: &TestApp, host: &str, path: &str, id: &str) -> u16 {
    let url = format!("http://{}{path}", app.server.address);
    let request = app.http.get(url).header("host", host).header("x-request-id", id);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    response.bytes().await.unwrap();
    status
}

#[tokio::test]
async fn each_request_leaves_one_line_and_is_counted() {
    let app = TestApp::start_with(&[("LIBRA__LOG__ACCESS__FLUSH_MS", "20")]).await;
    let (project, worker) = app.project("seen").await;
    let big: Vec<u8> =
        (0..60_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).take(7_000_000).collect();
    let mut body = app.body(&project, &[("index.html", "hello"), ("a/index.html", "deeper")]);
    body["initFiles"].as_array_mut().unwrap().push(json!({
        "path": "big.bin", "encoding": "base64",
        "content": base64::engine::general_purpose::STANDARD.encode(&big),
    }));
    let version = app.deploy_live(&body).await;
    let host = format!("{worker}.{BASE}");

    assert_eq!(ask(&app, &host, "/?token=secret", "static-1").await, 200);
    let seen = logged(&app, "static-1").await;
    for (key, value) in [
        ("client", json!("127.0.0.1")),
        ("protocol", json!("HTTP/1.1")),
        ("tls", json!(false)),
        ("method", json!("GET")),
        ("host", json!(host)),
        ("path", json!("/")),
        ("status", json!(200)),
        ("bytes", json!(5)),
        ("strategy", json!("subdomain")),
        ("worker", json!(worker)),
        ("version", json!(version)),
        ("aborted", json!(false)),
    ] {
        assert_eq!(seen[key], value, "{key}: {seen}");
    }
    assert!(seen["routeEpoch"].as_u64() > Some(0) && seen["durationUs"].is_u64(), "{seen}");
    let text = std::fs::read_to_string(app.folder.data().join("access.log")).unwrap();
    assert!(!text.contains("secret"));

    assert_eq!(ask(&app, &format!("nobody.{BASE}"), "/x", "refused-1").await, 404);
    let seen = logged(&app, "refused-1").await;
    assert_eq!((&seen["refusal"], &seen["strategy"]), (&json!("WORKER_NOT_FOUND"), &json!("subdomain")));
    assert!(seen["worker"].is_null() && seen["bytes"].as_u64() > Some(0), "{seen}");

    assert_eq!(ask(&app, BASE, &format!("/dispatch/{worker}/a/"), "path-1").await, 200);
    let seen = logged(&app, "path-1").await;
    assert_eq!((&seen["strategy"], &seen["worker"]), (&json!("path"), &json!(worker)));
    assert_eq!((&seen["bytes"], &seen["path"]), (&json!(6), &json!(format!("/dispatch/{worker}/a/"))));

    assert_eq!(ask(&app, BASE, "/livez", "platform-1").await, 200);
    assert_eq!(logged(&app, "platform-1").await["strategy"], "platform");

    // A download that its client gives up.
    let mut socket = tokio::net::TcpStream::connect(&app.server.address).await.unwrap();
    let asked = format!("GET /big.bin HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: aborted-1\r\n\r\n");
    socket.write_all(asked.as_bytes()).await.unwrap();
    let mut piece = [0; 1000];
    socket.read_exact(&mut piece).await.unwrap();
    drop(socket);
    let seen = logged(&app, "aborted-1").await;
    assert_eq!((&seen["aborted"], &seen["status"]), (&json!(true), &json!(200)), "{seen}");
    assert!(seen["bytes"].as_u64().unwrap() < big.len() as u64, "{seen}");

    numbers(&app).await;
    let numbered = |line: &str| line.starts_with("libra_access_log_dropped_lines_total 0");
    assert!(metrics(&app).await.lines().any(numbered));
    // What was not flushed yet is written at the stop.
    assert_eq!(ask(&app, &host, "/", "last-1").await, 200);
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    let text = std::fs::read_to_string(folder.data().join("access.log")).unwrap();
    assert!(text.contains("\"last-1\"") && text.ends_with('\n'), "{text}");
}

/// What was no request, so that nobody could give it an id.
#[tokio::test]
async fn what_is_answered_before_there_is_a_request_is_seen_too() {
    let app = TestApp::start_with(&[
        ("LIBRA__LOG__ACCESS__FLUSH_MS", "20"),
        ("LIBRA__HTTP__HEADER_TIMEOUT_MS", "700"),
        ("LIBRA__HTTP__WORKERS", "1"),
        ("LIBRA__HTTP__MAX_CONNECTIONS", "20"),
    ])
    .await;
    let many: String = (0..200).map(|n| format!("X-{n}: a\r\n")).collect();
    for (bytes, status, code) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nX\0A: b\r\n\r\n".to_owned(), 400, "INVALID_REQUEST"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431, "REQUEST_TOO_LARGE"),
        ("GET / HTTP/1.1\r\nHost: a\r\n".to_owned(), 408, "INVALID_REQUEST"),
    ] {
        assert_eq!(ask_bytes(&app.server.address, bytes.as_bytes()).await.status, status);
        let seen = bare(&app, status).await;
        for (key, value) in [("client", "127.0.0.1"), ("refusal", code), ("path", ""), ("requestId", "")] {
            assert_eq!(seen[key], value, "{key}: {seen}");
        }
    }
    assert!(metrics(&app).await.contains("libra_bad_requests_total{reason=\"field\"} 1"));
    // hyper refuses these too; which of us looked shows here only.
    let folded = b"GET / HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n";
    assert_eq!(ask_bytes(&app.server.address, folded).await.status, 400);
    // Counted at the end of the connection, which may come after its answer.
    let counted = "libra_bad_requests_total{reason=\"folding\"} 1";
    app.wait("it is counted", async || metrics(&app).await.contains(counted)).await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(tokio::net::TcpStream::connect(&app.server.address).await.unwrap());
    }
    assert_eq!(bare(&app, 503).await["refusal"], "OVERLOADED");
    drop(held);
    let counted = "libra_requests_total{kind=\"refused\",status=\"5xx\"} ";
    let text = metrics(&app).await;
    let turned_away = text.lines().find_map(|line| line.strip_prefix(counted)).unwrap();
    assert!(turned_away.parse::<u64>().unwrap() >= 20, "{turned_away}");
}

/// The line of this status without an id.
async fn bare(app: &TestApp, status: u16) -> Value {
    let found = || {
        let text = std::fs::read_to_string(app.folder.data().join("access.log")).unwrap_or_default();
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.find(|line| line["requestId"] == "" && line["status"] == status)
    };
    app.wait(&format!("a line of status {status}"), async || found().is_some()).await;
    found().unwrap()
}

async fn metrics(app: &TestApp) -> String {
    let response = app.http.get(format!("http://{}/metrics", app.server.operator)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    response.text().await.unwrap()
}

async fn numbers(app: &TestApp) {
    let text = metrics(app).await;
    let mut found = std::collections::HashMap::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let bare = name.split('{').next().unwrap();
        assert!(bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
        assert!(!name.contains('{') || name.ends_with("\"}"), "{line}");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(found.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    for (name, least) in [
        ("libra_requests_total{kind=\"site\",status=\"2xx\"}", 3.0),
        ("libra_requests_total{kind=\"refused\",status=\"4xx\"}", 1.0),
        ("libra_requests_total{kind=\"platform\",status=\"2xx\"}", 1.0),
        ("libra_refusals_total{code=\"WORKER_NOT_FOUND\"}", 1.0),
        ("libra_sent_bytes_total{kind=\"site\"}", 11.0),
        ("libra_request_duration_seconds_count{kind=\"site\"}", 3.0),
        ("libra_routes{table=\"workers\"}", 1.0),
        ("libra_route_epoch", 1.0),
        ("process_start_time_seconds", 1e9),
    ] {
        assert!(found.get(name).is_some_and(|value| *value >= least), "{name}\n{text}");
    }
    assert!(found.len() < 500, "{}", found.len());
    let front = app.request(Method::GET, "/metrics").send().await.unwrap();
    assert_problem(front, 404, "NOT_FOUND").await;
}

/// Answers one request after another, on one connection after another.
async fn origin() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut piece = [0; 4096];
            drop(socket.read(&mut piece).await);
            let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfar!";
            drop(socket.write_all(answer.as_bytes()).await);
        }
    });
    port
}

#[tokio::test]
async fn a_forwarded_request_says_which_origin_answered() {
    let settings = [("LIBRA__LOG__ACCESS__FLUSH_MS", "20"), ("LIBRA__UPSTREAM__HEALTH_INTERVAL_MS", "0")];
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("far").await;
    let (good, closed) = (format!("http://127.0.0.1:{}", origin().await), "http://127.0.0.1:1");
    let register = async |origin: &str| {
        let path = format!("/api/v1/projects/{project}/upstream");
        let request = app.request(Method::PUT, &path).json(&json!({ "origins": [origin] }));
        let (status, answer) = answer(request.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &answer["visible"]), (200, &json!(true)), "{answer}");
    };
    register(&good).await;
    let host = format!("{worker}.{BASE}");
    assert_eq!(ask(&app, &host, "/", "far-1").await, 200);
    let seen = logged(&app, "far-1").await;
    assert_eq!((&seen["origin"], &seen["bytes"]), (&json!(good), &json!(4)), "{seen}");
    assert!(seen["upstreamUs"].as_u64() > Some(0) && seen["aborted"] == false, "{seen}");
    let (_, told) = app.get(&format!("/api/v1/routes/explain?url={host}")).await;
    assert!(told["steps"].to_string().contains(&format!("{good} is well")), "{told}");

    register(closed).await;
    assert_eq!(ask(&app, &host, "/", "far-2").await, 502);
    let seen = logged(&app, "far-2").await;
    assert_eq!(
        (&seen["origin"], &seen["refusal"]),
        (&json!(closed), &json!("WORKER_FETCH_FAILED")),
        "{seen}"
    );
    let text = metrics(&app).await;
    for line in [
        "libra_upstream_failures_total{kind=\"unreachable\"} 1",
        "libra_requests_total{kind=\"upstream\",status=\"2xx\"} 1",
        "libra_upstream_connections_total{how=\"opened\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn an_address_is_explained_by_every_strategy() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("told").await;
    let files = [("index.html", "hello"), ("_redirects", "/old /new 301"), ("_headers", "/*\n  X-Mine: 1")];
    let version = app.deploy_live(&app.body(&project, &files)).await;
    let explain = async |url: &str| {
        let (status, told) = app.get(&format!("/api/v1/routes/explain?url={url}")).await;
        assert_eq!(status, 200, "{told}");
        told
    };
    let told = explain(&format!("http://{worker}.{BASE}/old")).await;
    assert_eq!((&told["winner"], &told["strategy"]), (&json!("worker"), &json!("subdomain")));
    assert_eq!((&told["worker"], &told["versionId"]), (&json!(worker), &json!(version)));
    let steps = told["steps"].to_string();
    for part in ["base_label", "worker_table", "301 to /new", "x-mine"] {
        assert!(steps.contains(part), "{part}: {steps}");
    }
    for (url, winner, strategy, refusal) in [
        (format!("{BASE}/dispatch/{worker}/"), "worker", "path", None),
        (format!("{BASE}/dispatch?worker={worker}"), "worker", "query", None),
        (format!("{BASE}/api/v1/projects"), "platform", "platform", None),
        (format!("{}--{worker}.{BASE}", &version[..12]), "preview", "subdomain", None),
        (format!("api.{BASE}"), "refused", "subdomain", Some("RESERVED_SUBDOMAIN")),
        ("shop.example.com".to_owned(), "refused", "custom_domain", Some("CUSTOM_DOMAIN_NOT_FOUND")),
        ("a_b.example.com".to_owned(), "refused", "none", Some("INVALID_REQUEST")),
    ] {
        let told = explain(&url).await;
        assert_eq!((&told["winner"], &told["strategy"]), (&json!(winner), &json!(strategy)), "{told}");
        assert_eq!(told["refusal"].as_str(), refusal, "{told}");
    }
    let none = app.request(Method::GET, "/api/v1/routes/explain").send().await.unwrap();
    assert_problem(none, 400, "VALIDATION_ERROR").await;
    let anybody = app.http.get(format!("http://{}/api/v1/routes/explain?url=x", app.server.address));
    assert_problem(anybody.send().await.unwrap(), 401, "UNAUTHORIZED").await;

    let stranger = Member::of_new_organization(&app, "strangers");
    let asked = format!("/api/v1/routes/explain?url={worker}.{BASE}/old");
    let (status, told) = answer(stranger.request(&app, Method::GET, &asked).send().await.unwrap()).await;
    assert_eq!(status, 200, "{told}");
    assert!(told["worker"].is_null() && told["versionId"].is_null(), "{told}");
    assert!(told["steps"].to_string().contains("belongs to another organization"), "{told}");
    assert!(!told.to_string().contains(&version) && !told.to_string().contains("/new"), "{told}");

    let run = app.cli(&["route", "explain", &format!("{worker}.{BASE}/")]);
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success() && said.contains(&format!("winner: worker (subdomain)  {worker}")),
        "{said}"
    );
}
