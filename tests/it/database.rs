//! Another process holds the database's write lock: a clear answer, nothing half-recorded, and
//! what runs is held and finished.

use serde_json::Value;

use crate::app::TestApp;
use crate::failing::quick;

const IMPATIENT: &[(&str, &str)] = &[
    ("LIBRA__DATABASE__BUSY_TIMEOUT_MS", "300"),
    ("LIBRA__PIPELINE__LEASE_SECONDS", "20"),
    ("LIBRA__NATS__ACK_WAIT_SECONDS", "25"),
];

#[tokio::test]
async fn a_locked_database_refuses_a_post_and_records_nothing() {
    let app = TestApp::start_with(&quick(IMPATIENT)).await;
    let (project, worker) = app.project("locked out").await;
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>before</h1>")])).await;
    let body = app.body(&project, &[("index.html", "<h1>after</h1>")]);
    let before = app.rows("SELECT id, status FROM deployment");
    let lock = app.folder.lock_writes();
    let (status, answer) = app.post("/deploy", &body).await;
    assert_eq!((status.as_u16(), &answer["code"]), (503, &Value::from("DATABASE_ERROR")), "{answer}");
    assert_eq!(answer["success"], false);
    // Whoever reads is not disturbed, nor is the site.
    let (status, _) = app.get("/api/v1/projects").await;
    assert_eq!(status, 200);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>before</h1>");
    assert_eq!(app.rows("SELECT id, status FROM deployment"), before);
    app.quota_balances();
    drop(lock);
    app.deploy_live(&body).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>after</h1>");
    app.quota_balances();
}

#[tokio::test]
async fn a_locked_database_holds_a_running_deployment_and_costs_no_attempt() {
    let app = TestApp::start_with(&quick(IMPATIENT)).await;
    let places = ["sync.begin", "sync.end", "build.end", "deploy.switch", "cleanup.end"];
    let mut started = Vec::new();
    for place in &places {
        let (project, worker) = app.project(place).await;
        let point = format!("{place}@{project}");
        app.hold(&point).await;
        let id = app.deploy(&app.body(&project, &[("index.html", place)])).await;
        started.push((id, point, worker, *place));
    }
    for (id, _, _, place) in &started {
        app.until_held(id, place.split_once('.').unwrap().0).await;
    }
    let lock = app.folder.lock_writes();
    for (_, point, ..) in &started {
        app.release(point).await;
    }
    let held = "the database is away; holding the step";
    app.wait("the steps met the lock", async || app.server.log().matches(held).count() >= started.len())
        .await;
    drop(lock);
    for (id, _, worker, place) in &started {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{document:#}");
        assert_eq!(document["attempt"], 1, "{place}: {document:#}");
        assert_eq!(app.switches(id), "1");
        assert_eq!(app.worker(worker, "/").await.text().await.unwrap(), *place);
    }
    app.quota_balances();
}

#[tokio::test]
async fn a_lock_that_outlasts_the_lease_costs_an_attempt_and_no_deployment() {
    let short = [("LIBRA__DATABASE__BUSY_TIMEOUT_MS", "300")];
    let app = TestApp::start_with(&quick(&short)).await;
    let (project, worker) = app.project("outlasted").await;
    app.hold("deploy.switch").await;
    let id = app.deploy(&app.body(&project, &[("index.html", "<h1>late</h1>")])).await;
    app.until_held(&id, "deploy").await;
    let lock = app.folder.lock_writes();
    // The lease runs out by the server's own clock: the walk is given up, nothing is written.
    let held = format!("http://{}/testing/held", app.server.operator);
    app.wait("the walk is given up", async || {
        let held: Value = app.http.get(&held).send().await.unwrap().json().await.unwrap();
        held.as_object().unwrap().is_empty()
    })
    .await;
    app.release("deploy.switch").await;
    assert_eq!(app.switches(&id), "0");
    drop(lock);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &2.into()), "{document:#}");
    assert_eq!(app.switches(&id), "1");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>late</h1>");
    app.quota_balances();
}
