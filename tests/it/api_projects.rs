//! `/api/v1/projects`: making, listing, reading and their stored files.

use base64::Engine as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::{assert_problem, details, is_id, is_time, keys};
use crate::app::{TestApp, answer};

async fn create(app: &TestApp, name: &str) -> Value {
    let body = json!({ "name": name, "orgId": app.org });
    let response = app.request(Method::POST, "/api/v1/projects").json(&body).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let (status, project) = answer(response).await;
    assert_eq!(status, 201, "{project}");
    assert_eq!(keys(&project), ["createdAt", "egressHosts", "id", "name", "orgId", "url", "workerName"]);
    assert!(is_id(project["id"].as_str().unwrap()) && is_time(&project["createdAt"]));
    assert_eq!(location, format!("/api/v1/projects/{}", project["id"].as_str().unwrap()));
    project
}

#[tokio::test]
async fn projects_get_a_worker_name_of_their_own() {
    let app = TestApp::start().await;
    let first = create(&app, "My App").await;
    assert_eq!((&first["name"], &first["workerName"]), (&json!("My App"), &json!("my-app")));
    let port = app.server.address.rsplit(':').next().unwrap();
    assert_eq!(first["url"], format!("http://my-app.libra.localhost:{port}"));
    // Taken and reserved names get six random characters; what has no letters gets a plain word.
    for (name, start) in
        [("my app", "my-app-"), ("API", "api-"), ("www", "www-"), ("0123456789ab--x", "0123456789ab-x")]
    {
        let made = create(&app, name).await["workerName"].as_str().unwrap().to_owned();
        assert!(made.starts_with(start), "{name}: {made}");
        assert!(start.ends_with('x') || made.len() == start.len() + 6, "{name}: {made}");
    }
    assert_eq!(create(&app, "日本語").await["workerName"], "project");
    assert!(create(&app, &"x".repeat(100)).await["workerName"].as_str().unwrap().len() <= 63);

    for (body, fields) in [
        (json!({}), &["name", "orgId"][..]),
        (json!({ "name": " ", "orgId": app.org }), &["name"]),
        (json!({ "name": "x".repeat(101), "orgId": app.org }), &["name"]),
        (json!({ "name": "red\u{1b}[31m", "orgId": app.org }), &["name"]),
        (
            json!({ "name": 1, "orgId": 2, "template": "vite", "extra": 3 }),
            &["name", "orgId", "template", "extra"],
        ),
    ] {
        let response = app.request(Method::POST, "/api/v1/projects").json(&body).send().await.unwrap();
        let problems = details(&assert_problem(response, 400, "VALIDATION_ERROR").await);
        assert_eq!(problems.iter().map(|(f, _)| f.as_str()).collect::<Vec<_>>(), fields, "{body}");
    }
    let foreign = json!({ "name": "x", "orgId": "f".repeat(32) });
    let response = app.request(Method::POST, "/api/v1/projects").json(&foreign).send().await.unwrap();
    assert_problem(response, 403, "FORBIDDEN").await;

    // Pages: every project once, whatever the length.
    let mut seen = Vec::new();
    let mut path = "/api/v1/projects?limit=3".to_owned();
    loop {
        let (status, page) = app.get(&path).await;
        assert_eq!(status, 200, "{page}");
        let list = page["projects"].as_array().unwrap();
        assert!(list.len() <= 3);
        seen.extend(list.iter().map(|p| p["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/api/v1/projects?limit=3&cursor={cursor}");
    }
    let whole = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((whole, seen.len()), (7, 7));
    let (_, named) = app.get("/api/v1/projects?name=My%20App").await;
    assert_eq!(named["projects"].as_array().unwrap().len(), 1);
    let (_, one) = app.get(&format!("/api/v1/projects/{}", first["id"].as_str().unwrap())).await;
    assert_eq!(one, first);
}

#[tokio::test]
async fn the_stored_tree_is_replaced_read_and_deployed() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("stored").await;
    let path = format!("/api/v1/projects/{project}/files");
    assert_eq!(app.get(&path).await.1, json!({ "files": [] }));
    let bytes = [0_u8, 159, 146, 150];
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    let files = json!({ "files": [
        { "path": "index.html", "content": "stored" },
        { "path": "data.bin", "content": encoded, "encoding": "base64" },
    ] });
    let put = app.request(Method::PUT, &path).json(&files).send().await.unwrap();
    let (status, stored) = answer(put).await;
    assert_eq!(status, 200, "{stored}");
    assert_eq!(keys(&stored["files"][0]), ["digest", "path", "size"]);
    assert_eq!(app.get(&path).await.1, stored);
    let (_, whole) = app.get(&format!("{path}?contents=true")).await;
    let shown: Vec<(&str, &str, &str)> = whole["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| {
            (f["path"].as_str().unwrap(), f["content"].as_str().unwrap(), f["encoding"].as_str().unwrap())
        })
        .collect();
    assert_eq!(shown, [("data.bin", encoded.as_str(), "base64"), ("index.html", "stored", "utf8")]);

    app.deploy_live(&json!({ "projectId": project, "orgId": app.org, "userId": app.user })).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "stored");
    assert_eq!(app.worker(&worker, "/data.bin").await.bytes().await.unwrap(), bytes[..]);

    // What a completed deployment brought is the stored tree; what a failed one brought is not.
    app.deploy_live(&app.body(&project, &[("index.html", "brought")])).await;
    let failing = app.deploy(&app.body(&project, &[("readme.md", "no page")])).await;
    let ended = app.until_final(&failing).await;
    assert_eq!(ended["cause"]["summary"], "Nothing to deploy: no package.json and no HTML file.");
    let (_, whole) = app.get(&format!("{path}?contents=true")).await;
    assert_eq!(whole["files"][0]["content"], "brought");
    assert_eq!(whole["files"].as_array().unwrap().len(), 1);
}
