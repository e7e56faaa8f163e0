//! The queue on three nats-servers with TLS and credentials, whose leader dies in the middle.

use async_nats::jetstream;

use crate::app::TestApp;
use crate::failing::{BUILD, built_site, quick};
use crate::parts::nats::{Clients, Cluster};
use crate::parts::{all, borrowed};

/// Every step in its middle: begun and not done, or done and not journaled.
const PLACES: &[(&str, &str, bool)] = &[
    ("validate", "begin", false),
    ("sync", "begin", false),
    ("sandbox", "end", true),
    ("build", "end", true),
    ("deploy", "switch", false),
    ("cleanup", "begin", false),
];

#[tokio::test]
async fn a_leader_killed_in_the_middle_of_each_step_delays_nothing_that_runs_and_doubles_nothing() {
    let cluster = Cluster::start(Clients::Password);
    let account = cluster.account();
    let place = account.settings();
    let more = [("LIBRA__PIPELINE__CONCURRENCY", "7"), ("LIBRA__LOG__LEVEL", "info")];
    let app = TestApp::start_with(&quick(&all(&[&borrowed(&place), &more]))).await;
    let mut running = Vec::new();
    for (step, side, build) in PLACES {
        let (project, worker) = app.project(&format!("{step} {side}")).await;
        app.hold(&format!("{step}.{side}@{project}")).await;
        let page = format!("<h1>{step}</h1>");
        let body = if *build {
            built_site(&app, &project, BUILD, &page)
        } else {
            app.body(&project, &[("index.html", &page)])
        };
        running.push((app.deploy(&body).await, *step, *side, project, worker, page));
    }
    for (id, step, ..) in &running {
        app.until_held(id, step).await;
    }
    let leader = account.leader("deployment-queue").await.unwrap();
    cluster.kill(&leader);
    // Accepted while nobody leads, and made when somebody does.
    let (project, worker) = app.project("meanwhile").await;
    let meanwhile = app.deploy(&app.body(&project, &[("index.html", "meanwhile")])).await;
    for (_, step, side, project, ..) in &running {
        app.release(&format!("{step}.{side}@{project}")).await;
    }
    for (id, step, side, _, worker, page) in &running {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{step} {side}: {document:#}");
        assert_eq!(document["attempt"], 1, "{step} {side}: {document:#}");
        assert_eq!(app.switches(id), "1", "{step} {side}");
        assert_eq!(&app.worker(worker, "/").await.text().await.unwrap(), page);
    }
    let document = app.until_final(&meanwhile).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "meanwhile");
    // Two of three go on for as long as they have to; then the third catches up.
    assert_ne!(account.leader("deployment-queue").await.unwrap(), leader);
    cluster.restart(&leader);
    app.wait("the copies are whole again", async || account.is_whole("deployment-queue").await).await;
    app.wait("the queue is empty", async || app.health().await["checks"]["queue"]["messages"] == 0).await;
    let context = jetstream::new(account.client().await.unwrap());
    let letters = context.get_stream("deployment-dlq").await.unwrap();
    assert_eq!(letters.cached_info().state.messages, 0);
    app.quota_balances();
    let ids: Vec<String> = running.into_iter().map(|(id, ..)| id).collect();
    app.nothing_is_left_of(&ids).await;
}

#[tokio::test]
async fn two_apps_on_one_cluster_have_an_account_and_three_copies_each() {
    let cluster = Cluster::shared();
    let (first, second) = (cluster.account(), cluster.account());
    let (one, two) = (first.settings(), second.settings());
    let one = TestApp::start_with(&quick(&borrowed(&one))).await;
    let two = TestApp::start_with(&quick(&borrowed(&two))).await;
    for (app, account) in [(&one, &first), (&two, &second)] {
        let (project, worker) = app.project("own").await;
        app.deploy_live(&app.body(&project, &[("index.html", &account.user)])).await;
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), account.user);
        let context = jetstream::new(account.client().await.unwrap());
        for name in ["deployment-queue", "deployment-dlq"] {
            let stream = context.get_stream(name).await.unwrap();
            assert_eq!(stream.cached_info().config.num_replicas, 3, "{name}");
        }
        assert!(!app.server.log().contains(&account.password));
    }
}
