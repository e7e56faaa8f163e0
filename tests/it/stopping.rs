//! A graceful stop: what runs is handed over, costs no attempt, and leaves no process behind.

use serde_json::json;

use crate::app::{TestApp, processes_with};
use crate::failing::quick;

#[tokio::test]
async fn a_stopped_server_hands_its_build_over_and_the_next_one_finishes_it() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("handed over").await;
    let marker = format!("build-{}.mjs", uuid::Uuid::new_v4().simple());
    let script = "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.copyFileSync('page.html', 'dist/index.html');\n\
                  const wait = fs.existsSync('wait') ? 3000 : 0;\nsetTimeout(() => {}, wait);\n";
    let mut body = app.body(&project, &[(marker.as_str(), script), ("page.html", "made"), ("wait", "1")]);
    body["build"] = json!({ "command": format!("node {marker}") });
    let id = app.deploy(&body).await;
    app.wait("the build runs", async || !processes_with(&marker).is_empty()).await;
    let TestApp { folder, server, .. } = app;
    let stopped = server.stop();
    assert!(stopped.success(), "{stopped}");
    assert!(processes_with(&marker).is_empty(), "a build outlived its server");
    assert!(processes_with(&folder.path().to_string_lossy()).is_empty(), "a child outlived its server");
    let row = crate::app::rows(
        &folder,
        &format!("SELECT status, attempt, fence, lease_owner FROM deployment WHERE id = '{id}'"),
    );
    assert_eq!(row, [["queued", "0", "1", ""]]);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "made");
    assert_eq!(app.switches(&id), "1");
    app.quota_balances();
    app.nothing_is_left_of(&[id]).await;
}
