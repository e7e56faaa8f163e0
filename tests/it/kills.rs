//! kill -9 of the server, in every step: nothing is lost, nothing happens twice, nothing is left.

use crate::app::{TestApp, processes_with};
use crate::failing::{BUILD, built_site, quick};

/// Every step, at its beginning and at its end. The sandbox and build steps have a real sandbox.
const PLACES: &[(&str, &str, bool)] = &[
    ("validate", "begin", false),
    ("validate", "end", false),
    ("sync", "begin", false),
    ("sync", "end", false),
    ("sandbox", "begin", false),
    ("sandbox", "end", true),
    ("build", "begin", false),
    ("build", "end", true),
    ("deploy", "begin", false),
    ("deploy", "switch", false),
    ("deploy", "end", false),
    ("cleanup", "begin", false),
    ("cleanup", "end", false),
];

#[tokio::test]
async fn a_server_killed_in_any_step_loses_nothing_and_repeats_nothing() {
    let settings = quick(&[("LIBRA__PIPELINE__CONCURRENCY", "13"), ("LIBRA__LOG__LEVEL", "info")]);
    let app = TestApp::start_with(&settings).await;
    let mut started = Vec::new();
    for (step, side, build) in PLACES {
        let (project, worker) = app.project(&format!("{step} {side}")).await;
        app.hold(&format!("{step}.{side}@{project}")).await;
        let page = format!("<h1>{step} {side}</h1>");
        let body = if *build {
            built_site(&app, &project, BUILD, &page)
        } else {
            app.body(&project, &[("index.html", &page)])
        };
        started.push((app.deploy(&body).await, *step, *side, worker, page));
    }
    for (id, step, ..) in &started {
        app.until_held(id, step).await;
    }
    let app = app.restart_after_kill(&settings);
    for (id, step, side, worker, page) in &started {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{step} {side}: {document:#}");
        assert_eq!(document["attempt"], 2, "{step} {side}: {document:#}");
        assert_eq!(app.switches(id), "1", "{step} {side}");
        let lines = document["logs"].to_string();
        let past_sync = !matches!((*step, *side), ("validate", _) | ("sync", _));
        assert_eq!(lines.contains("Source reused"), past_sync, "{step} {side}: {lines}");
        let past_build = matches!(*step, "deploy" | "cleanup");
        assert_eq!(
            lines.contains("Build reused from an earlier attempt"),
            past_build,
            "{step} {side}: {lines}"
        );
        assert_eq!(&app.worker(worker, "/").await.text().await.unwrap(), page);
    }
    app.quota_balances();
    let ids: Vec<String> = started.into_iter().map(|(id, ..)| id).collect();
    app.nothing_is_left_of(&ids).await;
    assert!(app.letters().await.is_empty());
}

#[tokio::test]
async fn a_build_that_runs_ends_with_its_killed_server_and_is_made_again() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("long build").await;
    let marker = format!("build-{}.mjs", uuid::Uuid::new_v4().simple());
    // Runs for ever the first time, and ends the second time: the first server has left its mark.
    let script = "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.writeFileSync('dist/index.html', 'made');\n\
                  console.log('running');\nif (!process.env.QUICK) setInterval(() => {}, 1000);\n";
    let mut body = app.body(&project, &[(marker.as_str(), script)]);
    body["build"] = serde_json::json!({ "command": format!("node {marker}") });
    let id = app.deploy(&body).await;
    app.wait("the build runs", async || !processes_with(&marker).is_empty()).await;
    let app = app.restart_after_kill(&settings);
    let first = app.one(&format!("SELECT fence FROM deployment WHERE id = '{id}'"));
    assert_eq!(first, "1");
    app.wait("the first build is gone", async || {
        let fence = app.one(&format!("SELECT fence FROM deployment WHERE id = '{id}'"));
        fence != "1" || processes_with(&marker).is_empty()
    })
    .await;
    app.until(&id, |d| d["attempt"] == 2 && d["currentStep"] == "build").await;
    let (status, _) = app.post(&format!("/api/v1/deployments/{id}/cancel"), &serde_json::json!({})).await;
    assert!(status.is_success(), "{status}");
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "cancelled", "{document:#}");
    app.wait("no build is left", async || processes_with(&marker).is_empty()).await;
    app.nothing_is_left_of(std::slice::from_ref(&id)).await;
    assert_eq!(app.switches(&id), "0");
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    app.quota_balances();
}

#[tokio::test]
async fn a_third_crash_is_a_dead_letter_poison_where_it_was_the_same_step() {
    let app = TestApp::start_with(&quick(&[("LIBRA__TESTING__HOLD", "build.begin")])).await;
    let (same, _) = app.project("same step").await;
    let (other, _) = app.project("other steps").await;
    let (live, live_worker) = app.project("already live").await;
    let page = [("index.html", "<h1>one</h1>")];
    let poison = app.deploy(&app.body(&same, &page)).await;
    let crashed = app.deploy(&app.body(&other, &page)).await;
    app.until_held(&poison, "build").await;
    app.until_held(&crashed, "build").await;
    let mut app = app;
    let mut alive = None;
    for step in ["sync", "deploy"] {
        let points = format!("build.begin@{same},{step}.begin@{other},cleanup.begin@{live}");
        app = app.restart_after_kill(&quick(&[("LIBRA__TESTING__HOLD", &points)]));
        if alive.is_none() {
            alive = Some(app.deploy(&app.body(&live, &page)).await);
        }
        app.until_held(&poison, "build").await;
        app.until_held(&crashed, step).await;
        app.until_held(alive.as_ref().unwrap(), "cleanup").await;
    }
    let points = format!("validate.begin@{same},validate.begin@{other},cleanup.begin@{live}");
    app = app.restart_after_kill(&quick(&[("LIBRA__TESTING__HOLD", &points)]));
    let alive = alive.unwrap();
    app.until_held(&alive, "cleanup").await;
    app = app.restart_after_kill(&quick(&[]));
    for (id, step) in [(&poison, "build"), (&crashed, "deploy")] {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "failed", "{document:#}");
        assert_eq!((&document["attempt"], &document["cause"]["class"]), (&3.into(), &"platform".into()));
        assert_eq!(document["cause"]["step"], step);
        assert_eq!(app.switches(id), "0");
    }
    // Three crashes after it went live: it is live, and no cleanup can fail it.
    let document = app.until_final(&alive).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    assert_eq!(app.switches(&alive), "1");
    assert_eq!(app.worker(&live_worker, "/").await.text().await.unwrap(), "<h1>one</h1>");
    app.quota_balances();
    let letters = app.letters().await;
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (id, class, step) in [(&poison, "poison", "build"), (&crashed, "crashed", "deploy")] {
        let subject = format!("deployment.dlq.{class}.{}", app.org);
        let (_, letter) =
            letters.iter().find(|(s, _)| *s == subject).unwrap_or_else(|| panic!("{letters:?}"));
        assert_eq!(letter["original"]["deploymentId"], **id);
        assert_eq!((&letter["attempts"], &letter["failedStep"]), (&3.into(), &step.into()));
        assert_eq!(letter["cause"]["class"], "platform");
        assert!(letter["firstFailedAt"].as_str().unwrap() <= letter["lastFailedAt"].as_str().unwrap());
        let (_, page) = app.get(&format!("/api/v1/dead-letters?class={class}")).await;
        assert_eq!(page["deadLetters"][0]["deploymentId"], **id, "{page:#}");
        assert_eq!(page["deadLetters"][0]["failedStep"], step, "{page:#}");
        let crashes = format!("deployment_id = '{id}' AND outcome = 'crashed'");
        assert_eq!(app.one(&format!("SELECT count(*) FROM deployment_attempt WHERE {crashes}")), "3");
    }
}

#[tokio::test]
async fn a_build_whose_output_was_lost_is_made_again_instead_of_failing_every_attempt() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("lost output").await;
    app.hold(&format!("deploy.begin@{project}")).await;
    // Other bytes than the source's, or the two would be one blob.
    let script =
        "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.writeFileSync('dist/index.html', 'made');\n";
    let id = app.deploy(&built_site(&app, &project, script, "")).await;
    app.until_held(&id, "deploy").await;
    let result = app
        .one(&format!("SELECT result FROM deployment_step WHERE step = 'build' AND deployment_id = '{id}'"));
    let built: serde_json::Value = serde_json::from_str(&result).unwrap();
    let blobs = app.folder.ground.blob_folder(&app.folder.data());
    let pack = find(&blobs, built["pack"].as_str().unwrap()).unwrap();
    std::fs::rename(&pack, pack.parent().unwrap().join("lost")).unwrap();
    let app = app.restart_after_kill(&quick(&[]));
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &2.into()), "{document:#}");
    assert!(!document["logs"].to_string().contains("Build reused"), "{document:#}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "made");
    app.quota_balances();
}

/// The file or folder that stands for a blob.
fn find(folder: &std::path::Path, digest: &str) -> Option<std::path::PathBuf> {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains(hex) {
            return Some(path);
        }
        path.is_dir().then(|| find(&path, digest)).flatten()
    })
}
