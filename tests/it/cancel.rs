//! Cancelling: while it waits, while it runs, and too late.

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::{assert_problem, keys};
use crate::api_deploy::balance;
use crate::app::{Folder, TestApp, answer, processes_with};
use crate::blocked;
use crate::host::Host;

async fn cancel(app: &TestApp, id: &str) -> reqwest::Response {
    app.request(Method::POST, &format!("/api/v1/deployments/{id}/cancel")).send().await.unwrap()
}

fn quota(app: &TestApp, id: &str) -> String {
    app.rows(&format!("select state from quota_entry where deployment_id = '{id}'"))[0][0].clone()
}

#[tokio::test]
async fn a_deployment_is_cancelled_while_it_waits_and_while_it_runs_but_not_when_it_is_live() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("cancelled").await;
    let live = app.deploy_live(&app.body(&project, &[("index.html", "before")])).await;
    let too_late = assert_problem(cancel(&app, &live).await, 409, "CONFLICT").await;
    assert!(too_late["message"].as_str().unwrap().contains("too late"), "{too_late}");

    // A grandchild that leaves its parent's process group.
    let name = format!("grandchild-{}", uuid::Uuid::new_v4().simple());
    let child = format!(
        "require('child_process').spawn('node', ['-e', 'setInterval(() => {{}}, 1000)', '{name}'], \
         {{ stdio: 'ignore', detached: true }}).unref();"
    );
    let running = blocked::start(&app, &blocked::body(&app, &project, &child)).await;
    let waiting = app.deploy(&app.body(&project, &[("index.html", "never")])).await;

    let (status, document) = answer(cancel(&app, &waiting).await).await;
    assert_eq!(status, 202);
    assert_eq!(keys(&document), ["deployment", "state"]);
    assert_eq!(
        (&document["state"]["status"], &document["state"]["cancelReason"]),
        (&json!("cancelled"), &json!("requested"))
    );
    assert_eq!(quota(&app, &waiting), "released", "it was never claimed");
    assert_problem(cancel(&app, &waiting).await, 409, "CONFLICT").await;

    app.wait("the grandchild runs", async || !processes_with(&name).is_empty()).await;
    let (status, document) = answer(cancel(&app, &running).await).await;
    assert_eq!(status, 202);
    let state: &Value = &document["state"];
    assert!(state["cancelRequested"] == true || state["status"] == "cancelled", "{state}");
    let ended = app.until_final(&running).await;
    assert_eq!((&ended["status"], &ended["cancelReason"]), (&json!("cancelled"), &json!("requested")));
    assert!(ended.get("error").is_none() && ended.get("cause").is_none(), "{ended:#}");
    assert_eq!(processes_with(&name), [], "confirmed means that its process tree is dead");
    assert_eq!(quota(&app, &running), "settled", "it was claimed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "before");
    let kept = app.rows(&format!(
        "select env_sealed is null, lease_owner is null from deployment where id = '{running}'"
    ));
    assert_eq!(kept, [["1", "1"]]);

    // The place is free for the next one.
    app.deploy_live(&app.body(&project, &[("index.html", "after")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "after");
    assert_problem(cancel(&app, &"0".repeat(32)).await, 404, "DEPLOYMENT_NOT_FOUND").await;
    balance(&app);
}

#[tokio::test]
async fn a_cancel_ends_the_wait_for_a_build_slot() {
    let folder = Folder::new();
    let (_host, server) = Host::serve(&folder, &[("LIBRA__SANDBOX__SLOTS", "1")]);
    let app = TestApp::on(folder, server);
    let (first, _) = app.project("has the slot").await;
    let (second, _) = app.project("waits for it").await;
    let running = blocked::start(&app, &blocked::body(&app, &first, "")).await;
    let waiting = app.deploy(&blocked::body(&app, &second, "")).await;
    app.until(&waiting, |d| d["currentStep"] == "sandbox").await;
    assert_eq!(cancel(&app, &waiting).await.status(), 202);
    let ended = app.until_final(&waiting).await;
    assert_eq!(ended["status"], "cancelled", "{ended:#}");
    assert_eq!(app.status(&running).await["status"], "in_progress", "the slot is still taken");
    blocked::end(&app, &running).await;
}
