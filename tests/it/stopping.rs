//! A graceful stop: what runs ends its step or is cut off, is handed over, costs no attempt, and leaves no process
//! behind.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::app::{TestApp, processes_with};
use crate::failing::quick;

/// A build that leaves a mark of itself among the processes and takes so long.
fn slow_build(app: &TestApp, project: &str, ms: u64) -> (String, Value) {
    let marker = format!("build-{}.mjs", uuid::Uuid::new_v4().simple());
    let script = format!(
        "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.copyFileSync('page.html', 'dist/index.html');\n\
         setTimeout(() => {{}}, {ms});\n"
    );
    let mut body = app.body(project, &[(marker.as_str(), script.as_str()), ("page.html", "made")]);
    body["build"] = json!({ "command": format!("node {marker}") });
    (marker, body)
}

#[tokio::test]
async fn a_stopped_server_ends_its_step_and_the_next_one_goes_on_from_there() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("handed over").await;
    let (marker, body) = slow_build(&app, &project, 3_000);
    let id = app.deploy(&body).await;
    app.wait("the build runs", async || !processes_with(&marker).is_empty()).await;
    let TestApp { folder, server, .. } = app;
    let stopped = server.stop();
    assert!(stopped.success(), "{stopped}");
    assert!(processes_with(&marker).is_empty(), "a build outlived its server");
    assert!(processes_with(&folder.path().to_string_lossy()).is_empty(), "a child outlived its server");
    let row = crate::app::rows(
        &folder,
        &format!("SELECT status, attempt, fence, lease_owner, hand_overs FROM deployment WHERE id = '{id}'"),
    );
    assert_eq!(row, [["queued", "0", "1", "", "1"]]);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert!(document["logs"].to_string().contains("Build reused from an earlier attempt"), "{document:#}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "made");
    assert_eq!(app.switches(&id), "1");
    app.quota_balances();
    app.nothing_is_left_of(&[id]).await;
}

#[tokio::test]
async fn a_step_that_would_outlast_the_stop_is_cut_off_and_made_again() {
    let impatient = quick(&[("LIBRA__HTTP__SHUTDOWN_TIMEOUT_SECONDS", "6")]);
    let app = TestApp::start_with(&impatient).await;
    let (project, _) = app.project("cut off").await;
    let (marker, body) = slow_build(&app, &project, 600_000);
    let id = app.deploy(&body).await;
    app.wait("the build runs", async || !processes_with(&marker).is_empty()).await;
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    assert!(processes_with(&marker).is_empty(), "a build outlived its server");
    let row = crate::app::rows(
        &folder,
        &format!("SELECT status, attempt, lease_owner, hand_overs FROM deployment WHERE id = '{id}'"),
    );
    assert_eq!(row, [["queued", "0", "", "1"]]);
    let server = folder.serve(&impatient);
    let app = TestApp::on(folder, server);
    app.wait("it is built again", async || !processes_with(&marker).is_empty()).await;
    let (status, _) = app.post(&format!("/api/v1/deployments/{id}/cancel"), &json!({})).await;
    assert_eq!(status, 202);
    assert_eq!(app.until_final(&id).await["status"], "cancelled");
    app.quota_balances();
}

#[tokio::test]
async fn another_server_takes_over_while_the_first_one_still_stops() {
    // Longer than this test may take on a busy machine.
    let patient = [("LIBRA__PIPELINE__CONCURRENCY", "2"), ("LIBRA__HTTP__SHUTDOWN_TIMEOUT_SECONDS", "600")];
    let settings = quick(&patient);
    let mut app = TestApp::start_with(&settings).await;
    let (long, _) = app.project("long").await;
    let (short, worker) = app.project("short").await;
    // Both run on the first server; the long one keeps it from ending.
    let (marker, body) = slow_build(&app, &long, 600_000);
    let kept = app.deploy(&body).await;
    app.wait("the build runs", async || !processes_with(&marker).is_empty()).await;
    app.hold(&format!("sync.end@{short}")).await;
    let id = app.deploy(&app.body(&short, &[("index.html", "made")])).await;
    app.until_held(&id, "sync").await;
    let second = app.folder.serve(&settings);
    let first = std::mem::replace(&mut app.server, second);
    first.signal(Signal::SIGTERM);
    let release = format!("http://{}/testing/release/sync.end@{short}", first.operator);
    assert_eq!(app.http.post(release).send().await.unwrap().status(), 202);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert!(!processes_with(&marker).is_empty(), "the first server still has its grace");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "made");
    let (status, _) = app.post(&format!("/api/v1/deployments/{kept}/cancel"), &json!({})).await;
    assert_eq!(status, 202);
    assert_eq!(app.until_final(&kept).await["status"], "cancelled");
    assert!(first.stop().success());
    app.quota_balances();
}
