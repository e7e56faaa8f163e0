//! What is live, by hand: rollback, promotion, split, in whatever order deployments finish.

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::app::{TestApp, answer};
use crate::failing::quick;
use crate::tenants::Member;

async fn page(app: &TestApp, label: &str) -> String {
    let response = app.worker(label, "/").await;
    assert_eq!(response.status(), 200, "{label}");
    response.text().await.unwrap()
}

/// A project with these pages deployed one after another: its id, Worker, and versions.
async fn deployed(app: &TestApp, name: &str, pages: &[&str]) -> (String, String, Vec<String>) {
    let (project, worker) = app.project(name).await;
    let mut versions = Vec::new();
    for page in pages {
        versions.push(app.deploy_live(&app.body(&project, &[("index.html", page)])).await);
    }
    (project, worker, versions)
}

async fn change(app: &TestApp, method: Method, project: &str, what: &str, body: Value) -> Value {
    let path = format!("/api/v1/projects/{project}/{what}");
    let request = app.request(method, &path);
    let request = if body.is_null() { request } else { request.json(&body) };
    let (status, document) = answer(request.send().await.unwrap()).await;
    assert_eq!(status, 200, "{what}: {document}");
    assert_eq!(document["visible"], true, "{document}");
    document
}

async fn rollback(app: &TestApp, project: &str, to: Option<&str>) -> Value {
    let body = to.map_or(Value::Null, |id| json!({ "versionId": id }));
    change(app, Method::POST, project, "rollback", body).await
}

async fn promote(app: &TestApp, project: &str, version: &str) -> Value {
    change(app, Method::POST, project, "promote", json!({ "versionId": version })).await
}

async fn refused(app: &TestApp, method: Method, project: &str, what: &str, body: Value) -> String {
    let path = format!("/api/v1/projects/{project}/{what}");
    let request = app.request(method, &path);
    let request = if body.is_null() { request } else { request.json(&body) };
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let code = match status {
        404 => "DEPLOYMENT_NOT_FOUND",
        _ => "CONFLICT",
    };
    assert_problem(response, status, code).await["message"].as_str().unwrap().to_owned()
}

async fn versions(app: &TestApp, project: &str) -> Vec<Value> {
    let (status, page) = app.get(&format!("/api/v1/projects/{project}/versions?limit=100")).await;
    assert_eq!(status, 200, "{page}");
    page["versions"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_rollback_is_served_when_it_is_answered_and_goes_further_back_each_time() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, ids) = deployed(&app, "back", &["one", "two", "three"]).await;
    let done = rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "two");
    assert_eq!(done["before"], json!({ "versionId": ids[2] }));
    assert_eq!(done["now"], json!({ "versionId": ids[1] }));
    assert_eq!(done["seq"], 4);
    rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "one");
    assert!(refused(&app, Method::POST, &project, "rollback", Value::Null).await.contains("No version"));

    // What is deployed now goes live; before it was one, whatever was rolled back from.
    app.deploy_live(&app.body(&project, &[("index.html", "four")])).await;
    assert_eq!(page(&app, &worker).await, "four");
    rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "one");
    // By name to any that was live.
    rollback(&app, &project, Some(&ids[2])).await;
    assert_eq!(page(&app, &worker).await, "three");
    rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "two");
    let live: Vec<Value> = versions(&app, &project).await.into_iter().filter(|v| v["live"] == true).collect();
    assert_eq!(live.len(), 1);
    assert_eq!(live[0]["id"], ids[1].as_str());
    app.quota_balances();
}

#[tokio::test]
async fn a_rollback_is_not_undone_by_what_was_recorded_before_it() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, ids) = deployed(&app, "late", &["one", "two"]).await;
    let point = format!("deploy.switch@{project}");
    app.hold(&point).await;
    let late = app.deploy(&app.body(&project, &[("index.html", "late")])).await;
    app.until_held(&late, "deploy").await;
    let waiting = app.deploy(&app.body(&project, &[("index.html", "waiting")])).await;
    rollback(&app, &project, None).await;
    // What only waits is told at once that it can't go live any more.
    let document = app.until_final(&waiting).await;
    assert_eq!(
        (&document["status"], &document["cancelReason"]),
        (&"cancelled".into(), &"superseded".into()),
        "{document:#}"
    );
    app.release(&point).await;
    let document = app.until_final(&late).await;
    assert_eq!(
        (&document["status"], &document["cancelReason"]),
        (&"cancelled".into(), &"superseded".into()),
        "{document:#}"
    );
    assert_eq!(app.switches(&late), "0");
    assert_eq!(page(&app, &worker).await, "one");
    app.deploy_live(&app.body(&project, &[("index.html", "after")])).await;
    assert_eq!(page(&app, &worker).await, "after");
    // The late one is kept all the same and can be promoted.
    promote(&app, &project, &late).await;
    assert_eq!(page(&app, &worker).await, "late");
    assert_eq!(app.one(&format!("SELECT live_seq FROM project_target WHERE project_id = '{project}'")), "7");
    assert!(ids.iter().all(|id| app.switches(id) == "1"));
    app.quota_balances();
}

#[tokio::test]
async fn a_deployment_that_is_rolled_back_from_before_it_has_ended_is_completed() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, _) = deployed(&app, "overtaken", &["one"]).await;
    let point = format!("deploy.end@{project}");
    app.fail(&point).await;
    let second = app.deploy(&app.body(&project, &[("index.html", "two")])).await;
    app.until(&second, |d| d["attempt"] == 1 && d["status"] == "queued").await;
    assert_eq!(page(&app, &worker).await, "two");
    rollback(&app, &project, None).await;
    app.release(&point).await;
    let document = app.until_final(&second).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    assert_eq!(app.switches(&second), "1");
    assert_eq!(page(&app, &worker).await, "one");
    app.quota_balances();
}

#[tokio::test]
async fn a_previews_version_is_promoted_also_as_the_first_that_is_live() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("drafts").await;
    let mut body = app.body(&project, &[("index.html", "draft")]);
    body["target"] = json!("preview");
    let draft = app.deploy_live(&body).await;
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    let none = refused(&app, Method::POST, &project, "rollback", Value::Null).await;
    assert!(none.contains("Nothing is live"), "{none}");
    let done = promote(&app, &project, &draft).await;
    assert_eq!((&done["before"], &done["now"]), (&json!({}), &json!({ "versionId": draft })));
    assert_eq!(page(&app, &worker).await, "draft");
    assert_eq!(page(&app, &format!("{}--{worker}", &draft[..12])).await, "draft");
    app.deploy_live(&app.body(&project, &[("index.html", "built")])).await;
    assert_eq!(page(&app, &worker).await, "built");
    rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "draft");
}

#[tokio::test]
async fn a_split_is_in_force_until_it_is_ended_or_something_goes_live() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, ids) = deployed(&app, "shared", &["one", "two"]).await;
    let split = |version: &str, percent: u64| json!({ "versionId": version, "percent": percent });
    let done = change(&app, Method::PUT, &project, "split", split(&ids[0], 30)).await;
    let shared = json!({ "versionId": ids[1], "split": { "versionId": ids[0], "percent": 30 } });
    assert_eq!(done["now"], shared);
    assert!(matches!(page(&app, &worker).await.as_str(), "one" | "two"));
    let list = versions(&app, &project).await;
    let first = list.iter().find(|v| v["id"] == ids[0].as_str()).unwrap();
    assert_eq!((&first["live"], &first["splitPercent"]), (&json!(false), &json!(30)));

    let done = change(&app, Method::PUT, &project, "split", split(&ids[0], 99)).await;
    assert_eq!(done["before"], shared);
    let done = change(&app, Method::DELETE, &project, "split", Value::Null).await;
    assert_eq!(done["now"], json!({ "versionId": ids[1] }));
    assert_eq!(page(&app, &worker).await, "two");
    assert!(refused(&app, Method::DELETE, &project, "split", Value::Null).await.contains("No split"));

    // Ending takes no number, so what is on its way still goes live; and going live ends a split.
    change(&app, Method::PUT, &project, "split", split(&ids[0], 50)).await;
    app.deploy_live(&app.body(&project, &[("index.html", "three")])).await;
    for _ in 0..20 {
        assert_eq!(page(&app, &worker).await, "three");
    }
    assert!(refused(&app, Method::DELETE, &project, "split", Value::Null).await.contains("No split"));
    // The end of a trial: what a part had, all have.
    change(&app, Method::PUT, &project, "split", split(&ids[1], 50)).await;
    let done = promote(&app, &project, &ids[1]).await;
    assert_eq!(done["before"]["split"]["percent"], 50);
    assert_eq!(done["now"], json!({ "versionId": ids[1] }));
    for _ in 0..20 {
        assert_eq!(page(&app, &worker).await, "two");
    }
}

#[tokio::test]
async fn what_is_live_or_in_a_split_is_never_retired() {
    let app = TestApp::start_with(&quick(&[("LIBRA__VERSIONS__RETAINED", "1")])).await;
    let (project, worker, mut ids) = deployed(&app, "kept", &["one", "two"]).await;
    change(&app, Method::PUT, &project, "split", json!({ "versionId": ids[0], "percent": 1 })).await;
    for text in ["a", "b"] {
        let mut body = app.body(&project, &[("index.html", text)]);
        body["target"] = json!("preview");
        ids.push(app.deploy_live(&body).await);
    }
    let kept = async || {
        let list = versions(&app, &project).await;
        list.iter().map(|v| v["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The preview's newest is its target's live one; of the others one is kept.
    let is = kept().await;
    assert!(is.contains(&ids[0]) && is.contains(&ids[1]) && is.contains(&ids[3]), "{is:?} of {ids:?}");
    rollback(&app, &project, None).await;
    assert_eq!(page(&app, &worker).await, "one");
    for text in ["c", "d", "e"] {
        let mut body = app.body(&project, &[("index.html", text)]);
        body["target"] = json!("preview");
        app.deploy_live(&body).await;
    }
    let is = kept().await;
    assert!(is.contains(&ids[0]) && !is.contains(&ids[1]) && !is.contains(&ids[2]), "{is:?} of {ids:?}");
    assert_eq!(page(&app, &worker).await, "one");
    let gone = json!({ "versionId": ids[1] });
    for what in ["rollback", "promote"] {
        assert!(refused(&app, Method::POST, &project, what, gone.clone()).await.contains("not kept"));
    }
    let gone = app.worker(&format!("{}--{worker}", &ids[1][..12]), "/").await;
    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn orders_that_make_no_sense_are_refused_and_change_nothing() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, ids) = deployed(&app, "strict", &["one", "two"]).await;
    let (_, _, others) = deployed(&app, "another", &["other"]).await;
    let mut body = app.body(&project, &[("index.html", "draft")]);
    body["target"] = json!("preview");
    let draft = app.deploy_live(&body).await;
    let unknown = "0123456789ab4def8123456789abcdef";
    let is_live = json!({ "versionId": ids[1] });
    for (what, method, body, word) in [
        ("rollback", Method::POST, json!({ "versionId": draft }), "never live"),
        ("rollback", Method::POST, is_live.clone(), "live already"),
        ("promote", Method::POST, is_live, "live already"),
        ("split", Method::PUT, json!({ "versionId": ids[1], "percent": 5 }), "live already"),
        ("rollback", Method::POST, json!({ "versionId": unknown }), "Check versionId"),
        ("promote", Method::POST, json!({ "versionId": others[0] }), "Check versionId"),
        ("split", Method::PUT, json!({ "versionId": others[0], "percent": 5 }), "Check versionId"),
    ] {
        let said = refused(&app, method, &project, what, body.clone()).await;
        assert!(said.contains(word), "{what} {body}: {said}");
    }
    for (what, method, body) in [
        ("rollback", Method::POST, json!({ "versionId": "x" })),
        ("rollback", Method::POST, json!({ "version": ids[0] })),
        ("rollback", Method::POST, json!([])),
        ("promote", Method::POST, json!({})),
        ("split", Method::PUT, json!({ "versionId": ids[0] })),
        ("split", Method::PUT, json!({ "versionId": ids[0], "percent": 0 })),
        ("split", Method::PUT, json!({ "versionId": ids[0], "percent": 100 })),
        ("split", Method::PUT, json!({ "versionId": ids[0], "percent": 1.5 })),
        ("split", Method::PUT, json!({ "versionId": ids[0], "percent": "10" })),
    ] {
        let path = format!("/api/v1/projects/{project}/{what}");
        let response = app.request(method, &path).json(&body).send().await.unwrap();
        assert_problem(response, 400, "VALIDATION_ERROR").await;
    }
    let member = Member::of_new_organization(&app, "strangers");
    for (what, method, body) in [
        ("rollback", Method::POST, json!({})),
        ("promote", Method::POST, json!({ "versionId": ids[0] })),
        ("split", Method::PUT, json!({ "versionId": ids[0], "percent": 5 })),
        ("split", Method::DELETE, json!({})),
        ("versions", Method::GET, json!({})),
    ] {
        let path = format!("/api/v1/projects/{project}/{what}");
        let response = member.request(&app, method, &path).json(&body).send().await.unwrap();
        assert_problem(response, 404, "PROJECT_NOT_FOUND").await;
    }
    assert_eq!(page(&app, &worker).await, "two");
    assert_eq!(app.one("SELECT count(*) FROM live_change"), "0");
    let seq = format!(
        "SELECT last_seq FROM project_target WHERE project_id = '{project}' AND target = 'production'"
    );
    assert_eq!(app.one(&seq), "2");
}

#[tokio::test]
async fn orders_sent_to_two_servers_at_once_leave_one_state_that_both_serve() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let second = app.folder.serve(&settings);
    let (project, worker, ids) = deployed(&app, "raced", &["one", "two", "three"]).await;
    let mut orders = Vec::new();
    for round in 0..8 {
        for address in [&app.server.address, &second.address] {
            let version = &ids[round % ids.len()];
            let url = format!("http://{address}/api/v1/projects/{project}/promote");
            let body = json!({ "versionId": version });
            orders.push(app.http.post(url).bearer_auth(&app.token).json(&body).send());
        }
    }
    let mut seqs = Vec::new();
    for response in futures_util::future::join_all(orders).await {
        let (status, document) = answer(response.unwrap()).await;
        assert!(status == 200 || status == 409, "{document}");
        seqs.extend(document["seq"].as_i64());
    }
    seqs.sort_unstable();
    let expected: Vec<i64> = (4..4 + i64::try_from(seqs.len()).unwrap()).collect();
    assert_eq!(seqs, expected, "each number is given out once and none is lost");
    let last = app.one(&format!("SELECT live_version_id FROM project_target WHERE project_id = '{project}'"));
    let text = ["one", "two", "three"][ids.iter().position(|id| *id == last).unwrap()];
    for address in [&app.server.address, &second.address] {
        app.wait("both serve what is live", async || {
            let host = format!("{worker}.{}", crate::app::BASE);
            let answer =
                app.http.get(format!("http://{address}/")).header("host", host).send().await.unwrap();
            answer.text().await.unwrap() == text
        })
        .await;
    }
}

#[tokio::test]
async fn the_program_lists_versions_and_moves_what_is_live() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker, ids) = deployed(&app, "By Hand", &["one", "two"]).await;
    let run = |arguments: &[&str]| {
        let output = app.cli(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{complained}");
        said
    };
    for name in ["By Hand", &worker, &project] {
        let said = run(&["versions", name]);
        assert!(said.lines().count() == 2 && said.contains(&ids[0]) && said.contains("live"), "{said}");
    }
    let said = run(&["rollback", "By Hand"]);
    assert!(
        said.contains(&format!("was: {}", ids[1])) && said.contains(&format!("now: {}", ids[0])),
        "{said}"
    );
    assert_eq!(page(&app, &worker).await, "one");
    let said: Value = serde_json::from_str(&run(&["promote", &worker, &ids[1], "--json"])).unwrap();
    assert_eq!(said["now"]["versionId"], ids[1].as_str());
    assert!(run(&["split", &worker, &ids[0], "10"]).contains("for 10 % of the clients"));
    assert!(run(&["workers", "list"]).contains("split"));
    run(&["split", &worker, "--end"]);
    let lines = run(&["versions", &worker, "--json"]);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
    for (arguments, code) in [
        (&["rollback", "nobody's"][..], 2),
        (&["promote", &worker], 2),
        (&["split", &worker, &ids[0]], 2),
        (&["split", &worker, &ids[0], "100"], 2),
        (&["promote", &worker, &ids[1]], 1),
    ] {
        assert_eq!(app.cli(arguments).status.code(), Some(code), "{arguments:?}");
    }
}
