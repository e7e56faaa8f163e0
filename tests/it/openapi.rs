//! The document and its page: complete, true, and asking nobody else.

use std::process::Command;

use reqwest::Method;
use serde_json::Value;

use crate::answers::{assert_problem, is_time, keys};
use crate::app::{TestApp, answer};

#[tokio::test]
async fn the_document_names_every_route_and_every_route_answers() {
    let app = TestApp::start().await;
    let response = app.request(Method::GET, "/openapi.json").send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let (_, document) = answer(response).await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            documented.push(format!("{} {path}", method.to_uppercase()));
            // Whoever asks for an organization that is not there is told what one is told who asks for no route.
            let id = if path.contains("organizations") { app.org.clone() } else { "0".repeat(32) };
            let asked = path.replace("{id}", &id).replace("{worker}", "nobody").replace("{rest}", "a");
            let response = app.request(method.to_uppercase().parse().unwrap(), &asked).send().await.unwrap();
            let (status, body) = answer(response).await;
            let code = body["code"].as_str().unwrap_or_default();
            assert!(!matches!(code, "NOT_FOUND" | "METHOD_NOT_ALLOWED"), "{method} {path}: {body}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key(status.as_str()), "{method} {path} answers {status}");
            for (status, response) in responses {
                assert!(response["headers"]["X-Request-Id"].is_object(), "{method} {path} {status}");
                let is_error = (status.as_str() >= "400" && status != "default")
                    && !path.starts_with("/health")
                    && path != "/readyz";
                let schema = &response["content"]["application/json"]["schema"]["$ref"];
                assert!(!is_error || schema == "#/components/schemas/Error", "{method} {path} {status}");
            }
        }
    }
    documented.sort();
    let (_, service) = app.get("/").await;
    let mut listed: Vec<String> = Vec::new();
    for endpoint in service["endpoints"].as_array().unwrap() {
        let endpoint = endpoint.as_str().unwrap().split('?').next().unwrap();
        match endpoint.strip_prefix("ANY ") {
            Some(path) => {
                let methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
                listed.extend(methods.map(|method| format!("{method} {path}")));
            }
            None => listed.push(endpoint.to_owned()),
        }
    }
    listed.sort();
    // `GET /dispatch` is listed with a Worker and without.
    listed.dedup();
    assert_eq!(documented, listed);
    assert!(document["components"]["securitySchemes"]["bearer"].is_object());
    references(&document, &document);

    let icon = app.request(Method::GET, "/favicon.ico").send().await.unwrap();
    assert_eq!(
        (icon.status().as_u16(), icon.headers()["content-type"].to_str().unwrap()),
        (200, "image/svg+xml")
    );
}

#[tokio::test]
async fn dispatch_without_a_name_shows_the_namespace() {
    let app = TestApp::start().await;
    for path in ["/dispatch", "/dispatch/", "/api/dispatch", "/dispatch?other=1"] {
        let request = app.request(Method::GET, path).header("x-request-id", "named-1");
        let (status, document) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, 200, "{path}: {document}");
        assert_eq!(keys(&document), ["namespace", "requestId", "service", "status", "timestamp"]);
        assert_eq!(
            (&document["service"], &document["namespace"]),
            (&"Libra Dispatcher".into(), &"libra-dispatcher".into())
        );
        assert_eq!((&document["status"], &document["requestId"]), (&"available".into(), &"named-1".into()));
        assert!(is_time(&document["timestamp"]), "{document}");
        let head = app.request(Method::HEAD, path).send().await.unwrap();
        assert_eq!((head.status().as_u16(), head.text().await.unwrap().len()), (200, 0), "{path}");
        let post = app.request(Method::POST, path).send().await.unwrap();
        assert_problem(post, 400, "MISSING_WORKER_NAME").await;
    }
    let named = app.request(Method::GET, "/dispatch?worker=nobody").send().await.unwrap();
    assert_problem(named, 404, "WORKER_NOT_FOUND").await;

    let off = app.folder.serve(&[("LIBRA__DISPATCH__PATH_ROUTING", "false")]);
    let ask = async |path: &str| app.http.get(format!("http://{}{path}", off.address)).send().await.unwrap();
    assert_eq!(ask("/dispatch").await.status(), 200);
    for path in ["/dispatch?worker=nobody", "/dispatch?%77orker=nobody", "/dispatch/nobody"] {
        assert_problem(ask(path).await, 404, "NOT_FOUND").await;
    }
}

/// Every reference in the document leads somewhere.
fn references(document: &Value, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(to) = fields.get("$ref").and_then(Value::as_str) {
                assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to} leads nowhere");
            }
            fields.values().for_each(|v| references(document, v));
        }
        Value::Array(items) => items.iter().for_each(|v| references(document, v)),
        _ => {}
    }
}

/// What the page's own requests were, by Chromium's network log: those that a page initiated.
fn requests_of_pages(log: &Value) -> Vec<String> {
    let kind = &log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"];
    let events = log["events"].as_array().unwrap().iter();
    let started = events.filter(|e| &e["type"] == kind && e["params"]["url"].is_string());
    let by_page =
        started.filter(|e| e["params"]["initiator"].as_str().is_some_and(|i| i.starts_with("http")));
    by_page.map(|e| e["params"]["url"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_documentation_page_renders_and_asks_no_third_party() {
    let app = TestApp::start().await;
    let page = app.request(Method::GET, "/docs").send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let script = policy.split(';').find(|d| d.trim().starts_with("script-src")).unwrap();
    assert!(
        script.contains("'nonce-") && !script.contains("'self'") && !script.contains("unsafe"),
        "{policy}"
    );
    let profile = tempfile::tempdir().unwrap();
    let net_log = profile.path().join("net.json");
    let origin = format!("http://{}", app.server.address);
    // Text that only the rendered document has, and the end of a list that is filled in later.
    let (text, said) = {
        let output = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--enable-logging=stderr",
            ])
            .args(["--window-size=1400,1000", "--virtual-time-budget=30000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .arg(format!("--log-net-log={}", net_log.display()))
            .arg(format!("{origin}/docs"))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    for shown in
        ["Deploy a project", "/api/v1/deployments", "Deploys web projects from source to a live address"]
    {
        assert!(text.contains(shown), "{shown} is not on the page; the browser said: {said}");
    }
    for refused in ["Content Security Policy", "Refused to", "Uncaught"] {
        assert!(!said.contains(refused), "{said}");
    }
    let log: Value = serde_json::from_str(&std::fs::read_to_string(&net_log).unwrap()).unwrap();
    let requests = requests_of_pages(&log);
    assert!(requests.iter().any(|url| url.ends_with("/openapi.json")), "{requests:?}");
    assert!(requests.iter().all(|url| url.starts_with(&origin)), "{requests:?}");
}
