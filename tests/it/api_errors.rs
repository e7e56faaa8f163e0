//! Bad input: a clear answer by field, all problems at once, and nothing recorded.

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::{assert_problem, details};
use crate::app::TestApp;

async fn refused(app: &TestApp, body: &Value) -> Vec<(String, String)> {
    let response = app.request(Method::POST, "/deploy").json(body).send().await.unwrap();
    details(&assert_problem(response, 400, "VALIDATION_ERROR").await)
}

fn fields(problems: &[(String, String)]) -> Vec<&str> {
    problems.iter().map(|(field, _)| field.as_str()).collect()
}

#[tokio::test]
async fn bad_bodies_are_told_whole_by_field_and_record_nothing() {
    let app = TestApp::start().await;
    let (project, _) = app.project("target").await;
    for text in ["", "{", "{\"a\":}", "nonsense", "{\"a\":1}}", "[1,", "\u{feff}{}", "\"\\ud800\""] {
        let request = app.request(Method::POST, "/deploy").header("content-type", "application/json");
        assert_problem(request.body(text).send().await.unwrap(), 400, "INVALID_REQUEST").await;
    }
    let deep = "[".repeat(100_000);
    let request = app.request(Method::POST, "/deploy").header("content-type", "application/json").body(deep);
    assert_problem(request.send().await.unwrap(), 400, "INVALID_REQUEST").await;
    let latin = app.request(Method::POST, "/deploy").header("content-type", "application/json");
    assert_problem(latin.body(b"{\"a\":\"\xff\"}".to_vec()).send().await.unwrap(), 400, "INVALID_REQUEST")
        .await;

    for body in [json!([]), json!("x"), json!(1), Value::Null] {
        assert_eq!(fields(&refused(&app, &body).await), ["body"], "{body}");
    }
    assert_eq!(fields(&refused(&app, &json!({})).await), ["projectId", "orgId", "userId"]);
    let wrong = json!({
        "projectId": 1, "orgId": "A".repeat(32), "userId": null,
        "customDomain": "localhost", "initFiles": {}, "historyMessages": "x", "target": "staging", "branch": [],
        "commit": "c".repeat(256), "message": "nul\u{0}", "env": { "1A": "x", "B": 2, "C": "\u{0}" },
        "supersede": "yes", "build": { "command": 1, "outputDirectory": "../out", "rootDirectory": "/etc", "other": 1 },
        "unknown": true,
    });
    let problems = refused(&app, &wrong).await;
    let expected = [
        "projectId",
        "orgId",
        "userId",
        "customDomain",
        "initFiles",
        "historyMessages",
        "target",
        "branch",
        "commit",
        "message",
        "env",
        "env.B",
        "env.C",
        "supersede",
        "build.command",
        "build.outputDirectory",
        "build.rootDirectory",
        "build.other",
        "unknown",
    ];
    assert_eq!(fields(&problems), expected);
    assert!(problems.iter().all(|(_, message)| message.len() > 5), "{problems:?}");

    bad_paths(&app, &project).await;
    too_much(&app, &project).await;

    // Those were refused by what the body shows; nothing of them is anywhere.
    for table in ["deployment", "blob_ref", "quota_entry", "idempotency_key", "custom_domain"] {
        assert_eq!(app.rows(&format!("select count(*) from {table}")), [["0"]], "{table}");
    }
}

async fn bad_paths(app: &TestApp, project: &str) {
    let bad = [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a\0b",
        "C:\\x",
        "C:/x",
        "c:x",
        "a\\b",
        "a/./b",
        "./a",
        "a//b",
        "a/",
        "",
        ".",
        "..",
        "a\nb",
        "a\u{7f}b",
    ];
    let long = "a".repeat(256);
    let deep = "a/".repeat(600) + "a";
    let all: Vec<&str> = bad.into_iter().chain([long.as_str(), deep.as_str()]).collect();
    let files: Vec<(&str, &str)> = all.iter().map(|path| (*path, "x")).collect();
    let problems = refused(app, &app.body(project, &files)).await;
    let expected: Vec<String> = (0..all.len()).map(|i| format!("initFiles[{i}].path")).collect();
    assert_eq!(fields(&problems), expected, "{problems:?}");

    // The same paths in history, in a file list, and one by one.
    let diff: Vec<Value> =
        all.iter().map(|p| json!({ "type": "edit", "path": p, "modified": "x" })).collect();
    let mut body = app.body(project, &[("ok.html", "x")]);
    let content = json!({ "type": "diff", "diff": diff }).to_string();
    body["historyMessages"] = json!([{ "role": "assistant", "content": content }]);
    let problems = refused(app, &body).await;
    let expected: Vec<String> =
        (0..all.len()).map(|i| format!("historyMessages[0].content.diff[{i}].path")).collect();
    assert_eq!(fields(&problems), expected, "{problems:?}");
    let put = app.request(Method::PUT, &format!("/api/v1/projects/{project}/files"));
    let files = json!({ "files": [{ "path": "../x", "content": "x" }] });
    let document = assert_problem(put.json(&files).send().await.unwrap(), 400, "VALIDATION_ERROR").await;
    assert_eq!(fields(&details(&document)), ["files[0].path"]);

    // Twins, each told at its own place.
    let twins = ["README.md", "readme.MD", "caf\u{e9}", "cafe\u{301}", "stra\u{df}e", "STRASSE", "a/b", "A"];
    let files: Vec<(&str, &str)> = twins.iter().map(|path| (*path, "x")).collect();
    let problems = refused(app, &app.body(project, &files)).await;
    let places = ["initFiles[1].path", "initFiles[3].path", "initFiles[5].path", "initFiles[6].path"];
    assert_eq!(fields(&problems), places, "{problems:?}");
}

async fn too_much(app: &TestApp, project: &str) {
    let files: Vec<Value> = (0..100_000).map(|i| json!({ "path": format!("f{i}"), "content": "" })).collect();
    let mut body = app.body(project, &[]);
    body["initFiles"] = json!(files);
    let response = app.request(Method::POST, "/deploy").json(&body).send().await.unwrap();
    let document = assert_problem(response, 413, "REQUEST_TOO_LARGE").await;
    assert!(document["message"].as_str().unwrap().contains("100000 files; send at most 10000"), "{document}");

    let history: Vec<Value> = (0..1_001).map(|_| json!({ "role": "user", "content": "x" })).collect();
    let mut body = app.body(project, &[("index.html", "x")]);
    body["historyMessages"] = json!(history);
    let response = app.request(Method::POST, "/deploy").json(&body).send().await.unwrap();
    assert_problem(response, 413, "REQUEST_TOO_LARGE").await;

    let mut body = app.body(project, &[("index.html", "x")]);
    let env: serde_json::Map<String, Value> = (0..101).map(|i| (format!("V{i}"), json!("x"))).collect();
    body["env"] = Value::Object(env);
    assert_eq!(fields(&refused(app, &body).await), ["env"]);
    body["env"] = json!({ "BIG": "x".repeat(70_000) });
    assert_eq!(fields(&refused(app, &body).await), ["env"]);
    // A thousand problems would help nobody.
    let wrong: Vec<(String, &str)> = (0..1_000).map(|i| (format!("../{i}"), "x")).collect();
    let wrong: Vec<(&str, &str)> = wrong.iter().map(|(p, c)| (p.as_str(), *c)).collect();
    assert_eq!(refused(app, &app.body(project, &wrong)).await.len(), 100);
}

#[tokio::test]
async fn what_needs_state_or_a_credential_is_refused_with_its_code() {
    let app = TestApp::start().await;
    let (project, _) = app.project("state").await;
    let body = app.body(&project, &[("index.html", "x")]);
    let url = format!("http://{}/deploy", app.server.address);
    for credential in
        [None, Some("Bearer nonsense"), Some("Basic Zm9v"), Some("Bearer"), Some("Bearer libra_x")]
    {
        let mut request = app.http.post(&url).json(&body);
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer", "{credential:?}");
        assert_problem(response, 401, "UNAUTHORIZED").await;
    }
    let stranger = "f".repeat(32);
    for (field, status, code) in
        [("orgId", 403, "FORBIDDEN"), ("userId", 403, "FORBIDDEN"), ("projectId", 404, "PROJECT_NOT_FOUND")]
    {
        let mut other = body.clone();
        other[field] = json!(stranger);
        let response = app.request(Method::POST, "/deploy").json(&other).send().await.unwrap();
        assert_problem(response, status, code).await;
    }
    let empty = json!({ "projectId": project, "orgId": app.org, "userId": app.user });
    let response = app.request(Method::POST, "/deploy").json(&empty).send().await.unwrap();
    let document = assert_problem(response, 409, "CONFLICT").await;
    assert!(document["message"].as_str().unwrap().contains("initFiles"), "nothing is stored yet: {document}");

    for (method, path, status, code, allow) in [
        (Method::GET, "/nope", 404, "NOT_FOUND", None),
        (Method::GET, "/deploy/", 404, "NOT_FOUND", None),
        (Method::GET, "/api/v1", 404, "NOT_FOUND", None),
        (Method::GET, "/deploy", 405, "METHOD_NOT_ALLOWED", Some("POST")),
        (Method::POST, "/health", 405, "METHOD_NOT_ALLOWED", Some("GET, HEAD")),
        (Method::PATCH, "/api/v1/projects", 405, "METHOD_NOT_ALLOWED", Some("GET, POST, HEAD")),
        (Method::GET, "/api/v1/projects/x", 404, "PROJECT_NOT_FOUND", None),
        (Method::GET, "/api/v1/projects/%ff", 404, "PROJECT_NOT_FOUND", None),
        (Method::GET, "/api/v1/deployments/x", 404, "DEPLOYMENT_NOT_FOUND", None),
        (Method::GET, "/api/v1/deployments?limit=0", 400, "VALIDATION_ERROR", None),
        (Method::GET, "/api/v1/deployments?limit=1&limit=2", 400, "INVALID_REQUEST", None),
        (Method::GET, "/api/v1/deployments?cursor=x&status=y&projectId=z", 400, "VALIDATION_ERROR", None),
    ] {
        let response = app.request(method.clone(), path).send().await.unwrap();
        let said = response.headers().get("allow").map(|a| a.to_str().unwrap().to_owned());
        assert_eq!(said.as_deref(), allow, "{method} {path}");
        assert_problem(response, status, code).await;
    }
    let response = app.request(Method::POST, "/deploy").header("idempotency-key", "a b").json(&body).send();
    assert_problem(response.await.unwrap(), 400, "INVALID_REQUEST").await;
    assert_eq!(app.rows("select count(*) from deployment"), [["0"]]);
    assert_eq!(app.rows("select count(*) from blob_ref"), [["0"]]);
}
