//! Going live: at most once, never after a cancel or a newer one, never with another version's bytes.

use serde_json::json;

use crate::app::TestApp;
use crate::failing::quick;

#[tokio::test]
async fn a_newer_deployment_supersedes_queued_ones_and_an_older_number_never_goes_live() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("in order").await;
    let body = |page: &str| app.body(&project, &[("index.html", page)]);
    app.hold("deploy.switch").await;
    let first = app.deploy(&body("first")).await;
    app.until_held(&first, "deploy").await;
    let second = app.deploy(&body("second")).await;
    let third = app.deploy(&body("third")).await;
    let document = app.until_final(&second).await;
    assert_eq!((&document["status"], &document["cancelReason"]), (&"cancelled".into(), &"superseded".into()));
    // A rollback takes the next number, whatever runs: it is live before the first one switches.
    let bump = format!(
        "UPDATE project_target SET last_seq = last_seq + 1, live_seq = last_seq + 1 WHERE project_id = '{project}'"
    );
    app.change(&bump);
    app.release("deploy.switch").await;
    for id in [&first, &third] {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "cancelled", "{document:#}");
        assert_eq!(document["cancelReason"], "superseded", "{document:#}");
        assert_eq!(app.switches(id), "0");
    }
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    app.deploy_live(&body("fourth")).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "fourth");
    app.quota_balances();
}

#[tokio::test]
async fn a_confirmed_cancel_never_goes_live_and_a_live_one_is_not_cancelled() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (early, early_worker) = app.project("early").await;
    let (late, late_worker) = app.project("late").await;
    app.hold(&format!("deploy.switch@{early}")).await;
    app.hold(&format!("deploy.end@{late}")).await;
    let before = app.deploy(&app.body(&early, &[("index.html", "never")])).await;
    let after = app.deploy(&app.body(&late, &[("index.html", "live")])).await;
    app.until_held(&before, "deploy").await;
    app.until_held(&after, "deploy").await;

    let (status, answer) = app.post(&format!("/api/v1/deployments/{before}/cancel"), &json!({})).await;
    assert!(status.is_success(), "{answer}");
    let (status, answer) = app.post(&format!("/api/v1/deployments/{after}/cancel"), &json!({})).await;
    assert_eq!(status, 409, "{answer}");
    // Live and not finished: a newer one waits for it instead of cancelling it.
    let newer = app.deploy(&app.body(&late, &[("index.html", "newer")])).await;
    app.release(&format!("deploy.switch@{early}")).await;
    app.release(&format!("deploy.end@{late}")).await;

    let document = app.until_final(&before).await;
    assert_eq!((&document["status"], &document["cancelReason"]), (&"cancelled".into(), &"requested".into()));
    assert_eq!(app.switches(&before), "0");
    assert_eq!(app.worker(&early_worker, "/").await.status(), 404);
    assert_eq!(app.until_final(&after).await["status"], "completed");
    assert_eq!(app.until_final(&newer).await["status"], "completed");
    assert_eq!(app.worker(&late_worker, "/").await.text().await.unwrap(), "newer");
    app.quota_balances();
    app.nothing_is_left_of(&[before, after, newer]).await;
}

#[tokio::test]
async fn one_that_is_live_and_waits_for_its_next_attempt_is_not_superseded() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("live and waiting").await;
    app.fail(&format!("deploy.end@{project}")).await;
    let first = app.deploy(&app.body(&project, &[("index.html", "first")])).await;
    app.until(&first, |d| d["attempt"] == 1 && d["status"] == "queued").await;
    assert_eq!(app.switches(&first), "1");
    let second = app.deploy(&app.body(&project, &[("index.html", "second")])).await;
    app.release(&format!("deploy.end@{project}")).await;
    let document = app.until_final(&first).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    assert_eq!(app.switches(&first), "1");
    assert_eq!(app.until_final(&second).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "second");
    app.quota_balances();
}

#[tokio::test]
async fn a_walk_whose_fence_was_raised_writes_nothing_more() {
    // It does not look by itself before it writes.
    let app = TestApp::start_with(&quick(&[
        ("LIBRA__PIPELINE__LEASE_SECONDS", "100"),
        ("LIBRA__PIPELINE__HEARTBEAT_SECONDS", "50"),
        ("LIBRA__PIPELINE__LOOK_MS", "90000"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "101"),
    ]))
    .await;
    let places = ["sync.end", "build.begin", "deploy.begin", "deploy.switch", "cleanup.end"];
    let mut walks = Vec::new();
    for place in places {
        let (project, _) = app.project(place).await;
        app.hold(&format!("{place}@{project}")).await;
        let id = app.deploy(&app.body(&project, &[("index.html", place)])).await;
        app.until_held(&id, place.split_once('.').unwrap().0).await;
        walks.push((id, format!("{place}@{project}")));
    }
    app.change("UPDATE deployment SET fence = fence + 1");
    let all = "SELECT id, status, fence, event_seq, version_id, switched_at FROM deployment ORDER BY id";
    let before = app.rows(all);
    let log = "SELECT count(*) FROM build_log";
    let logged = app.one(log);
    for (_, point) in &walks {
        app.release(point).await;
    }
    let health = async || app.health().await["checks"]["queue"].clone();
    app.wait("every walk is given up and acknowledged", async || {
        let queue = health().await;
        queue["messages"] == 0 && queue["ackPending"] == 0
    })
    .await;
    assert_eq!(app.rows(all), before);
    assert_eq!(app.one(log), logged, "its number in the log is the next attempt's");
    assert_eq!(
        app.one("SELECT count(*) FROM project_target WHERE live_seq > 0"),
        "1",
        "only cleanup's was live"
    );
}

#[tokio::test]
async fn another_versions_bytes_behind_the_new_address_do_not_complete() {
    let app = TestApp::start_with(&quick(&[("LIBRA__PIPELINE__PROBE_TIMEOUT_MS", "1000")])).await;
    let (project, worker) = app.project("impostor").await;
    let old = app.deploy_live(&app.body(&project, &[("index.html", "old"), ("app.js", "1")])).await;
    let versions = app.folder.data().join("edge/versions");
    let swap = |id: &str, files: &[&str]| {
        std::fs::create_dir_all(versions.join(id)).unwrap();
        for file in files {
            std::fs::copy(versions.join(&old).join(file), versions.join(id).join(file)).unwrap();
        }
    };
    // The whole old version lies where the new one will be looked for.
    app.hold("deploy.begin").await;
    let whole = app.deploy(&app.body(&project, &[("index.html", "new"), ("app.js", "2")])).await;
    app.until_held(&whole, "deploy").await;
    swap(&whole, &["manifest.json", "pack"]);
    app.release("deploy.begin").await;
    let document = app.until_final(&whole).await;
    assert_eq!((&document["status"], &document["cause"]["step"]), (&"failed".into(), &"deploy".into()));
    assert_eq!(app.switches(&whole), "0");

    // The right manifest over the old one's bytes: the edge says 200 and the right version.
    app.hold("deploy.switch").await;
    let bytes = app.deploy(&app.body(&project, &[("index.html", "two"), ("app.js", "3")])).await;
    app.until_held(&bytes, "deploy").await;
    std::fs::copy(versions.join(&old).join("pack"), versions.join(&bytes).join("pack")).unwrap();
    let app = app.restart_after_kill(&quick(&[("LIBRA__PIPELINE__PROBE_TIMEOUT_MS", "1000")]));
    let document = app.until_final(&bytes).await;
    assert_eq!(
        (&document["status"], &document["cause"]["step"]),
        (&"failed".into(), &"deploy".into()),
        "{document:#}"
    );
    let preview = app.worker(&format!("{}--{worker}", &bytes[..12]), "/").await;
    assert_eq!((preview.status().as_u16(), preview.text().await.unwrap()), (200, "old".to_owned()));
    assert_eq!(app.switches(&bytes), "0");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "old");
    assert_eq!(app.letters().await.len(), 2);
    app.quota_balances();
}

#[tokio::test]
async fn a_preview_deployment_never_moves_the_live_version() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("previewed").await;
    let mut body = app.body(&project, &[("index.html", "draft")]);
    body["target"] = json!("preview");
    let first = app.deploy_live(&body).await;
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    assert_eq!(app.worker(&format!("{}--{worker}", &first[..12]), "/").await.text().await.unwrap(), "draft");
    app.deploy_live(&app.body(&project, &[("index.html", "live")])).await;
    let mut body = app.body(&project, &[("index.html", "draft 2")]);
    body["target"] = json!("preview");
    let second = app.deploy_live(&body).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "live");
    assert_eq!(
        app.worker(&format!("{}--{worker}", &second[..12]), "/").await.text().await.unwrap(),
        "draft 2"
    );
    assert!(app.status(&second).await.get("url").is_none());
}
