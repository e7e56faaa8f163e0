//! Templates: listed, built as they are, kept beneath what a deployment brings.

use serde_json::json;

use crate::answers::{assert_problem, details};
use crate::app::TestApp;

async fn from_template(app: &TestApp, name: &str) -> (String, String) {
    let body = json!({ "name": format!("from {name}"), "orgId": app.org, "template": name });
    let (status, made) = app.post("/api/v1/projects", &body).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!(made["template"], name);
    (made["id"].as_str().unwrap().to_owned(), made["workerName"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_template_is_built_and_served_as_it_is() {
    let app = TestApp::start().await;
    let (status, list) = app.get("/api/v1/templates").await;
    assert_eq!(status, 200, "{list}");
    let names: Vec<&str> =
        list["templates"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["astro", "plain", "vite-react"]);
    for (name, framework, words) in [
        ("plain", "plain", "A site that is what you wrote."),
        ("astro", "astro", "Small notes, kept in plain files."),
        ("vite-react", "vite", "<title>React start</title>"),
    ] {
        let (project, worker) = from_template(&app, name).await;
        let id =
            app.deploy_live(&json!({ "projectId": project, "orgId": app.org, "userId": app.user })).await;
        let page = app.worker(&worker, "/").await.text().await.unwrap();
        assert!(page.contains(words), "{name}: {page}");
        let (_, detail) = app.get(&format!("/api/v1/deployments/{id}")).await;
        assert_eq!(detail["framework"], framework, "{detail}");
        assert!(!detail["sign"].as_str().unwrap().is_empty());
        let log = app.log_of(&id).await;
        assert!(log.contains(detail["sign"].as_str().unwrap()), "{log}");
        // Not stale: what npm misses are packages for other systems that the registry in use does not have.
        let missing = log.lines().filter_map(|line| line.strip_prefix("npm error Missing: "));
        assert!(
            { missing }.all(|line| line.ends_with("@ from lock file")),
            "{name}: the lockfile is stale\n{log}"
        );
    }
}

#[tokio::test]
async fn a_template_stays_beneath_what_a_deployment_brings() {
    let app = TestApp::start().await;
    let (project, worker) = from_template(&app, "plain").await;
    let text = async |path: &str| app.worker(&worker, path).await.text().await.unwrap();
    app.deploy_live(&app.body(&project, &[("index.html", "mine"), ("more/x.html", "more")])).await;
    assert_eq!((text("/").await, text("/more/x.html").await), ("mine".into(), "more".into()));
    assert!(text("/style.css").await.contains("--accent"));
    // The next files replace the ones before, not the template.
    app.deploy_live(&app.body(&project, &[("about.html", "about me")])).await;
    assert!(text("/").await.contains("A site that is what you wrote."));
    assert_eq!(app.worker(&worker, "/more/x.html").await.status(), 404);
    // What is stored is deployed as it is: a file that was deleted stays so.
    let gone = json!({ "type": "diff", "diff": [{ "type": "delete", "path": "about.html" }] });
    let body = json!({ "projectId": project, "orgId": app.org, "userId": app.user,
        "historyMessages": [{ "role": "assistant", "content": gone.to_string() }] });
    app.deploy_live(&body).await;
    app.deploy_live(&json!({ "projectId": project, "orgId": app.org, "userId": app.user })).await;
    assert_eq!(app.worker(&worker, "/about.html").await.status(), 404);
    // A file may stand where the template has a folder's name, and the other way round.
    app.deploy_live(&app.body(&project, &[("style.css/index.html", "a folder now")])).await;
    assert_eq!(text("/style.css/").await, "a folder now");
}

#[tokio::test]
async fn an_unknown_template_is_refused_with_the_list() {
    let app = TestApp::start().await;
    let body = json!({ "name": "x", "orgId": app.org, "template": "wordpress" });
    let response = app.request(reqwest::Method::POST, "/api/v1/projects").json(&body).send().await.unwrap();
    let problems = details(&assert_problem(response, 400, "VALIDATION_ERROR").await);
    let expected = ("template".to_owned(), "must be one of astro, plain, vite-react".to_owned());
    assert_eq!(problems, [expected]);
    let (_, projects) = app.get("/api/v1/projects").await;
    assert_eq!(projects["projects"].as_array().unwrap().len(), 0);
}
