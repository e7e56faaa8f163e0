//! What a client sees of a static site, asked directly and, where the wire matters, through a real front door.

mod conditions;
mod refusals;
mod rules;
mod splits;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::request::Builder;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::routing::{WorkerRoute, probe};
use crate::runtime::test_site;

const HOST: &str = "blog.libra.localhost";
const ID: &str = "0123456789abcdef0123456789abcdef";
const PAGE: &str = "<h1>It works</h1>";

struct Site {
    _folder: tempfile::TempDir,
    state: EdgeState,
}

fn refuse(id: &RequestId, _: bool, refusal: EdgeRefusal) -> Response<Bytes> {
    let status = match refusal {
        EdgeRefusal::InvalidHost | EdgeRefusal::InvalidWorkerName { .. } | EdgeRefusal::Malformed(_) => 400,
        EdgeRefusal::MethodNotAllowed | EdgeRefusal::MethodRefused => 405,
        EdgeRefusal::Saturated => 503,
        _ => 404,
    };
    let mut response = Response::new(format!("{refusal} [{}]", id.as_str()).into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn site(files: &[(&str, &[u8])]) -> Site {
    let folder = tempfile::tempdir().unwrap();
    let live = test_site::install(folder.path(), ID, "blog", files).await;
    let tables = Tables::new();
    tables.publish_worker(WorkerRoute {
        worker: "blog".into(),
        org_id: "o".into(),
        project_id: "p".into(),
        live: Live::Site(live.clone()),
        epoch: 42,
    });
    tables.publish_preview("0123456789ab--blog", live);
    tables.workers_are_at(42);
    let settings = crate::runtime::Settings { cache_object_bytes: 100_000, ..test_site::settings() };
    let state = EdgeState {
        tables: Arc::new(tables),
        rules: Arc::new(HostRules::new("libra.localhost", &[], &[]).unwrap()),
        cache: Arc::new(BodyCache::new(&settings)),
        probe_key: ProbeKey::new(b"key"),
        trusted_proxies: Arc::new(TrustedProxies::default()),
        limits: Limits { body_bytes: 1 << 20, path_routing: true, socket_jitter: Duration::ZERO },
        rates: Arc::new(crate::http::edge::Rates::new(crate::http::edge::rates::RateSettings::default())),
        secure: Arc::default(),
        loop_mark: http::HeaderValue::from_static("libra; id=test"),
        stopping: tokio_util::sync::CancellationToken::new(),
        refuse,
    };
    Site { _folder: folder, state }
}

async fn ordinary_site() -> Site {
    let script = "export const answer = 42;\n".repeat(100);
    let big: Vec<u8> = (0..300_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    site(&[
        ("index.html", PAGE.as_bytes()),
        ("docs/index.html", b"docs"),
        ("about.html", b"about"),
        ("404.html", b"nothing here"),
        ("assets/index-DiwrgTda.js", script.as_bytes()),
        ("digits.txt", b"0123456789"),
        ("big.bin", &big),
    ])
    .await
}

/// Status, headers as sorted lines, body.
struct Seen {
    status: u16,
    lines: Vec<String>,
    body: Vec<u8>,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

async fn asked(site: &Site, request: Builder, is_saturated: bool) -> Outcome {
    let request = request.body(RequestBody::empty()).unwrap();
    let connection = Connection { peer: None, is_tls: false, takes_files: false };
    serve(request, connection, None, &site.state, is_saturated, &mut Facts::default()).await
}

async fn send(site: &Site, request: Builder) -> Seen {
    let Outcome::Answered(response) = asked(site, request, false).await else {
        panic!("the control surface is asked")
    };
    let status = response.status().as_u16();
    let mut lines: Vec<String> = response
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    Seen { status, lines, body }
}

fn get(path: &str) -> Builder {
    Request::get(path).header("host", HOST).header("x-request-id", "r1")
}

#[tokio::test]
async fn a_page_and_a_hashed_asset_carry_the_right_headers() {
    let site = ordinary_site().await;
    let page = send(&site, get("/")).await;
    insta::assert_snapshot!(page.lines.join("\n"), @r#"
    accept-ranges: bytes
    cache-control: public, max-age=0, must-revalidate
    content-type: text/html; charset=utf-8
    etag: "10e7fadd614aeb3bf53086c22ba65b708f67e27426acd40bcf11e0983dba71a7"
    last-modified: Sun, 06 Nov 1994 08:49:37 GMT
    x-content-type-options: nosniff
    x-request-id: r1
    "#);
    assert_eq!(page.body, PAGE.as_bytes());
    let asset = send(&site, get("/assets/index-DiwrgTda.js").header("accept-encoding", "gzip, br")).await;
    insta::assert_snapshot!(asset.lines.join("\n"), @r#"
    cache-control: public, max-age=31536000, immutable
    content-encoding: br
    content-type: text/javascript; charset=utf-8
    etag: "f5d1203a74fc867879d2b53b67626a902df56600aac0e7a3f144028733041003-br"
    last-modified: Sun, 06 Nov 1994 08:49:37 GMT
    vary: accept-encoding
    x-content-type-options: nosniff
    x-request-id: r1
    "#);
}

#[tokio::test]
async fn each_encoding_has_its_own_tag_and_gives_the_file_back() {
    use crate::runtime::{Encoding, compress::decompress};
    let site = ordinary_site().await;
    let script = "export const answer = 42;\n".repeat(100);
    let mut tags = std::collections::HashSet::new();
    for encoding in Encoding::ALL {
        let req = get("/assets/index-DiwrgTda.js").header("accept-encoding", encoding.name());
        let seen = send(&site, req).await;
        let sent = seen.header("content-encoding").unwrap_or("identity");
        assert_eq!((seen.status, sent), (200, encoding.name()));
        assert_eq!(decompress(&seen.body, encoding, script.len()).unwrap(), script.as_bytes());
        assert_eq!(seen.header("vary"), Some("accept-encoding"));
        let tag = seen.header("etag").unwrap().to_owned();
        let again = get("/assets/index-DiwrgTda.js")
            .header("accept-encoding", encoding.name())
            .header("if-none-match", format!("W/\"x\", {tag}"));
        let again = send(&site, again).await;
        assert_eq!((again.status, again.body.len()), (304, 0));
        assert_eq!(again.header("etag"), Some(&*tag));
        tags.insert(tag);
    }
    assert_eq!(tags.len(), 4);
}

#[tokio::test]
async fn time_is_a_condition_only_without_a_tag() {
    let site = ordinary_site().await;
    let created = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(send(&site, get("/").header("if-modified-since", created)).await.status, 304);
    let both = get("/").header("if-modified-since", created).header("if-none-match", "\"x\"");
    assert_eq!(send(&site, both).await.status, 200);
}

#[tokio::test]
async fn ranges_come_from_memory_and_from_disk() {
    let site = ordinary_site().await;
    let part = send(&site, get("/digits.txt").header("range", "bytes=2-4")).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    let whole = send(&site, get("/big.bin")).await;
    assert_eq!((whole.status, whole.body.len()), (200, 300_000));
    let part = send(&site, get("/big.bin").header("range", "bytes=-70000")).await;
    assert_eq!((part.status, &part.body[..]), (206, &whole.body[230_000..]));
    assert_eq!(part.header("content-range"), Some("bytes 230000-299999/300000"));
    let behind = send(&site, get("/digits.txt").header("range", "bytes=10-")).await;
    assert_eq!((behind.status, behind.header("content-range")), (416, Some("bytes */10")));
    for whole in ["bytes=0-1,3-4", "bytes=x", "bytes=4-2"] {
        let seen = send(&site, get("/digits.txt").header("range", whole)).await;
        assert_eq!((seen.status, seen.body.len()), (200, 10), "{whole}");
    }
    let tag = send(&site, get("/digits.txt")).await.header("etag").unwrap().to_owned();
    for (if_range, status) in [(tag.as_str(), 206), ("\"other\"", 200), (&format!("W/{tag}"), 200)] {
        let req = get("/digits.txt").header("range", "bytes=0-1").header("if-range", if_range);
        assert_eq!(send(&site, req).await.status, status, "{if_range}");
    }
}

#[tokio::test]
async fn paths_find_pages_redirects_and_the_sites_own_404() {
    let site = ordinary_site().await;
    for (path, status, told) in [
        ("/about", 200, "about"),
        ("/docs/", 200, "docs"),
        ("/docs?a=1&b", 307, "./docs/?a=1&b"),
        ("/about/?q", 307, "../about?q"),
        ("/nothing", 404, "nothing here"),
        ("/..%2f..%2fetc/passwd", 404, "nothing here"),
        ("/%00", 404, "nothing here"),
        ("/%ff", 404, "nothing here"),
        ("//docs", 404, "nothing here"),
    ] {
        let seen = send(&site, get(path)).await;
        let body = String::from_utf8(seen.body.clone()).unwrap();
        assert_eq!((seen.status, seen.header("location").unwrap_or(&body)), (status, told), "{path}");
        assert_eq!(seen.header("x-request-id"), Some("r1"));
    }
    let missing = send(&site, get("/nothing")).await;
    assert_eq!(
        (missing.header("etag"), missing.header("cache-control")),
        (None, Some("public, max-age=0, must-revalidate"))
    );
}

#[tokio::test]
async fn a_single_page_site_answers_navigations_with_its_page() {
    let site = site(&[("index.html", PAGE.as_bytes())]).await;
    let browser = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    assert_eq!(send(&site, get("/users/7").header(browser.0, browser.1)).await.status, 200);
    assert_eq!(send(&site, get("/users/7")).await.status, 404);
    assert_eq!(send(&site, get("/gone.js").header(browser.0, browser.1)).await.status, 404);
}

#[tokio::test]
async fn other_methods_hosts_and_sizes_are_refused() {
    let site = ordinary_site().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
        let seen = send(&site, get("/").method(method)).await;
        assert_eq!(seen.status, 405, "{method}");
        let is_refused_everywhere = method == "TRACE";
        assert_eq!(seen.header("allow"), (!is_refused_everywhere).then_some("GET, HEAD"), "{method}");
        assert!(
            String::from_utf8(seen.body).unwrap().ends_with("[r1]"),
            "one request id for page and header"
        );
    }
    for (host, status) in [
        ("shop.libra.localhost", 404),
        ("a.b.libra.localhost", 400),
        ("0123456789ab--blog.libra.localhost", 200),
        ("0123456789ac--blog.libra.localhost", 404),
        ("user@blog", 400),
    ] {
        let seen = send(&site, Request::get("/").header("host", host)).await;
        assert_eq!(seen.status, status, "{host}");
        assert_eq!(seen.header("x-request-id").map(str::len), Some(32));
        assert_eq!(seen.header("x-content-type-options"), Some("nosniff"));
    }
    let busy = asked(&site, get("/"), true).await;
    assert!(matches!(busy, Outcome::Answered(response) if response.status() == 503));
}

#[tokio::test]
async fn only_a_signed_probe_learns_version_digest_and_epoch() {
    let site = ordinary_site().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = |path: &str| probe::sign(&site.state.probe_key, now, "n1", HOST, path);
    let seen = send(&site, get("/?q=1").header(probe::HEADER, signed("/"))).await;
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(PAGE));
    assert_eq!(seen.header("x-libra-version"), Some(ID));
    assert_eq!(seen.header("x-libra-digest"), Some(&*digest));
    assert_eq!(seen.header("x-libra-epoch"), Some("42"));
    let tag = seen.header("etag").unwrap().to_owned();
    let req = get("/").header(probe::HEADER, signed("/")).header("if-none-match", tag);
    let unchanged = send(&site, req).await;
    assert_eq!((unchanged.status, unchanged.header("x-libra-digest")), (304, Some(&*digest)));
    let missing = send(&site, get("/nothing").header(probe::HEADER, signed("/nothing"))).await;
    assert_eq!((missing.status, missing.header("x-libra-version")), (404, Some(ID)));
    let req = get("/").header(probe::HEADER, signed("/other")).header("x-libra-version", "x");
    let unsigned = send(&site, req).await;
    assert!(!unsigned.lines.iter().any(|line| line.starts_with("x-libra")), "{:?}", unsigned.lines);
}

#[tokio::test]
async fn the_control_surface_is_asked_on_platform_hosts_only() {
    let site = ordinary_site().await;
    for host in ["libra.localhost:3008", "127.0.0.1", "LOCALHOST."] {
        let outcome = asked(&site, Request::get("/health").header("host", host), true).await;
        assert!(matches!(outcome, Outcome::Platform(..)), "{host}");
    }
    for (host, status, body) in [
        (HOST, 404, "nothing here"),
        ("user@libra.localhost", 400, "the Host of the request is missing, doubled or no host name [r1]"),
    ] {
        let seen =
            send(&site, Request::get("/health").header("host", host).header("x-request-id", "r1")).await;
        assert_eq!((seen.status, &*String::from_utf8(seen.body).unwrap()), (status, body), "{host}");
    }
}

#[tokio::test]
async fn a_path_and_a_query_of_the_platform_lead_to_a_sealed_worker() {
    let site = ordinary_site().await;
    let platform = |path: &str| Request::get(path).header("host", "libra.localhost");
    for path in ["/dispatch/blog/about", "/api/dispatch/Blog/about"] {
        let seen = send(&site, platform(path)).await;
        assert_eq!((seen.status, &seen.body[..]), (200, &b"about"[..]), "{path}");
        assert_eq!(seen.header("content-security-policy"), Some("sandbox allow-scripts"));
        assert_eq!(seen.header("cross-origin-resource-policy"), Some("same-origin"));
    }
    let seen = send(&site, platform("/dispatch?worker=blog")).await;
    assert_eq!((seen.status, &seen.body[..]), (200, PAGE.as_bytes()));
    let away = send(&site, platform("/dispatch/blog/docs?a=1")).await;
    assert_eq!((away.status, away.header("location")), (307, Some("./docs/?a=1")));
    assert_eq!(send(&site, platform("/dispatch/shop")).await.status, 404);
    let script = send(&site, platform("/dispatch/blog/about").header("service-worker", "script")).await;
    assert_ne!(script.status, 200);
    let off = Limits { path_routing: false, ..site.state.limits };
    let state = EdgeState { limits: off, ..site.state.clone() };
    let switched_off = Site { state, _folder: tempfile::tempdir().unwrap() };
    let outcome = asked(&switched_off, platform("/dispatch/blog/about"), false).await;
    assert!(matches!(outcome, Outcome::Platform(..)));
}

/// Sends bytes through a real front door and reads until it closes the connection.
async fn raw(site: &Site, request: String) -> String {
    use crate::http::door::{Door, DoorSettings, Listener};
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listeners = vec![Listener { socket, tls: None }];
    let no_routes = Arc::new(|_: &mut actix_web::web::ServiceConfig| {});
    let state = EdgeState { stopping: CancellationToken::new(), ..site.state.clone() };
    let observer = crate::http::seen::Observer::new(1, None);
    let door = Door::open(DoorSettings::small(), listeners, state, no_routes, &observer).unwrap();
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, reading).await.expect("the server keeps the connection open").unwrap();
    door.close(limit).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn head_has_the_length_of_get_and_no_body() {
    let site = ordinary_site().await;
    let line = |method: &str, path: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")
    };
    for (path, length) in [("/", "17"), ("/big.bin", "300000"), ("/nothing", "12")] {
        let answer = raw(&site, line("HEAD", path)).await;
        assert!(answer.contains(&format!("content-length: {length}\r\n")), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }
    assert!(raw(&site, line("GET", "/docs/")).await.ends_with("\r\n\r\ndocs"));
}

#[tokio::test]
async fn a_body_sent_to_a_site_closes_the_connection_instead_of_becoming_a_request() {
    let site = ordinary_site().await;
    let inner = format!("GET /docs/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let length = inner.len();
    let sized = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n{inner}");
    let chunked = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let whole = format!("{chunked}{length:x}\r\n{inner}\r\n0\r\n\r\n");
    let endless = format!("{chunked}{length:x}\r\n{inner}\r\n");
    for (request, status) in [(sized, "405"), (whole, "200"), (endless, "200")] {
        let answer = raw(&site, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
}
