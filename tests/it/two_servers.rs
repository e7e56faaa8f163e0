//! Two servers on one folder: one broker, both serve, either may die, and a zombie changes nothing.

use nix::sys::signal::Signal;

use crate::app::{BASE, TestApp};
use crate::failing::{broker_mark, quick};

/// What a Worker's page is on this server.
async fn page(app: &TestApp, address: &str, worker: &str) -> (u16, String) {
    let url = format!("http://{address}/");
    let answer = app.http.get(url).header("host", format!("{worker}.{BASE}")).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn both_serve_what_is_completed_and_the_second_takes_over_when_the_owner_dies() {
    let settings =
        quick(&[("LIBRA__PIPELINE__CONCURRENCY", "2"), ("LIBRA__PIPELINE__EDGE_CONFIRM_MS", "5000")]);
    let mut app = TestApp::start_with(&settings).await;
    let second = app.folder.serve(&settings);
    let broker = broker_mark(&app.folder);
    let (project, worker) = app.project("shared").await;
    for text in ["one", "two", "three"] {
        app.deploy_live(&app.body(&project, &[("index.html", text)])).await;
        for address in [&app.server.address, &second.address] {
            assert_eq!(page(&app, address, &worker).await, (200, text.to_owned()));
        }
    }
    assert_eq!(broker_mark(&app.folder), broker, "one broker serves both");

    // The owner dies in the middle of a deployment, which the other one makes.
    let (busy, busy_worker) = app.project("taken over").await;
    for operator in [&app.server.operator, &second.operator] {
        let url = format!("http://{operator}/testing/hold/build.begin@{busy}");
        assert_eq!(app.http.post(url).send().await.unwrap().status(), 202);
    }
    let id = app.deploy(&app.body(&busy, &[("index.html", "taken over")])).await;
    app.until(&id, |d| d["currentStep"] == "build").await;
    let survivor = second;
    let dead = std::mem::replace(&mut app.server, survivor);
    dead.kill();
    app.release(&format!("build.begin@{busy}")).await;
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    assert_eq!(app.switches(&id), "1");
    app.wait("the survivor owns a broker of its own", async || {
        (broker.is_none() || broker_mark(&app.folder) != broker)
            && app.health().await["checks"]["queue"]["status"] == "healthy"
    })
    .await;
    app.deploy_live(&app.body(&project, &[("index.html", "four")])).await;
    let address = app.server.address.clone();
    assert_eq!(page(&app, &address, &worker).await, (200, "four".to_owned()));
    assert_eq!(page(&app, &address, &busy_worker).await, (200, "taken over".to_owned()));
    app.quota_balances();
    assert!(app.letters().await.is_empty());
}

#[tokio::test]
async fn a_server_that_was_frozen_in_its_switch_changes_nothing_when_it_wakes() {
    let settings = quick(&[]);
    let mut app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("zombie").await;
    // Only the first server exists, so it is the one that holds the deployment before its switch.
    app.hold(&format!("deploy.switch@{project}")).await;
    let id = app.deploy(&app.body(&project, &[("index.html", "old")])).await;
    app.until_held(&id, "deploy").await;
    let second = app.folder.serve(&settings);
    let frozen = std::mem::replace(&mut app.server, second);
    app.hold(&format!("deploy.switch@{project}")).await;
    frozen.signal(Signal::SIGSTOP);
    // The second one takes the deployment over and is before its own switch when the first wakes.
    app.until_held(&id, "deploy").await;
    let release = format!("http://{}/testing/release/deploy.switch@{project}", frozen.operator);
    frozen.signal(Signal::SIGCONT);
    // Its connections have timed out while it was frozen: a fresh one.
    let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    assert_eq!(http.post(release).send().await.unwrap().status(), 202);
    app.wait("the woken walk is given up", async || {
        let held = format!("http://{}/testing/held", frozen.operator);
        let held: serde_json::Value = http.get(held).send().await.unwrap().json().await.unwrap();
        held.as_object().unwrap().is_empty()
    })
    .await;
    // Stopped in order, so that whatever it still wanted to write was written or refused.
    assert!(frozen.stop().success());
    assert_eq!(app.switches(&id), "0");
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    app.release(&format!("deploy.switch@{project}")).await;
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &2.into()), "{document:#}");
    assert_eq!(app.switches(&id), "1");
    app.deploy_live(&app.body(&project, &[("index.html", "new")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "new");
    app.quota_balances();
    app.nothing_is_left_of(&[id]).await;
}
