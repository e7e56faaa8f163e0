//! A full disk: a clear answer at POST and in every step, nothing lost, live sites served, and
//! everything goes on when there is space again.

use async_nats::jetstream;
use serde_json::Value;

use crate::app::{Folder, TestApp};
use crate::failing::{broker, quick};
use crate::parts::{SmallDisk, Whose};

const SETTINGS: &[(&str, &str)] = &[
    // Long enough that no lease runs out while the disk is full.
    ("LIBRA__PIPELINE__LEASE_SECONDS", "30"),
    ("LIBRA__NATS__ACK_WAIT_SECONDS", "31"),
    ("LIBRA__PIPELINE__RETRY_FIRST_SECONDS", "3"),
    ("LIBRA__PIPELINE__RETRY_SECOND_SECONDS", "3"),
    ("LIBRA__NATS__HANG_TIMEOUT_SECONDS", "8"),
    ("LIBRA__PIPELINE__CONCURRENCY", "6"),
    ("LIBRA__LOG__LEVEL", "info"),
];

#[tokio::test]
async fn a_full_disk_refuses_a_post_serves_what_is_live_and_loses_nothing() {
    let folder = Folder::with_parts(Whose::OwnOnSmallDisks(160));
    let me = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let disk = SmallDisk::mount(&folder.data(), 48, me);
    let server = folder.serve(&quick(SETTINGS));
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("small").await;
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>live</h1>")])).await;
    let mut held = Vec::new();
    for step in ["validate", "sync", "sandbox", "build", "deploy", "cleanup"] {
        let (project, worker) = app.project(step).await;
        let point = format!("{step}.begin@{project}");
        app.hold(&point).await;
        held.push((app.deploy(&app.body(&project, &[("index.html", step)])).await, step, worker, point));
    }
    for (id, step, ..) in &held {
        app.until_held(id, step).await;
    }
    let before = app.rows("SELECT id FROM deployment ORDER BY id");
    disk.fill();
    if let Some(disk) = app.folder.ground.cluster().and_then(|c| c.disk()) {
        disk.fill();
    }

    // Blobs on S3 lie on no disk of ours; one that is full refuses as one that is gone does.
    let remote = app.folder.ground.account().is_some();
    if remote {
        app.folder.ground.blobs_are_away(&app.folder.data(), true);
    }
    let large = "x".repeat(2 << 20);
    let (status, answer) = app.post("/deploy", &app.body(&project, &[("index.html", &large)])).await;
    assert_eq!((status.as_u16(), &answer["success"]), (503, &Value::Bool(false)), "{answer}");
    let code = answer["code"].as_str().unwrap();
    assert!(matches!(code, "OVERLOADED" | "DATABASE_ERROR"), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("Nothing was recorded"), "{answer}");
    assert_eq!(app.rows("SELECT id FROM deployment ORDER BY id"), before);

    if remote {
        app.folder.ground.blobs_are_away(&app.folder.data(), false);
    }

    // The broker meets the full disk too: whatever it does about that, it must come back.
    let context = jetstream::new(broker(&app.folder).await);
    let noise = "n".repeat(512 << 10);
    if let Ok(published) = context.publish("deployment.jobs.noise", noise.into()).await {
        drop(published.await);
    }
    for (.., point) in &held {
        app.release(point).await;
    }
    app.wait("a step met the full disk", async || {
        let log = app.server.log();
        log.contains("attempt failed") || log.contains("holding the step")
    })
    .await;
    for _ in 0..100 {
        let answer = app.worker(&worker, "/").await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "<h1>live</h1>".into()));
    }
    disk.free();
    if let Some(cluster) = app.folder.ground.cluster() {
        if let Some(disk) = cluster.disk() {
            disk.free();
        }
        cluster.keep_running();
    }

    for (id, step, worker, _) in &held {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{step}: {document:#}");
        assert_eq!(app.switches(id), "1");
        assert_eq!(app.worker(worker, "/").await.text().await.unwrap(), *step);
    }
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>after</h1>")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>after</h1>");
    app.quota_balances();
    let ids: Vec<String> = held.into_iter().map(|(id, ..)| id).collect();
    app.nothing_is_left_of(&ids).await;
}
