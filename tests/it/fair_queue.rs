//! The queue from outside: whose turn it is, what is shown of it, and what goes wrong with grants.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{TestApp, answer};
use crate::failing::quick;
use crate::tenants::{Member, printed};

/// One deployment at a time, which waits where it begins.
const ONE_HELD: &[(&str, &str)] =
    &[("LIBRA__PIPELINE__CONCURRENCY", "1"), ("LIBRA__TESTING__HOLD", "validate.begin")];

/// A deployment of a project of its own; its id and where it stands.
async fn queued(app: &TestApp, name: &str, more: Value) -> (String, Value) {
    let (project, _) = app.project(name).await;
    let mut body = app.body(&project, &[("index.html", name)]);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let (status, answer) = app.post("/deploy", &body).await;
    assert_eq!(status, 202, "{answer}");
    (answer["deploymentId"].as_str().unwrap().to_owned(), answer["queue"].clone())
}

/// The same of another organization.
async fn queued_of(app: &TestApp, member: &Member, name: &str) -> (String, Value) {
    let project = member.project(app, name).await;
    let request = member.request(app, Method::POST, "/deploy").json(&member.body(&project));
    let (status, answer) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 202, "{answer}");
    (answer["deploymentId"].as_str().unwrap().to_owned(), answer["queue"].clone())
}

/// Ahead and reason, without the guess at the time.
fn standing(queue: &Value) -> (u64, &str) {
    (queue["ahead"].as_u64().unwrap(), queue["reason"].as_str().unwrap_or("none"))
}

/// When an event of a deployment came.
fn at(app: &TestApp, id: &str, kind: &str) -> i64 {
    let sql = "SELECT at FROM deployment_event WHERE deployment_id =";
    app.one(&format!("{sql} '{id}' AND kind = '{kind}' ORDER BY seq LIMIT 1")).parse().unwrap()
}

#[tokio::test]
async fn an_idle_system_starts_a_deployment_at_once_and_says_so() {
    // No tick rings it: the doorbell does.
    let slow = [("LIBRA__SWEEP__INTERVAL_MS", "600000"), ("LIBRA__QUEUE__LOOK_MS", "50")];
    let app = TestApp::start_with(&slow).await;
    let mut waits = Vec::new();
    for name in ["first", "second", "third"] {
        let (id, queue) = queued(&app, name, json!({})).await;
        assert!(queue.is_null() || queue == json!({ "position": 1, "ahead": 0 }), "{queue}");
        let document = app.until_final(&id).await;
        assert_eq!(document["status"], "completed", "{document:#}");
        assert!(document["queue"].is_null(), "{document:#}");
        waits.push(at(&app, &id, "started") - at(&app, &id, "queued"));
    }
    waits.sort_unstable();
    assert!(waits[0] < 500, "{waits:?} ms");
}

#[tokio::test]
async fn a_quiet_organization_is_served_before_the_rest_of_a_hogs_line() {
    let two = [("LIBRA__PIPELINE__CONCURRENCY", "2"), ("LIBRA__TESTING__HOLD", "validate.begin")];
    let app = TestApp::start_with(&quick(&two)).await;
    let quiet = Member::of_new_organization(&app, "quiet");
    let names: Vec<String> = (0..100).map(|n| format!("hog {n}")).collect();
    let first = queued(&app, "hog first", json!({})).await.0;
    app.until_held(&first, "validate").await;
    let posts = join_all(names.iter().map(|name| queued(&app, name, json!({ "target": "production" }))));
    let hogs: Vec<(String, Value)> = posts.await;
    let (id, shown) = queued_of(&app, &quiet, "quiet").await;
    let (ahead, reason) = standing(&shown);
    assert!(ahead <= 1 && reason == "slots_busy", "{shown}");
    let public = app.http.get(format!("http://{}/deploy-status?id={id}", app.server.address));
    let text = public.send().await.unwrap().text().await.unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(standing(&document["queue"]), (ahead, "slots_busy"), "{document:#}");
    let of_others = [&app.org, &hogs[0].0, &first, &quiet.org];
    assert!(of_others.iter().all(|word| !text.contains(word.as_str())), "{text}");
    let newest =
        format!("SELECT id FROM deployment WHERE org_id = '{}' ORDER BY due_at DESC LIMIT 1", app.org);
    let last = app.until(&app.one(&newest), |d| d["queue"]["ahead"].as_u64() >= Some(90)).await;
    assert_eq!(last["queue"]["position"].as_u64().unwrap(), last["queue"]["ahead"].as_u64().unwrap() + 1);
    app.release("validate.begin").await;
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    let between = format!(
        "SELECT count(*) FROM deployment_event WHERE kind = 'started' AND at > {} AND at < {} AND deployment_id <> '{id}'",
        at(&app, &id, "queued"),
        at(&app, &id, "started"),
    );
    // Two ran when it came, and one turn of the hog may come before its own.
    let before: u64 = app.one(&between).parse().unwrap();
    assert!(before <= 2, "{before} of the hog's started while it waited");
}

#[tokio::test]
async fn what_a_deployment_waits_for_is_named_and_when_it_starts() {
    let app = TestApp::start_with(&quick(&[
        ("LIBRA__PIPELINE__CONCURRENCY", "1"),
        ("LIBRA__QUEUE__LOOK_MS", "50"),
    ]))
    .await;
    let (project, _) = app.project("main").await;
    // From this one it is known how long they take.
    app.deploy_live(&app.body(&project, &[("index.html", "first")])).await;
    app.hold("validate.begin").await;
    let running = app.deploy(&app.body(&project, &[("index.html", "second")])).await;
    app.until_held(&running, "validate").await;
    let behind = app.deploy(&app.body(&project, &[("index.html", "third")])).await;
    let mut body = app.body(&project, &[("index.html", "fourth")]);
    body["supersede"] = json!(false);
    let last = app.deploy(&body).await;
    let (other, _) = queued(&app, "other", json!({ "target": "preview" })).await;
    for (id, reason) in [(&behind, "project_busy"), (&last, "project_busy"), (&other, "slots_busy")] {
        let document =
            app.until(id, |d| d["queue"]["reason"] == reason && d["queue"]["eta"].is_object()).await;
        let eta = |key: &str| document["queue"]["eta"][key].as_str().unwrap().to_owned();
        assert!(eta("earliest") <= eta("startsAt") && eta("startsAt") <= eta("latest"), "{document:#}");
    }
    app.release("validate.begin").await;
    for id in [&running, &behind, &last, &other] {
        assert_eq!(app.until_final(id).await["status"], "completed");
    }
    app.quota_balances();
}

#[tokio::test]
async fn limits_and_weights_are_an_operators_to_set() {
    let three = [
        ("LIBRA__PIPELINE__CONCURRENCY", "3"),
        ("LIBRA__TESTING__HOLD", "validate.begin"),
        ("LIBRA__QUEUE__LOOK_MS", "50"),
    ];
    let app = TestApp::start_with(&quick(&three)).await;
    let path = format!("/api/v1/organizations/{}/queue", app.org);
    let (status, shown) = app.get(&path).await;
    assert_eq!((status.as_u16(), &shown), (200, &json!({ "orgId": app.org, "weight": 1 })));
    let put = async |path: &str, body: Value| {
        answer(app.request(Method::PUT, path).json(&body).send().await.unwrap()).await
    };
    let (status, shown) = put(&path, json!({ "weight": 3, "runningLimit": 1 })).await;
    assert_eq!((status.as_u16(), &shown["weight"], &shown["runningLimit"]), (200, &json!(3), &json!(1)));
    for (wrong, field) in [
        (json!({ "weight": 0 }), "weight"),
        (json!({ "weight": 101 }), "weight"),
        (json!({ "runningLimit": "1" }), "runningLimit"),
        (json!({ "projectLimit": 0 }), "projectLimit"),
        (json!({ "limit": 1 }), "limit"),
    ] {
        let (status, told) = put(&path, wrong).await;
        assert_eq!((status.as_u16(), told["details"][0]["field"].as_str()), (400, Some(field)), "{told}");
    }
    let (status, _) = put("/api/v1/organizations/00000000000000000000000000000000/queue", json!({})).await;
    assert_eq!(status, 404);
    let tenant = Member::of_new_organization(&app, "tenant");
    let theirs = format!("/api/v1/organizations/{}/queue", tenant.org);
    for (asked, expected) in [(&theirs, 403), (&path, 404)] {
        for method in [Method::GET, Method::PUT] {
            let request = tenant.request(&app, method, asked).json(&json!({}));
            assert_eq!(request.send().await.unwrap().status(), expected, "{asked}");
        }
    }

    let (one, _) = queued(&app, "one", json!({})).await;
    app.until_held(&one, "validate").await;
    let (two, _) = queued(&app, "two", json!({})).await;
    app.until(&two, |d| d["queue"]["reason"] == "organization_limit").await;
    // Another organization has the free slots.
    let (theirs, _) = queued_of(&app, &tenant, "theirs").await;
    app.until_held(&theirs, "validate").await;
    let set = printed(&app, &["orgs", "set", &app.org, "--running-limit", "2", "--json"]);
    assert_eq!(set, json!({ "orgId": app.org, "weight": 3, "runningLimit": 2, "projectLimit": null }));
    app.until_held(&two, "validate").await;
    let refused = app.cli(&["orgs", "set", &app.org]);
    assert_eq!(refused.status.code(), Some(2), "nothing to set");
    app.release("validate.begin").await;
    for id in [&one, &two, &theirs] {
        assert_eq!(app.until_final(id).await["status"], "completed");
    }
}

#[tokio::test]
async fn two_servers_share_what_there_is_and_grant_no_slot_twice() {
    let settings = quick(ONE_HELD);
    let app = TestApp::start_with(&settings).await;
    let _second = app.folder.serve(&settings);
    app.wait("both build", async || app.one("SELECT count(*) FROM builder_node") == "2").await;
    let names = ["a", "b", "c", "d", "e"];
    let deployed = join_all(names.iter().map(|name| queued(&app, name, json!({})))).await;
    let owners =
        "SELECT count(DISTINCT substr(lease_owner, 1, 32)) FROM deployment WHERE status = 'in_progress'";
    app.wait("both have one", async || app.one(owners) == "2").await;
    let granted = "SELECT count(*) FROM queue_grant g JOIN deployment d ON d.id = g.deployment_id WHERE d.status = 'queued'";
    assert_eq!(app.one(granted), "0", "no more than there are slots");
    assert_eq!(
        app.one("SELECT count(*) FROM deployment WHERE status = 'queued' AND rung_at IS NOT NULL"),
        "0"
    );
    for (id, _) in &deployed {
        let running = app.status(id).await["status"] == "in_progress";
        app.until(id, |d| running || d["queue"]["reason"] == "slots_busy").await;
    }
    for operator in [&app.server.operator, &_second.operator] {
        let url = format!("http://{operator}/testing/release/validate.begin");
        assert_eq!(app.http.post(url).send().await.unwrap().status(), 202);
    }
    for (id, _) in &deployed {
        let document = app.until_final(id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("completed"), &json!(1)),
            "{document:#}"
        );
        assert_eq!(app.switches(id), "1");
    }
    app.quota_balances();
}

#[tokio::test]
async fn a_grant_whose_server_died_before_it_rang_costs_its_slot_for_a_moment() {
    let brief = [ONE_HELD, &[("LIBRA__QUEUE__GRANT_SECONDS", "1"), ("LIBRA__QUEUE__LOOK_MS", "50")]].concat();
    let app = TestApp::start_with(&quick(&brief)).await;
    let (first, _) = queued(&app, "first", json!({})).await;
    app.until_held(&first, "validate").await;
    let (lost, _) = queued(&app, "lost", json!({})).await;
    let (next, _) = queued(&app, "next", json!({})).await;
    app.until(&next, |d| d["queue"]["reason"] == "slots_busy").await;
    let now: i64 = app
        .one(&format!("SELECT max(at) FROM deployment_event WHERE deployment_id = '{next}'"))
        .parse()
        .unwrap();
    // As a server leaves it that is killed between its grant and its ring, some time from now.
    let ahead = now + 20_000;
    app.change(&format!(
        "INSERT INTO queue_grant (deployment_id, ring, fence, granted_at) VALUES ('{lost}', 1, 0, {ahead})"
    ));
    app.release("validate.begin").await;
    assert_eq!(app.until_final(&first).await["status"], "completed");
    // The grant has the only slot: the other one waits although nothing runs.
    assert_eq!(standing(&app.status(&next).await["queue"]), (0, "slots_busy"));
    assert_eq!(app.status(&lost).await["queue"], json!({ "position": 1, "ahead": 0 }));
    app.change(&format!("UPDATE queue_grant SET granted_at = {now} WHERE deployment_id = '{lost}'"));
    for id in [&lost, &next] {
        assert_eq!(app.until_final(id).await["status"], "completed");
    }
    assert!(at(&app, &lost, "started") <= at(&app, &next, "started"), "what is owed comes first");
    app.wait("spent grants are forgotten", async || app.one("SELECT count(*) FROM queue_grant") == "0").await;
}

#[tokio::test]
async fn what_an_older_release_rings_is_worked_on_and_holds_up_nobody() {
    let app = TestApp::start_with(&quick(ONE_HELD)).await;
    let (first, _) = queued(&app, "first", json!({})).await;
    app.until_held(&first, "validate").await;
    let (rung, _) = queued(&app, "rung", json!({})).await;
    let (next, _) = queued(&app, "next", json!({})).await;
    // It rings everything that is due, asks for no grant and reports no builder.
    let (project, user): (String, String) = {
        let row = app.rows(&format!("SELECT project_id, user_id FROM deployment WHERE id = '{rung}'"));
        (row[0][0].clone(), row[0][1].clone())
    };
    let job = json!({ "version": 1, "deploymentId": rung, "params": { "projectId": project, "orgId": app.org, "userId": user,
        "target": "production", "ring": 1 }, "metadata": { "timestamp": "2026-01-01T00:00:00Z", "retryCount": 0, "priority": 1 } });
    let context = async_nats::jetstream::new(crate::failing::broker(&app.folder).await);
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{rung}.1").as_str());
    let subject = format!("deployment.jobs.{}", app.org);
    let stored =
        context.publish_with_headers(subject, headers, job.to_string().into()).await.unwrap().await.unwrap();
    let sequence = stored.sequence;
    let now = at(&app, &next, "queued");
    app.change(&format!(
        "UPDATE deployment SET rung_at = {now}, ring_sequence = {sequence} WHERE id = '{rung}'"
    ));
    app.release("validate.begin").await;
    for id in [&first, &rung, &next] {
        let document = app.until_final(id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("completed"), &json!(1)),
            "{document:#}"
        );
        assert_eq!(app.switches(id), "1");
    }
}
