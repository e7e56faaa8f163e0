//! The dead-letter desk: what it shows, to whom, and that what is buried stays so.

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::assert_problem;
use crate::app::{TestApp, answer};
use crate::failing::quick;
use crate::tenants::Member;

impl TestApp {
    /// A deployment of one page that fails three times at this point, with its letter's id.
    pub async fn dead(&self, project: &str, point: &str, env: Value) -> (String, String) {
        let mut body = self.body(project, &[("index.html", "<h1>dead</h1>")]);
        body["env"] = env;
        self.dead_with(&body, project, point).await
    }

    pub async fn dead_with(&self, body: &Value, project: &str, point: &str) -> (String, String) {
        self.fail(&format!("{point}@{project}")).await;
        let id = self.deploy(body).await;
        let document = self.until_final(&id).await;
        assert_eq!(document["status"], "failed", "{document:#}");
        self.release(&format!("{point}@{project}")).await;
        (self.letter_of(&id).await, id)
    }

    /// The open letter of a deployment.
    pub async fn letter_of(&self, deployment: &str) -> String {
        let (_, page) = self.get("/api/v1/dead-letters").await;
        let letters = page["deadLetters"].as_array().unwrap();
        let found = letters.iter().find(|l| l["deploymentId"] == deployment);
        found.unwrap_or_else(|| panic!("{page:#}"))["id"].as_str().unwrap().to_owned()
    }

    /// Deletes, and answers the status.
    async fn bury(&self, letter: &str) -> reqwest::Response {
        self.request(Method::DELETE, &format!("/api/v1/dead-letters/{letter}")).send().await.unwrap()
    }

    pub async fn redrive(&self, letter: &str, body: Value) -> reqwest::Response {
        let path = format!("/api/v1/dead-letters/{letter}/redrive");
        self.request(Method::POST, &path).json(&body).send().await.unwrap()
    }

    fn env_is_kept(&self, id: &str) -> bool {
        self.one(&format!("SELECT env_sealed IS NOT NULL FROM deployment WHERE id = '{id}'")) == "1"
    }
}

#[tokio::test]
async fn a_dead_letter_tells_every_attempt_and_is_closed_by_burying() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, _) = app.project("desk").await;
    let (letter, id) = app.dead(&project, "deploy.begin", json!({ "API_KEY": "a-secret-value" })).await;
    assert!(app.env_is_kept(&id), "a redrive would lack them");

    let (status, page) = app.get(&format!("/api/v1/dead-letters?class=exhausted&projectId={project}")).await;
    assert_eq!((status.as_u16(), page["deadLetters"].as_array().unwrap().len()), (200, 1), "{page:#}");
    let listed = &page["deadLetters"][0];
    assert_eq!((&listed["class"], &listed["failedStep"]), (&json!("exhausted"), &json!("deploy")));
    assert_eq!((&listed["attempts"], &listed["state"]), (&json!(3), &json!("open")));
    assert_eq!(app.get("/api/v1/dead-letters?class=poison").await.1, json!({ "deadLetters": [] }));

    let (_, shown) = app.get(&format!("/api/v1/dead-letters/{letter}")).await;
    assert_eq!(shown["original"]["deploymentId"], id);
    assert_eq!(shown["original"]["params"]["projectId"], project);
    let history = shown["history"].as_array().unwrap();
    let outcomes: Vec<&str> = history.iter().map(|a| a["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["retry", "retry", "failed"]);
    assert!(
        history
            .iter()
            .all(|a| a["cause"]["summary"] == "A test had this step fail." && a["step"] == "deploy")
    );
    assert!(shown["logTail"].as_str().unwrap().contains("libra:"), "{shown:#}");
    assert!(!shown.to_string().contains("a-secret-value"));

    let (_, groups) = app.get("/api/v1/dead-letters?group=fingerprint").await;
    let group = &groups["groups"][0];
    assert_eq!((&group["count"], &group["newestId"]), (&json!(1), &json!(letter)), "{groups:#}");
    assert_eq!(group["fingerprint"], listed["fingerprint"]);

    // Another organization sees nothing of it, and can do nothing to it.
    let other = Member::of_new_organization(&app, "others");
    let asked = other.request(&app, Method::GET, "/api/v1/dead-letters?state=all").send().await.unwrap();
    assert_eq!(answer(asked).await.1, json!({ "deadLetters": [] }));
    let asked =
        other.request(&app, Method::GET, "/api/v1/dead-letters?group=fingerprint").send().await.unwrap();
    assert_eq!(answer(asked).await.1, json!({ "groups": [] }));
    let path = format!("/api/v1/dead-letters/{letter}");
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/redrive")),
    ] {
        let refused = other.request(&app, method, &path).json(&json!({})).send().await.unwrap();
        assert_problem(refused, 404, "DEPLOYMENT_NOT_FOUND").await;
    }
    let order = json!({ "filter": { "projectId": project }, "rate": 1 });
    let group = other.request(&app, Method::POST, "/api/v1/dead-letters/redrive").json(&order);
    assert_problem(group.send().await.unwrap(), 404, "PROJECT_NOT_FOUND").await;
    let order = json!({ "filter": { "class": "exhausted" }, "rate": 1 });
    let group = other.request(&app, Method::POST, "/api/v1/dead-letters/redrive").json(&order);
    assert_eq!(answer(group.send().await.unwrap()).await.1, json!({ "redriven": 0, "skipped": [] }));
    assert_eq!(app.status(&id).await["status"], "failed");
    // A member without an operator's rights is not told which server it was.
    let member = Member::token(&app, &app.org, &app.user, &[]);
    let asked = member.request(&app, Method::GET, &path).send().await.unwrap();
    assert!(answer(asked).await.1["history"][0].get("server").is_none());

    let shown = app.cli(&["dlq", "list"]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(text.contains(&letter) && text.contains("exhausted"), "{text}");
    let shown = app.cli(&["dlq", "show", &letter]);
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(text.matches("A test had this step fail.").count(), 4, "{text}");
    assert!(app.cli(&["dlq", "bury", &letter]).status.success());
    assert!(!app.env_is_kept(&id), "nobody needs them any more");
    assert_eq!(app.get("/api/v1/dead-letters").await.1, json!({ "deadLetters": [] }));
    let (_, buried) = app.get("/api/v1/dead-letters?state=buried").await;
    assert_eq!(buried["deadLetters"][0]["stateBy"], app.user, "{buried:#}");
    assert_eq!(app.bury(&letter).await.status(), 204, "burying it again changes nothing");
    assert_problem(app.redrive(&letter, json!({})).await, 409, "CONFLICT").await;
    assert_eq!(app.status(&id).await["status"], "failed");
}

#[tokio::test]
async fn build_variables_of_old_failures_are_forgotten_and_what_needs_them_is_refused() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, _) = app.project("forgotten").await;
    let (letter, id) = app.dead(&project, "deploy.begin", json!({ "API_KEY": "a-secret-value" })).await;
    app.change(&format!("UPDATE deployment SET finished_at = finished_at - 2505600000 WHERE id = '{id}'"));
    let sweeps = async || app.one("SELECT count(*) FROM dead_letter WHERE env_forgotten_at IS NOT NULL");
    assert_eq!(sweeps().await, "0");
    assert!(app.env_is_kept(&id));
    app.change(&format!("UPDATE deployment SET finished_at = finished_at - 172800000 WHERE id = '{id}'"));
    app.wait("they are forgotten", async || sweeps().await == "1").await;
    assert!(!app.env_is_kept(&id));
    let refused =
        assert_problem(app.redrive(&letter, json!({ "from": "start" })).await, 409, "CONFLICT").await;
    assert!(refused["message"].as_str().unwrap().contains("env_kept_days"), "{refused}");
    // What is built already needs none.
    assert_eq!(app.redrive(&letter, json!({})).await.status(), 202);
    assert_eq!(app.until_final(&id).await["status"], "completed");
}
