//! The same request sent twice, one after another and at once.

use std::collections::HashSet;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::api_deploy::balance;
use crate::app::{TestApp, answer};
use crate::blocked;
use crate::failing::quick;
use crate::tenants::Member;

async fn post(app: &TestApp, key: Option<&str>, body: &Value) -> (StatusCode, Value) {
    let mut request = app.request(Method::POST, "/deploy");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    answer(request.json(body).send().await.unwrap()).await
}

fn id(answer: &(StatusCode, Value)) -> String {
    assert_eq!(answer.0, 202, "{}", answer.1);
    answer.1["deploymentId"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_key_is_one_deployment_also_when_ten_race() {
    let app = TestApp::start().await;
    let (project, _) = app.project("keyed").await;
    let body = app.body(&project, &[("index.html", "x")]);
    let answers = join_all((0..10).map(|_| post(&app, Some("race"), &body))).await;
    let ids: HashSet<String> = answers.iter().map(id).collect();
    assert_eq!(ids.len(), 1, "{answers:?}");
    let first = ids.into_iter().next().unwrap();
    assert_eq!(app.rows("select id from deployment"), [[first.as_str()]]);
    assert_eq!(app.rows("select count(*) from quota_entry"), [["1"]]);
    app.until_final(&first).await;

    // Written in another order it is the same body; it stands for what the deployment is now.
    let text = format!(
        r#"{{ "initFiles": [{{"content":"x","path":"index.html"}}], "userId":"{}","orgId":"{}",   "projectId":"{project}" }}"#,
        app.user, app.org
    );
    let request = app.request(Method::POST, "/deploy").header("idempotency-key", "race");
    let again = request.header("content-type", "application/json").body(text).send().await.unwrap();
    let again = answer(again).await;
    assert_eq!((id(&again), &again.1["status"]), (first.clone(), &json!("completed")));

    let other = app.body(&project, &[("index.html", "y")]);
    let conflict = app.request(Method::POST, "/deploy").header("idempotency-key", "race").json(&other);
    assert_problem(conflict.send().await.unwrap(), 409, "CONFLICT").await;
    // Another credential's key is another key.
    let colleague = Member::token(&app, &app.org, &app.user, &[]);
    let request =
        colleague.request(&app, Method::POST, "/deploy").header("idempotency-key", "race").json(&other);
    assert_ne!(id(&answer(request.send().await.unwrap()).await), first);
    // Errors are not remembered: the key is free for the mended request.
    let mut wrong = body.clone();
    wrong["projectId"] = json!("f".repeat(32));
    assert_eq!(post(&app, Some("mended"), &wrong).await.0, 404);
    wrong["initFiles"] = json!([]);
    assert_eq!(post(&app, Some("mended"), &wrong).await.0, 400);
    assert_ne!(id(&post(&app, Some("mended"), &body).await), first);
    // A race of two bodies for one key has one winner.
    let (a, b) = tokio::join!(post(&app, Some("two"), &body), post(&app, Some("two"), &other));
    let mut statuses = [a.0.as_u16(), b.0.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409], "{a:?} {b:?}");
    let open = "select count(*) from deployment where finished_at is null";
    app.wait("all have ended", async || app.rows(open) == [["0"]]).await;
    balance(&app);
}

#[tokio::test]
async fn without_a_key_the_newest_supersedes_what_waits() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("newest").await;
    let running = blocked::start(&app, &blocked::body(&app, &project, "")).await;
    let body = app.body(&project, &[("index.html", "same")]);
    let (a, b) = tokio::join!(post(&app, None, &body), post(&app, None, &body));
    let (a, b) = (id(&a), id(&b));
    assert_ne!(a, b);
    let seq = |id: &str| {
        app.rows(&format!("select seq from deployment where id = '{id}'"))[0][0].parse::<i64>().unwrap()
    };
    let (older, newer) = if seq(&a) < seq(&b) { (a, b) } else { (b, a) };
    let ended = app.until_final(&older).await;
    assert_eq!((&ended["status"], &ended["cancelReason"]), (&json!("cancelled"), &json!("superseded")));
    assert!(ended["steps"].as_object().unwrap().values().all(|s| s["status"] == "skipped"), "{ended:#}");
    let waiting = app.status(&newer).await;
    assert_eq!(
        (&waiting["status"], &waiting["attempt"], &waiting["progress"]),
        (&json!("queued"), &json!(0), &json!(0))
    );
    assert_eq!(
        app.rows(&format!("select state from quota_entry where deployment_id = '{older}'")),
        [["released"]]
    );

    // supersede=false leaves those that wait where they are; another target is another line.
    let mut kept = app.body(&project, &[("index.html", "kept")]);
    kept["supersede"] = json!(false);
    let last = id(&post(&app, None, &kept).await);
    let mut preview = app.body(&project, &[("index.html", "preview")]);
    preview["target"] = json!("preview");
    let preview = id(&post(&app, None, &preview).await);
    assert_eq!(app.until_final(&preview).await["status"], "completed", "previews do not wait for production");
    assert_eq!(app.status(&newer).await["status"], "queued");
    assert_eq!(app.status(&running).await["status"], "in_progress", "what runs is not superseded");

    blocked::end(&app, &running).await;
    assert_eq!(app.until_final(&newer).await["status"], "completed");
    assert_eq!(app.until_final(&last).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "kept");
    balance(&app);
}

#[tokio::test]
async fn one_key_is_one_change_of_what_is_live_also_when_ten_race() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("live by key").await;
    let mut versions = Vec::new();
    for page in ["one", "two", "three", "four"] {
        versions.push(app.deploy_live(&app.body(&project, &[("index.html", page)])).await);
    }
    let order = async |method: Method, order: &str, key: &str, body: &Value| {
        let path = format!("/api/v1/projects/{project}/{order}");
        let request = app.request(method, &path).header("idempotency-key", key);
        request.json(body).send().await.unwrap()
    };
    let page = async || app.worker(&worker, "/").await.text().await.unwrap();
    // Without a version each one would go further back.
    let racing = join_all(
        (0..10).map(|_| async { answer(order(Method::POST, "rollback", "back", &json!({})).await).await }),
    );
    let answers = racing.await;
    assert!(answers.iter().all(|(status, said)| *status == 200 && *said == answers[0].1), "{answers:?}");
    assert_eq!(page().await, "three");
    let first = &answers[0].1;
    assert_eq!(
        (&first["before"]["versionId"], &first["now"]["versionId"]),
        (&json!(versions[3]), &json!(versions[2]))
    );

    // Sent again after something else went live it says what it did, and does it not again.
    let split = json!({ "versionId": versions[0], "percent": 30 });
    let (status, divided) = answer(order(Method::PUT, "split", "divide", &split).await).await;
    assert_eq!(status, 200, "{divided}");
    let promote = json!({ "versionId": versions[1] });
    let (status, promoted) = answer(order(Method::POST, "promote", "forth", &promote).await).await;
    assert_eq!(status, 200, "{promoted}");
    assert_eq!(promoted["before"], json!({ "versionId": versions[2], "split": split }));
    let again = [
        (order(Method::POST, "rollback", "back", &json!({})).await, first),
        (order(Method::PUT, "split", "divide", &split).await, &divided),
        (order(Method::POST, "promote", "forth", &promote).await, &promoted),
    ];
    for (response, before) in again {
        assert_eq!(&answer(response).await, &(StatusCode::OK, before.clone()));
    }
    assert_eq!(page().await, "two");
    assert_eq!(app.one("SELECT count(*) FROM live_change"), "3");

    // Another order, another project and a deployment are each something else.
    let other = json!({ "versionId": versions[0] });
    assert_problem(order(Method::POST, "promote", "forth", &other).await, 409, "CONFLICT").await;
    assert_problem(order(Method::POST, "rollback", "forth", &promote).await, 409, "CONFLICT").await;
    let deployment = app.request(Method::POST, "/deploy").header("idempotency-key", "forth");
    let deployment = deployment.json(&app.body(&project, &[("index.html", "five")]));
    assert_problem(deployment.send().await.unwrap(), 409, "CONFLICT").await;
    let spaces = order(Method::POST, "rollback", "a key", &json!({})).await;
    assert_problem(spaces, 400, "INVALID_REQUEST").await;
    // Errors are not remembered.
    let live = json!({ "versionId": versions[1] });
    assert_problem(order(Method::POST, "promote", "later", &live).await, 409, "CONFLICT").await;
    assert_eq!(order(Method::POST, "promote", "later", &other).await.status(), 200);
    assert_eq!(page().await, "one");
}
