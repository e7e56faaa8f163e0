//! Every actor panics: the address book heals, no request fails, and what ran is made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::app::TestApp;
use crate::failing::quick;

const ACTORS: &[&str] =
    &["domain_resolver", "domain_checks", "worker_registry", "sweep", "deployment_0", "deployment_1"];

#[tokio::test]
async fn a_panicked_actor_is_built_anew_and_no_request_fails() {
    let app = TestApp::start_with(&quick(&[("LIBRA__PIPELINE__CONCURRENCY", "2")])).await;
    let (project, worker) = app.project("steady").await;
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>steady</h1>")])).await;
    let (busy, busy_worker) = app.project("busy").await;
    app.hold(&format!("build.begin@{busy}")).await;
    let running = app.deploy(&app.body(&busy, &[("index.html", "<h1>busy</h1>")])).await;
    app.until_held(&running, "build").await;

    let stop = Arc::new(AtomicBool::new(false));
    let served = Arc::new(AtomicU64::new(0));
    let asking = {
        let (stop, served, http) = (Arc::clone(&stop), Arc::clone(&served), app.http.clone());
        let (url, host) = (format!("http://{}/", app.server.address), format!("{worker}.libra.localhost"));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let answer = http.get(&url).header("host", &host).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.text().await.unwrap(), "<h1>steady</h1>");
                served.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for name in ACTORS {
        app.panic_actor(name).await;
    }
    app.wait("every actor was built anew", async || {
        let actors = app.health().await["checks"]["actors"].clone();
        actors["status"] == "healthy" && ACTORS.iter().all(|name| actors["actors"][*name]["restarts"] == 1)
    })
    .await;
    // The walk that ran in a panicked actor is gone; its lease ends and the next attempt finishes.
    app.release(&format!("build.begin@{busy}")).await;
    let document = app.until_final(&running).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &2.into()), "{document:#}");
    assert_eq!(app.switches(&running), "1");
    assert_eq!(app.worker(&busy_worker, "/").await.text().await.unwrap(), "<h1>busy</h1>");
    // The fresh actors do their work: a second version replaces the first.
    let before = served.load(Ordering::Relaxed);
    app.wait("requests go on", async || served.load(Ordering::Relaxed) > before + 10).await;
    stop.store(true, Ordering::Relaxed);
    asking.await.unwrap();
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>renewed</h1>")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>renewed</h1>");
    app.quota_balances();
    app.nothing_is_left_of(&[running]).await;
}

#[tokio::test]
async fn a_version_that_can_not_be_installed_holds_nobody_else_up() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let (broken, broken_worker) = app.project("broken").await;
    let (whole, whole_worker) = app.project("whole").await;
    let lost = app.deploy_live(&app.body(&broken, &[("index.html", "lost")])).await;
    app.deploy_live(&app.body(&whole, &[("index.html", "one")])).await;
    // Gone from this disk and from the blob store, while it is served.
    std::fs::remove_dir_all(app.folder.data().join("edge/versions").join(&lost)).unwrap();
    let pack = app.one(&format!("SELECT pack_digest FROM version WHERE id = '{lost}'"));
    let blob = app
        .folder
        .ground
        .blob_folder(&app.folder.data())
        .join(&app.org)
        .join("sha256")
        .join(&pack[..2])
        .join(&pack);
    std::fs::remove_file(blob).unwrap();
    // A rebuilt registry keeps serving what the last one had: the page is in memory.
    assert_eq!(app.worker(&broken_worker, "/").await.status(), 200);
    app.panic_actor("worker_registry").await;
    app.wait("it was built anew", async || {
        let actor = &app.health().await["checks"]["actors"]["actors"]["worker_registry"];
        actor["running"] == true && actor["restarts"] == 1
    })
    .await;
    app.deploy_live(&app.body(&whole, &[("index.html", "two")])).await;
    assert_eq!(app.worker(&broken_worker, "/").await.text().await.unwrap(), "lost");
    // After a start there is nothing to serve it from; everybody else goes on.
    let app = app.restart_after_kill(&settings);
    assert_eq!(app.worker(&whole_worker, "/").await.text().await.unwrap(), "two");
    app.deploy_live(&app.body(&whole, &[("index.html", "three")])).await;
    assert_eq!(app.worker(&whole_worker, "/").await.text().await.unwrap(), "three");
    assert_eq!(app.worker(&broken_worker, "/").await.status(), 404);
    app.wait("health tells", async || app.health().await["checks"]["edges"]["behind"] == 1).await;
    // Deployed again, it is served again.
    app.deploy_live(&app.body(&broken, &[("index.html", "found")])).await;
    assert_eq!(app.worker(&broken_worker, "/").await.text().await.unwrap(), "found");
    app.wait("nothing lags", async || app.health().await["checks"]["edges"]["behind"] == 0).await;
}
