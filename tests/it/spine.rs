//! From source to a live address: the walk of one deployment, as a user sees it.

use serde_json::json;

use crate::app::{TestApp, root};

#[tokio::test]
async fn plain_files_go_live_on_their_subdomain_and_preview() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("Plain Site").await;
    assert_eq!(worker, "plain-site");
    let body = app.body(&project, &[("index.html", "<h1>one</h1>"), ("about.html", "<h1>about</h1>")]);
    let id = app.deploy_live(&body).await;
    let live = app.worker(&worker, "/").await;
    assert_eq!(live.status(), 200);
    assert!(live.headers().contains_key("x-request-id"));
    assert_eq!(live.text().await.unwrap(), "<h1>one</h1>");
    let second = app.deploy_live(&app.body(&project, &[("index.html", "<h1>two</h1>")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>two</h1>");
    let preview = format!("{}--{worker}", &id[..12]);
    assert_eq!(app.worker(&preview, "/").await.text().await.unwrap(), "<h1>one</h1>");
    assert_ne!(id, second);
    assert!(app.server.stop().success());
}

#[tokio::test]
async fn a_vite_project_is_built_in_the_sandbox_and_answers() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("vite react").await;
    let mut files = Vec::new();
    for path in [
        "package.json",
        "package-lock.json",
        "index.html",
        "vite.config.ts",
        "tsconfig.json",
        "tsconfig.app.json",
        "tsconfig.node.json",
    ] {
        if let Ok(content) = std::fs::read_to_string(root().join("examples/vite-react").join(path)) {
            files.push(json!({ "path": path, "content": content }));
        }
    }
    for folder in ["src", "public", "src/assets"] {
        let Ok(entries) = std::fs::read_dir(root().join("examples/vite-react").join(folder)) else {
            continue;
        };
        for entry in entries.flatten().filter(|e| e.file_type().unwrap().is_file()) {
            let content = std::fs::read_to_string(entry.path()).unwrap();
            files.push(json!({ "path": format!("{folder}/{}", entry.file_name().to_string_lossy()), "content": content }));
        }
    }
    let mut body = app.body(&project, &[]);
    body["initFiles"] = json!(files);
    let id = app.deploy_live(&body).await;
    let status = app.status(&id).await;
    for step in ["validate", "sync", "sandbox", "build", "deploy", "cleanup"] {
        assert_eq!(status["steps"][step]["status"], "completed", "{status:#}");
    }
    assert_eq!(status["progress"], 100);
    let log = app.log_of(&id).await;
    assert!(log.contains("Vite: package.json depends on vite"), "{log}");
    let page = app.worker(&worker, "/").await.text().await.unwrap();
    let script = page.split("src=\"").nth(1).unwrap().split('"').next().unwrap();
    let script = app.worker(&worker, script).await;
    assert_eq!(script.headers()["cache-control"], "public, max-age=31536000, immutable");
}
