//! Driving dead deployments anew: from where, how fast, once, and never past a newer one.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::app::{TestApp, answer};
use crate::failing::{BUILD, built_site, quick};

/// A line of the build's own.
const BUILDS: &str = "\nbuilt\n";

#[tokio::test]
async fn from_the_failed_step_only_what_is_left_is_done() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("failed step").await;
    let body = built_site(&app, &project, BUILD, "made");
    let (letter, id) = app.dead_with(&body, &project, "deploy.begin").await;
    let builds = async || app.log_of(&id).await.matches(BUILDS).count();
    assert_eq!(builds().await, 1, "the attempts reuse it");
    assert_eq!(app.one("SELECT released FROM quota_period"), "1");

    let (status, told) = answer(app.redrive(&letter, json!({})).await).await;
    assert_eq!(status, 202, "{told}");
    let expected = json!({ "deploymentId": id, "status": "queued", "from": "failed_step", "redrives": 1 });
    assert_eq!(told, expected);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&json!("completed"), &json!(1)), "{document:#}");
    assert_eq!(builds().await, 1, "{}", app.log_of(&id).await);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "made");
    assert_eq!(app.switches(&id), "1");
    app.quota_balances();
    assert_eq!(app.one("SELECT settled FROM quota_period"), "1");

    let (_, shown) = app.get(&format!("/api/v1/dead-letters/{letter}")).await;
    assert_eq!((&shown["state"], &shown["changed"]["from"]), (&json!("redriven"), &json!("failed_step")));
    let history: Vec<(i64, i64, &str)> = shown["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| {
            let number = |field: &str| a[field].as_i64().unwrap();
            (number("redrives"), number("attempt"), a["outcome"].as_str().unwrap())
        })
        .collect();
    assert_eq!(history, [(0, 1, "retry"), (0, 2, "retry"), (0, 3, "failed"), (1, 1, "completed")]);
    assert_problem(app.redrive(&letter, json!({})).await, 409, "CONFLICT").await;
    let kept = app.one(&format!("SELECT env_sealed IS NULL FROM deployment WHERE id = '{id}'"));
    assert_eq!(kept, "1");
    app.nothing_is_left_of(&[id]).await;
}

#[tokio::test]
async fn a_changed_setting_is_built_and_served_in_place_of_what_was_recorded_before() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("changed").await;
    let body = built_site(&app, &project, BUILD, "first");
    // Recorded, shown on its preview address, and never live.
    let (letter, id) = app.dead_with(&body, &project, "deploy.switch").await;
    let preview = app.status(&id).await["previewUrl"].as_str().unwrap().to_owned();
    let label = preview.trim_start_matches("http://").split('.').next().unwrap().to_owned();
    assert_eq!(app.worker(&label, "/").await.text().await.unwrap(), "first");

    let bad = json!({ "set": { "build.rootDirectory": "../.." } });
    assert_problem(app.redrive(&letter, bad).await, 400, "VALIDATION_ERROR").await;
    let command = "mkdir -p dist && echo second > dist/index.html";
    let (status, told) =
        answer(app.redrive(&letter, json!({ "set": { "build.command": command } })).await).await;
    assert_eq!(status, 202, "{told}");
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "completed", "{document:#}\n{}", app.log_of(&id).await);
    for label in [&worker, &label] {
        assert_eq!(app.worker(label, "/").await.text().await.unwrap().trim(), "second");
    }
    assert_eq!(app.switches(&id), "1");
    // The id of what was there before means nothing else now.
    let recorded = format!("SELECT id = '{id}' FROM version WHERE deployment_id = '{id}'");
    assert_eq!(app.one(&recorded), "0");
    let app = app.restart_after_kill(&quick(&[]));
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap().trim(), "second");
    app.quota_balances();
}

#[tokio::test]
async fn of_racing_redrives_one_is_done_and_the_quota_counts_it_once() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, _) = app.project("raced").await;
    let (letter, id) = app.dead(&project, "deploy.begin", json!({})).await;
    let orders = (0..32).map(|_| app.redrive(&letter, json!({ "from": "start" })));
    let mut statuses: Vec<u16> = join_all(orders).await.iter().map(|r| r.status().as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![202], vec![409; 31]].concat());
    assert_eq!(app.until_final(&id).await["status"], "completed");
    let reused = app.log_of(&id).await.matches("the output of an earlier attempt is reused").count();
    assert_eq!(reused, 2, "by the second and third attempt, and not from the start");
    assert_eq!(app.one(&format!("SELECT redrives FROM deployment WHERE id = '{id}'")), "1");
    assert_eq!(app.switches(&id), "1");
    app.quota_balances();
    assert_eq!(app.one("SELECT released FROM quota_period"), "0");
}

#[tokio::test]
async fn one_that_dies_again_gets_another_letter_here_and_at_the_broker() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, _) = app.project("dies again").await;
    let (first, id) = app.dead(&project, "deploy.begin", json!({ "A": "b" })).await;
    app.fail(&format!("deploy.begin@{project}")).await;
    assert_eq!(app.redrive(&first, json!({})).await.status(), 202);
    assert_eq!(app.until_final(&id).await["status"], "failed");
    let second = app.letter_of(&id).await;
    assert_ne!(first, second);
    assert_eq!(app.letters().await.len(), 2, "none is taken for a copy of the other");
    let starts =
        format!("SELECT count(*) FROM deployment_event WHERE kind = 'started' AND deployment_id = '{id}'");
    assert_eq!(app.one(&starts), "6", "three attempts each time");
    app.quota_balances();
    app.release(&format!("deploy.begin@{project}")).await;
    assert_eq!(app.redrive(&second, json!({ "from": "start" })).await.status(), 202);
    assert_eq!(app.until_final(&id).await["status"], "completed");
    app.quota_balances();
}

#[tokio::test]
async fn what_a_newer_one_has_overtaken_and_what_the_plan_has_not_left_are_refused() {
    let app = TestApp::start_with(&quick(&[("LIBRA__QUOTA__DEPLOYMENTS_PER_MONTH", "1")])).await;
    let (project, worker) = app.project("overtaken").await;
    let (free, _) = app.project("plan").await;
    let (old, old_id) = app.dead(&project, "deploy.begin", json!({})).await;
    let (planless, planless_id) = app.dead(&free, "deploy.begin", json!({})).await;
    app.deploy_live(&app.body(&project, &[("index.html", "newer")])).await;
    let before = app.rows("SELECT id, status, redrives, ring FROM deployment ORDER BY id");

    let refused = assert_problem(app.redrive(&old, json!({})).await, 409, "CONFLICT").await;
    assert!(refused["message"].as_str().unwrap().contains("superseded by a newer one"), "{refused}");
    assert_problem(app.redrive(&planless, json!({})).await, 429, "QUOTA_EXCEEDED").await;
    let order = json!({ "filter": { "class": "exhausted" }, "rate": 10 });
    let (_, done) = app.post("/api/v1/dead-letters/redrive", &order).await;
    let skipped: BTreeSet<(&str, &str)> = done["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| (s["id"].as_str().unwrap(), s["why"].as_str().unwrap()))
        .collect();
    let expected = BTreeSet::from([(old.as_str(), "superseded"), (planless.as_str(), "quota_exceeded")]);
    assert_eq!(skipped, expected);
    assert_eq!(app.rows("SELECT id, status, redrives, ring FROM deployment ORDER BY id"), before);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "newer");
    for id in [old_id, planless_id] {
        assert_eq!(app.status(&id).await["status"], "failed");
    }
    app.quota_balances();
}

#[tokio::test]
async fn a_group_is_driven_anew_at_its_rate() {
    let app = TestApp::start_with(&quick(&[])).await;
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        let (project, _) = app.project(name).await;
        ids.push(app.dead(&project, "deploy.begin", json!({})).await.1);
    }
    let (_, groups) = app.get("/api/v1/dead-letters?group=fingerprint").await;
    let group = &groups["groups"][0];
    assert_eq!((groups["groups"].as_array().unwrap().len(), &group["count"]), (1, &json!(3)), "{groups:#}");
    let kind = group["fingerprint"].as_str().unwrap();

    let printed = app.cli(&["dlq", "redrive", "--group", kind, "--rate", "2", "--json"]);
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let done: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!((&done["redriven"], &done["skipped"]), (&json!(3), &json!([])), "{done}");
    for id in &ids {
        assert_eq!(app.until_final(id).await["status"], "completed");
    }
    let due = |id: &String| {
        let sql = format!("SELECT due_at FROM deployment WHERE id = '{id}'");
        app.one(&sql).parse::<i64>().unwrap()
    };
    // The oldest first, half a second apart, but for what reading the clock takes.
    let due: Vec<i64> = ids.iter().map(due).collect();
    for pair in due.windows(2) {
        assert!((450..=600).contains(&(pair[1] - pair[0])), "{due:?}");
    }
    // None was begun before its time.
    let early = "SELECT count(*) FROM deployment_attempt a JOIN deployment d ON d.id = a.deployment_id \
                 WHERE a.generation = 1 AND a.started_at < d.due_at";
    assert_eq!(app.one(early), "0");
    assert_eq!(app.get("/api/v1/dead-letters").await.1, json!({ "deadLetters": [] }));
    app.quota_balances();
}
