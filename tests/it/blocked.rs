//! A build that runs until it is ended, so that what happens meanwhile can be looked at.

use serde_json::{Value, json};

use crate::app::TestApp;

/// What such a build prints once it runs.
pub const RUNS: &str = "the build runs";

/// The body of a deployment whose build never ends by itself; `script` runs before.
pub fn body(app: &TestApp, project: &str, script: &str) -> Value {
    let manifest = json!({ "scripts": { "build": "node build.js" } }).to_string();
    let build = format!("{script}\nconsole.log('{RUNS}');\nsetInterval(() => {{}}, 1000)");
    app.body(project, &[("package.json", &manifest), ("build.js", &build)])
}

/// Posts it and waits until its build runs.
pub async fn start(app: &TestApp, body: &Value) -> String {
    let id = app.deploy(body).await;
    app.wait("the build runs", async || app.log_of(&id).await.contains(RUNS)).await;
    id
}

/// Asks for its end and waits for it.
pub async fn end(app: &TestApp, id: &str) {
    let (status, answer) = app.post(&format!("/api/v1/deployments/{id}/cancel"), &json!({})).await;
    assert_eq!(status, 202, "{answer}");
    let document = app.until_final(id).await;
    assert_eq!(document["status"], "cancelled", "{document:#}");
}
