//! `POST /deploy` and `GET /deploy-status`, as their callers see them.

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::answers::{assert_problem, is_id, is_time, keys};
use crate::app::{TestApp, answer};

const STEPS: [&str; 6] = ["validate", "sync", "sandbox", "build", "deploy", "cleanup"];

/// As a stranger: no credential.
async fn public_status(app: &TestApp, query: &str) -> Response {
    app.http.get(format!("http://{}/deploy-status{query}", app.server.address)).send().await.unwrap()
}

#[tokio::test]
async fn a_deployment_is_accepted_followed_and_shown_in_the_contracts_shapes() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("shapes").await;
    let body = app.body(&project, &[("index.html", "<h1>shape</h1>")]);
    let response = app.request(Method::POST, "/deploy").json(&body).send().await.unwrap();
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert!(response.headers().contains_key("x-request-id"));
    let (status, accepted) = answer(response).await;
    assert_eq!(status, 202);
    assert_eq!(
        keys(&accepted),
        ["deploymentId", "message", "queue", "status", "success", "timestamp", "urls"]
    );
    assert_eq!(accepted["queue"], json!({ "position": 1, "ahead": 0 }));
    let id = accepted["deploymentId"].as_str().unwrap().to_owned();
    assert!(is_id(&id), "{id}");
    assert_eq!(accepted["success"], true);
    assert_eq!(accepted["status"], "queued");
    assert_eq!(accepted["message"], "Deployment queued successfully");
    assert!(is_time(&accepted["timestamp"]));
    assert_eq!(location, format!("/deploy-status?id={id}"));
    let port = app.server.address.rsplit(':').next().unwrap();
    let base = format!("http://libra.localhost:{port}");
    let preview = format!("http://{}--{worker}.libra.localhost:{port}", &id[..12]);
    let urls = json!({
        "status": format!("{base}/deploy-status?id={id}"),
        "logs": format!("{base}/api/v1/deployments/{id}/logs"),
        "preview": preview,
    });
    assert_eq!(accepted["urls"], urls);

    let ended = app.until_final(&id).await;
    let shown = public_status(&app, &format!("?id={id}")).await;
    assert_eq!(shown.headers()["cache-control"], "no-store");
    let (_, shown) = answer(shown).await;
    assert_eq!(shown, ended, "a stranger sees the same document");
    assert_eq!(
        keys(&shown),
        [
            "attempt",
            "currentStep",
            "deploymentId",
            "logs",
            "maxAttempts",
            "previewUrl",
            "progress",
            "status",
            "steps",
            "timestamp",
            "url"
        ]
    );
    assert_eq!((&shown["status"], &shown["progress"]), (&json!("completed"), &json!(100)));
    assert_eq!((&shown["attempt"], &shown["maxAttempts"]), (&json!(1), &json!(3)));
    assert_eq!(shown["url"], format!("http://{worker}.libra.localhost:{port}"));
    assert_eq!(shown["previewUrl"], preview);
    assert!(is_time(&shown["timestamp"]));
    let steps = shown["steps"].as_object().unwrap();
    assert_eq!(steps.len(), STEPS.len());
    for step in STEPS {
        let state = &steps[step];
        assert_eq!(keys(state), ["attempt", "finishedAt", "startedAt", "status", "timestamp"], "{step}");
        let expected = if step == "sandbox" { "skipped" } else { "completed" };
        assert_eq!((&state["status"], &state["attempt"]), (&json!(expected), &json!(1)), "{step}");
        assert!(is_time(&state["startedAt"]) && state["startedAt"].as_str() <= state["finishedAt"].as_str());
    }
    let logs = shown["logs"].as_array().unwrap();
    assert!(logs.len() > 6 && logs.len() <= 200 && logs.iter().all(Value::is_string), "{logs:?}");

    // The steps are entered in order, and progress says what is done before each.
    let events = app.request(Method::GET, &format!("/api/v1/deployments/{id}/events")).send().await.unwrap();
    let entered: Vec<(String, i64)> = crate::answers::events(&events.text().await.unwrap())
        .into_iter()
        .filter_map(|e| {
            Some((e.data["data"]["step"].as_str()?.to_owned(), e.data["data"]["progress"].as_i64()?))
        })
        .collect();
    let expected: Vec<(String, i64)> =
        STEPS.iter().map(|s| (*s).to_owned()).zip([5, 10, 30, 60, 80, 95]).collect();
    assert_eq!(entered, expected);

    for (query, status, code) in [
        ("", 400, "VALIDATION_ERROR"),
        ("?id=", 400, "VALIDATION_ERROR"),
        ("?id=nonsense", 404, "DEPLOYMENT_NOT_FOUND"),
        (&format!("?id={}", id.to_uppercase()), 404, "DEPLOYMENT_NOT_FOUND"),
        (&format!("?id={}", "0".repeat(32)), 404, "DEPLOYMENT_NOT_FOUND"),
    ] {
        assert_problem(public_status(&app, query).await, status, code).await;
    }
}

#[tokio::test]
async fn a_preview_goes_live_on_its_own_address_only() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("previewed").await;
    app.deploy_live(&app.body(&project, &[("index.html", "live")])).await;
    let mut body = app.body(&project, &[("index.html", "preview")]);
    body["target"] = json!("preview");
    let id = app.deploy_live(&body).await;
    let shown = app.status(&id).await;
    assert!(shown.get("url").is_none(), "{shown}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "live");
    let label = format!("{}--{worker}", &id[..12]);
    assert_eq!(app.worker(&label, "/").await.text().await.unwrap(), "preview");

    // A claim that is not proved holds nothing up; the site is live on its subdomain.
    let mut claimed = app.body(&project, &[("index.html", "claimed")]);
    claimed["customDomain"] = json!("shop.example.com");
    app.deploy_live(&claimed).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "claimed");
    assert_eq!(
        app.rows("select status from custom_domain where hostname = 'shop.example.com'"),
        [["pending"]]
    );

    // With neither files nor history the stored tree is deployed; history is replayed over it.
    let id = app.deploy_live(&json!({ "projectId": project, "orgId": app.org, "userId": app.user })).await;
    assert_eq!(app.status(&id).await["status"], "completed");
    let diff = json!({ "type": "diff", "diff": [
        { "type": "edit", "path": "index.html", "modified": "edited" },
        { "type": "create", "path": "new.html", "modified": "new" },
        { "type": "delete", "path": "absent.html" },
    ] });
    let history = json!([
        { "role": "user", "content": "Please edit the page" },
        { "role": "assistant", "content": diff.to_string() },
    ]);
    let order =
        json!({ "projectId": project, "orgId": app.org, "userId": app.user, "historyMessages": history });
    app.deploy_live(&order).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "edited");
    assert_eq!(app.worker(&worker, "/new").await.text().await.unwrap(), "new");
}

#[tokio::test]
async fn strangers_see_the_catalogue_only_and_members_see_the_evidence() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("private matters").await;
    let manifest = json!({ "scripts": { "build": "node marker_file.js" } }).to_string();
    let script = "console.log('marker_output'); console.error('marker_error'); process.exit(3)";
    let mut body = app.body(&project, &[("package.json", &manifest), ("marker_file.js", script)]);
    body["branch"] = json!("marker_branch");
    body["commit"] = json!("marker_commit");
    body["message"] = json!("marker_message");
    body["env"] = json!({ "MARKER_NAME": "marker_value" });
    let id = app.deploy(&body).await;
    let ended = app.until_final(&id).await;
    assert_eq!(ended["status"], "failed", "{ended:#}");
    let cause = &ended["cause"];
    assert_eq!(keys(cause), ["class", "hint", "step", "summary"]);
    assert_eq!((&cause["class"], &cause["step"]), (&json!("user"), &json!("build")));
    assert_eq!(cause["summary"], "The build command failed with exit code 3.");
    assert_eq!((&ended["error"], &ended["steps"]["build"]["error"]), (&cause["summary"], &cause["summary"]));
    assert_eq!(ended["attempt"], 1, "a user's failure is final at once");
    assert_eq!(ended["steps"]["deploy"]["status"], "skipped");

    let public = public_status(&app, &format!("?id={id}")).await.text().await.unwrap();
    assert!(!public.to_lowercase().contains("marker"), "{public}");
    let stream = app.request(Method::GET, &format!("/api/v1/deployments/{id}/events")).send().await.unwrap();
    assert!(!stream.text().await.unwrap().to_lowercase().contains("marker"));

    let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
    let summary = &member["deployment"];
    for (field, value) in
        [("branch", "marker_branch"), ("commit", "marker_commit"), ("message", "marker_message")]
    {
        assert_eq!(summary[field], value);
    }
    let evidence = summary["cause"]["evidence"].as_str().unwrap();
    assert!(evidence.contains("marker_output") && evidence.contains("marker_error"), "{evidence}");
    let log = app.log_of(&id).await;
    assert!(log.contains("marker_output") && !log.contains("marker_value"), "{log}");
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    assert_eq!(app.rows("select state from quota_entry"), [["settled"]], "a user's failure counts");
}

#[tokio::test]
async fn the_plan_and_the_status_page_have_their_bounds_and_the_ledger_balances() {
    let app = TestApp::start_with(&[
        ("LIBRA__QUOTA__DEPLOYMENTS_PER_MONTH", "3"),
        ("LIBRA__HTTP__STATUS_REQUESTS_PER_MINUTE", "30"),
    ])
    .await;
    let (project, _) = app.project("bounded").await;
    let body = app.body(&project, &[("index.html", "x")]);
    let mut made = Vec::new();
    // Posted at once: those that wait are superseded, which gives their place back.
    for _ in 0..3 {
        let (status, answer) = app.post("/deploy", &body).await;
        assert_eq!(status, 202, "{answer}");
        made.push(answer["deploymentId"].as_str().unwrap().to_owned());
    }
    let open = "select count(*) from deployment where finished_at is null";
    app.wait("all have ended", async || app.rows(open) == [["0"]]).await;
    let mut refused = None;
    for _ in 0..3 {
        let response = app.request(Method::POST, "/deploy").json(&body).send().await.unwrap();
        if response.status() == 429 {
            refused = Some(response);
            break;
        }
        app.wait("it has ended", async || app.rows(open) == [["0"]]).await;
    }
    assert_problem(refused.unwrap(), 429, "QUOTA_EXCEEDED").await;
    app.wait("all have ended", async || app.rows(open) == [["0"]]).await;
    balance(&app);
    let settled = app.rows("select settled, reserved from quota_period");
    assert_eq!(settled, [["3", "0"]]);

    let asked = format!("?id={}", made[0]);
    let mut limited = None;
    for _ in 0..60 {
        let response = public_status(&app, &asked).await;
        if response.status() == 429 {
            limited = Some(response);
            break;
        }
    }
    let limited = limited.unwrap();
    let wait: u64 = limited.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert_problem(limited, 429, "RATE_LIMITED").await;
    // The page that needs no credential is bounded, not the API of those who have one.
    assert_eq!(app.get(&format!("/api/v1/deployments/{}", made[0])).await.0, 200);
}

/// What the periods say is what the entries say.
pub fn balance(app: &TestApp) {
    let periods = app.rows("select org_id, reserved, settled, released from quota_period order by 1");
    let entries = app.rows(
        "select org_id, sum(case state when 'reserved' then 1 else 0 end), \
         sum(case state when 'settled' then 1 else 0 end), sum(case state when 'released' then 1 else 0 end) \
         from quota_entry group by 1 order by 1",
    );
    assert_eq!(periods, entries);
}
