//! `_redirects` and `_headers` of a deployed site, from the deployment to the browser.

use reqwest::StatusCode;
use serde_json::json;

use crate::app::{BASE, TestApp};

const PAGE: &str = "<!doctype html><title>Ruled</title>";
/// The first line would hide from the deployment's probe what it looks for.
const REDIRECTS: &str =
    "/ /welcome 302\n/blog/* https://blog.example/:splat 301\n/* /index.html 200\n/x /y 418\n";
const HEADERS: &str = "/*\n  X-Frame-Options: DENY\n  Content-Length: 1\n";

#[tokio::test]
async fn rules_of_a_site_are_obeyed_and_mistakes_in_them_are_named_in_the_build_log() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("ruled").await;
    let files = [("index.html", PAGE), ("_redirects", REDIRECTS), ("_headers", HEADERS), ("a.txt", "a")];
    let id = app.deploy_live(&app.body(&project, &files)).await;
    let log = app.log_of(&id).await;
    for line in [
        "libra: line 4 of _redirects is left out: the status must be 200, 301, 302, 303, 307, 308 or 404",
        "libra: line 3 of _headers is left out: the header content-length belongs to the platform",
    ] {
        assert!(log.contains(line), "{log}");
    }
    assert_obeyed(&app, &worker).await;
    // The rules are in the version, so a server that only reads it from disk has them too.
    let app = app.restart_after_kill(&[]);
    assert_obeyed(&app, &worker).await;
}

async fn assert_obeyed(app: &TestApp, worker: &str) {
    for (path, status, told) in [
        ("/?a=1", 302, "/welcome?a=1"),
        ("/blog/2026/x?a", 301, "https://blog.example/2026/x?a"),
        ("/users/7", 200, PAGE),
        ("/a.txt", 200, "a"),
        ("/_redirects", 200, PAGE),
    ] {
        let url = format!("http://{}{path}", app.server.address);
        let answer = app.http.get(url).header("host", format!("{worker}.{BASE}")).send().await.unwrap();
        let status_seen = answer.status().as_u16();
        let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
        let frames = answer.headers().get("x-frame-options").map(|value| value.to_str().unwrap().to_owned());
        let text = answer.text().await.unwrap();
        assert_eq!((status_seen, location.as_deref().unwrap_or(&text)), (status, told), "{path}");
        assert_eq!(frames.as_deref(), (status == 200).then_some("DENY"), "{path}");
    }
}

#[tokio::test]
async fn rules_without_a_file_are_the_users_mistake() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("only rules").await;
    let mut body =
        app.body(&project, &[("site/_redirects", "/* https://example.com/:splat"), ("package.json", "{}")]);
    body["build"] = json!({ "outputDirectory": "site", "command": "true" });
    let id = app.deploy(&body).await;
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&json!("failed"), &json!(1)), "{document:#}");
    assert_eq!(document["cause"]["summary"], "The output holds rules only, and no file to serve.");
    assert_eq!(app.worker(&worker, "/").await.status(), StatusCode::NOT_FOUND);
}
