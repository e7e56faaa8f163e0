//! Every actor panics: the address book heals, no request fails, and what ran is made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::app::TestApp;
use crate::failing::quick;

const ACTORS: &[&str] = &["domain_resolver", "worker_registry", "sweep", "deployment_0", "deployment_1"];

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
