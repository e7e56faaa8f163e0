//! The database gone and back in the middle of each step: nothing is lost, nothing happens twice,
//! and nobody who asks meanwhile is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::app::{BASE, Folder, TestApp};
use crate::failing::{BUILD, built_site, quick};
use crate::parts::Whose;

/// A step's beginning, its work done, and the moment before the switch.
const PLACES: &[(&str, &str, bool)] = &[
    ("validate", "begin", false),
    ("validate", "end", false),
    ("sync", "begin", false),
    ("sync", "end", false),
    ("sandbox", "begin", false),
    ("sandbox", "end", true),
    ("build", "begin", true),
    ("build", "end", true),
    ("deploy", "begin", false),
    ("deploy", "switch", false),
    ("deploy", "end", false),
    ("cleanup", "begin", false),
    ("cleanup", "end", false),
];

/// Interrupts the database: the server restarts and with it ends every connection; an embedded one
/// has another program's write lock on it instead.
fn interrupt(app: &TestApp) {
    match app.folder.ground.cluster() {
        Some(cluster) => cluster.restart(),
        None => drop(app.folder.lock_writes()),
    }
}

#[tokio::test]
async fn a_database_restarted_in_any_step_costs_no_deployment_and_no_request() {
    let patient = [
        ("LIBRA__PIPELINE__CONCURRENCY", "13"),
        ("LIBRA__PIPELINE__LEASE_SECONDS", "30"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "31"),
        ("LIBRA__LOG__LEVEL", "info"),
    ];
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&quick(&patient));
    let app = TestApp::on(folder, server);
    let (steady, steady_worker) = app.project("steady").await;
    let live = app.deploy_live(&app.body(&steady, &[("index.html", "steady")])).await;

    // Visitors and people who follow a deployment, all the while.
    let asking = Arc::new(AtomicBool::new(true));
    let asked = Arc::new(AtomicU32::new(0));
    let visitor = {
        let (asking, asked, http) = (Arc::clone(&asking), Arc::clone(&asked), app.http.clone());
        let address = app.server.address.clone();
        let site = (format!("http://{address}/"), format!("{steady_worker}.{BASE}"));
        let status = format!("http://{address}/deploy-status?id={live}");
        tokio::spawn(async move {
            while asking.load(Ordering::Relaxed) {
                let answer = http.get(&site.0).header("host", &site.1).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.text().await.unwrap(), "steady");
                let answer = http.get(&status).send().await.unwrap();
                let code = answer.status();
                assert_eq!(code, 200, "{}", answer.text().await.unwrap());
                asked.fetch_add(1, Ordering::Relaxed);
            }
        })
    };

    let mut started = Vec::new();
    for (step, side, build) in PLACES {
        let (project, worker) = app.project(&format!("{step} {side}")).await;
        let point = format!("{step}.{side}@{project}");
        app.hold(&point).await;
        let page = format!("<h1>{step} {side}</h1>");
        let body = if *build {
            built_site(&app, &project, BUILD, &page)
        } else {
            app.body(&project, &[("index.html", &page)])
        };
        started.push((app.deploy(&body).await, *step, *side, worker, page, point));
    }
    for (id, step, ..) in &started {
        app.until_held(id, step).await;
    }
    interrupt(&app);
    for (.., point) in &started {
        app.release(point).await;
        // Again while some of them write what they have done.
        if point.starts_with("sync.begin") || point.starts_with("deploy.switch") {
            interrupt(&app);
        }
    }
    let (posted, posted_worker) = app.project("posted after").await;
    let last = app.deploy(&app.body(&posted, &[("index.html", "posted")])).await;
    for (id, step, side, worker, page, _) in &started {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{step} {side}: {document:#}");
        assert_eq!(app.switches(id), "1", "{step} {side}");
        assert_eq!(&app.worker(worker, "/").await.text().await.unwrap(), page);
        let twice = "SELECT count(*) FROM deployment_event WHERE kind = 'completed' AND deployment_id =";
        assert_eq!(app.one(&format!("{twice} '{id}'")), "1", "{step} {side}");
    }
    assert_eq!(app.until_final(&last).await["status"], "completed");
    assert_eq!(app.worker(&posted_worker, "/").await.text().await.unwrap(), "posted");
    asking.store(false, Ordering::Relaxed);
    visitor.await.unwrap();
    assert!(asked.load(Ordering::Relaxed) > 10);
    app.wait("health is well again", async || {
        app.health().await["checks"]["hyperdrive"]["status"] == "available"
    })
    .await;
    app.quota_balances();
    assert!(app.letters().await.is_empty());
}

#[tokio::test]
async fn a_database_that_stays_away_is_said_to_and_everything_goes_on_when_it_is_back() {
    let patient = [
        ("LIBRA__PIPELINE__LEASE_SECONDS", "60"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "61"),
        ("LIBRA__DATABASE__ACQUIRE_TIMEOUT_MS", "500"),
        ("LIBRA__DATABASE__BUSY_TIMEOUT_MS", "500"),
    ];
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&quick(&patient));
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("away").await;
    app.deploy_live(&app.body(&project, &[("index.html", "before")])).await;
    app.hold("deploy.switch").await;
    let body = app.body(&project, &[("index.html", "after")]);
    let id = app.deploy(&body).await;
    app.until_held(&id, "deploy").await;
    let lock = match app.folder.ground.cluster() {
        Some(cluster) => {
            cluster.stop();
            None
        }
        None => Some(app.folder.lock_writes()),
    };
    let (status, answer) = app.post("/deploy", &body).await;
    assert_eq!((status.as_u16(), &answer["code"]), (503, &"DATABASE_ERROR".into()), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("Nothing was recorded"), "{answer}");
    app.wait("health tells", async || app.health().await["checks"]["hyperdrive"]["status"] == "unavailable")
        .await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "before");
    app.release("deploy.switch").await;
    app.wait("the step is held", async || app.server.log().contains("the database is away; holding")).await;
    drop(lock);
    if let Some(cluster) = app.folder.ground.cluster() {
        cluster.keep_running();
    }
    app.wait("it is back", async || app.get(&format!("/deploy-status?id={id}")).await.0 == 200).await;
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_eq!(app.switches(&id), "1");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "after");
    app.quota_balances();
}
