//! What of a refusal depends on where it was asked for, and what is answered when the edge itself fails.

use super::*;
use crate::http::problem;

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml");

async fn refusing_site() -> Site {
    let mut site = ordinary_site().await;
    site.state.refuse = problem::refuse;
    site.state.tables.hosts_are_at(42);
    site
}

#[tokio::test]
async fn browsers_get_a_page_on_workers_hosts_and_json_on_the_platforms_own() {
    let site = refusing_site().await;
    for (host, path, status, media_type) in [
        ("shop.libra.localhost", "/", 404, "text/html; charset=utf-8"),
        ("www.example.com", "/", 404, "text/html; charset=utf-8"),
        ("libra.localhost", "/dispatch/shop/", 404, "application/json"),
        ("libra.localhost", "/dispatch?worker=shop", 404, "application/json"),
        ("127.0.0.1", "/api/dispatch?worker=a&worker=b", 400, "application/json"),
    ] {
        let seen = send(&site, Request::get(path).header("host", host).header(BROWSER.0, BROWSER.1)).await;
        assert_eq!((seen.status, seen.header("content-type")), (status, Some(media_type)), "{host}{path}");
    }
}

#[tokio::test]
async fn every_answer_to_dispatch_on_the_platforms_origin_is_sealed_once() {
    let mut site = refusing_site().await;
    let platform = |method: &str, path: &str| Request::get(path).method(method).header("host", "localhost");
    let sealed = async |site: &Site, request: Builder, status: u16| {
        let seen = send(site, request).await;
        assert_eq!(seen.status, status, "{:?}", seen.lines);
        let policies = seen.lines.iter().filter(|l| *l == "content-security-policy: sandbox allow-scripts");
        assert_eq!(policies.count(), 1, "{:?}", seen.lines);
        assert_eq!(seen.header("x-content-type-options"), Some("nosniff"));
    };
    sealed(&site, platform("GET", "/dispatch?worker=a&worker=b"), 400).await;
    sealed(&site, platform("POST", "/api/dispatch"), 400).await;
    sealed(&site, platform("GET", "/dispatch/a%20b"), 400).await;
    sealed(&site, platform("GET", "/dispatch/shop"), 404).await;
    sealed(&site, platform("GET", "/dispatch/blog").header("service-worker", "script"), 403).await;
    // What is not dispatched, is not.
    for path in ["/dispatch", "/dispatch/", "/dispatcher", "/health"] {
        assert!(matches!(asked(&site, platform("GET", path), false).await, Outcome::Platform(..)), "{path}");
    }
    site.state.limits.path_routing = false;
    for (method, path) in
        [("GET", "/dispatch/blog/"), ("POST", "/dispatch"), ("GET", "/dispatch?worker=blog")]
    {
        assert!(matches!(asked(&site, platform(method, path), false).await, Outcome::Platform(..)), "{path}");
    }
}

/// Fails where a Worker is not found.
fn fragile(id: &RequestId, page: bool, refusal: EdgeRefusal) -> Response<Bytes> {
    assert_ne!(refusal, EdgeRefusal::WorkerNotFound, "a test breaks the edge");
    problem::refuse(id, page, refusal)
}

#[tokio::test]
async fn a_panic_in_the_edge_is_answered_and_ends_the_connection_alone() {
    let mut site = ordinary_site().await;
    site.state.refuse = fragile;
    let request = "GET / HTTP/1.1\r\nHost: shop.libra.localhost\r\nX-Request-Id: r1\r\n\r\n";
    let answer = raw(&site, request.repeat(2)).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    for part in [
        "connection: close\r\n",
        "x-request-id: r1\r\n",
        "\"code\":\"DISPATCH_FAILED\"",
        "\"requestId\":\"r1\"",
    ] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert!(!answer.contains("a test breaks"), "{answer}");
    let sealed = send(&site, Request::get("/dispatch/shop").header("host", "localhost")).await;
    assert_eq!((sealed.status, sealed.header("cross-origin-resource-policy")), (500, Some("same-origin")));
    assert_eq!(send(&site, get("/")).await.status, 200);
}
