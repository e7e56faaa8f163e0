//! Workers that an operator registers as origins: who may, which origins, and what is stored.

use std::io::{Read, Write};

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::{assert_problem, details, is_id, is_time, keys};
use crate::app::{BASE, TestApp, answer};
use crate::failing::quick;
use crate::tenants::Member;

fn path(project: &str) -> String {
    format!("/api/v1/projects/{project}/upstream")
}

async fn put(app: &TestApp, project: &str, body: &Value) -> reqwest::Response {
    app.request(Method::PUT, &path(project)).json(body).send().await.unwrap()
}

/// `serves` of the project's Worker.
async fn serves(app: &TestApp, project: &str) -> String {
    let (status, page) = app.get("/api/v1/workers?limit=100").await;
    assert_eq!(status, 200, "{page}");
    let workers = page["workers"].as_array().unwrap();
    let worker = workers.iter().find(|w| w["projectId"] == project).unwrap();
    worker["serves"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn origins_are_registered_replaced_shown_and_removed() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("behind").await;
    assert_eq!(serves(&app, &project).await, "nothing");
    let response = app.request(Method::GET, &path(&project)).send().await.unwrap();
    assert_problem(response, 404, "WORKER_NOT_FOUND").await;

    let body = json!({ "origins": ["http://127.0.0.1:3999", "HTTPS://App.Example.com:443"],
        "policy": { "health": { "path": "/up" }, "hostHeader": "origin", "connectTimeoutMs": 250 } });
    let (status, first) = answer(put(&app, &project, &body).await).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(
        keys(&first),
        ["createdAt", "epoch", "id", "origins", "policy", "projectId", "updatedAt", "visible"]
    );
    assert!(is_id(first["id"].as_str().unwrap()) && is_time(&first["createdAt"]));
    assert_eq!(first["origins"], json!(["http://127.0.0.1:3999", "https://app.example.com"]));
    assert_eq!(first["visible"], true);
    let policy = &first["policy"];
    assert_eq!(policy["health"]["path"], "/up");
    assert_eq!(policy["health"]["intervalMs"], 5000);
    assert_eq!((&policy["hostHeader"], &policy["connectTimeoutMs"]), (&json!("origin"), &json!(250)));
    assert_eq!(policy["firstByteTimeoutMs"], 30000);
    assert_eq!(serves(&app, &project).await, "upstream");

    let (_, second) =
        answer(put(&app, &project, &json!({ "origins": ["http://127.0.0.1:3998"] })).await).await;
    assert_eq!(second["id"], first["id"]);
    assert_eq!(second["policy"]["connectTimeoutMs"], 2000);
    assert!(second["epoch"].as_i64() > first["epoch"].as_i64());
    let (_, shown) = app.get(&path(&project)).await;
    assert_eq!(shown["origins"], json!(["http://127.0.0.1:3998"]));

    // A deployment is made all the same; it is not what the Worker serves.
    app.deploy_live(&app.body(&project, &[("index.html", "static")])).await;
    assert_eq!(serves(&app, &project).await, "upstream");
    let (status, removed) = answer(app.request(Method::DELETE, &path(&project)).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), &removed), (200, &json!({ "visible": true })));
    assert_eq!(serves(&app, &project).await, "version");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "static");
    let again = app.request(Method::DELETE, &path(&project)).send().await.unwrap();
    assert_eq!(again.status(), 200, "there is nothing to remove, which is what was asked for");
    assert_problem(app.request(Method::GET, &path(&project)).send().await.unwrap(), 404, "WORKER_NOT_FOUND")
        .await;
    let (status, again) = answer(put(&app, &project, &body).await).await;
    assert_eq!(status, 200, "{again}");
    assert_ne!(again["id"], first["id"]);
}

#[tokio::test]
async fn origins_and_policies_that_may_not_be_are_refused_with_their_places() {
    let app = TestApp::start_with(&[
        ("LIBRA__UPSTREAM__ALLOWED_NETWORKS", "10.20.0.0/16"),
        ("LIBRA__UPSTREAM__UNIX_DIRECTORIES", "/run/apps"),
        ("LIBRA__UPSTREAM__MAX_ORIGINS", "3"),
        ("LIBRA__DOMAINS__PLATFORM_HOSTS", "console.example.com"),
    ])
    .await;
    let (project, _) = app.project("refused").await;
    for (origin, word) in [
        ("http://10.0.0.1", "not public"),
        ("http://169.254.169.254", "not public"),
        ("http://[::ffff:169.254.169.254]", "not public"),
        ("http://0.0.0.0:3000", "not public"),
        ("http://2130706433", "no IPv4"),
        ("http://app.libra.localhost", "platform itself"),
        ("https://console.example.com", "platform itself"),
        ("http://user:secret@app.example.com", "user or password"),
        ("http://app.example.com/path", "more than scheme"),
        ("file:///etc/passwd", "must begin with"),
        ("unix:/var/run/docker.sock", "outside the folders"),
        ("unix:/run/apps/../docker.sock", "not absolute and plain"),
    ] {
        let response = put(&app, &project, &json!({ "origins": ["http://1.1.1.1", origin] })).await;
        let problems = details(&assert_problem(response, 400, "VALIDATION_ERROR").await);
        assert_eq!(problems.len(), 1, "{origin}: {problems:?}");
        assert!(problems[0].0 == "origins[1]" && problems[0].1.contains(word), "{origin}: {problems:?}");
        assert!(!problems[0].1.contains("user:secret"), "{problems:?}");
    }
    for (body, fields) in [
        (json!({}), &["origins"][..]),
        (json!({ "origins": [] }), &["origins"]),
        (
            json!({ "origins": ["http://1.1.1.1", "http://1.1.1.2", "http://1.1.1.3", "http://1.1.1.4"] }),
            &["origins"],
        ),
        (json!({ "origins": ["http://1.1.1.1", "http://1.1.1.1:80"] }), &["origins[1]"]),
        (json!({ "origins": [1], "more": 2 }), &["origins[0]", "more"]),
        (
            json!({ "origins": ["x"], "policy": { "connectTimeoutMs": 0, "health": { "every": 1 } } }),
            &["origins[0]", "policy.health.every"],
        ),
        (
            json!({ "origins": ["http://1.1.1.1"], "policy": { "connectTimeoutMs": 1 } }),
            &["policy.connectTimeoutMs"],
        ),
        (json!({ "origins": ["http://1.1.1.1"], "policy": [] }), &["policy"]),
    ] {
        let problems =
            details(&assert_problem(put(&app, &project, &body).await, 400, "VALIDATION_ERROR").await);
        assert_eq!(problems.iter().map(|(f, _)| f.as_str()).collect::<Vec<_>>(), fields, "{body}");
    }
    assert_eq!(app.one("SELECT count(*) FROM upstream"), "0");
    let fine =
        json!({ "origins": ["http://10.20.1.1:3000", "http://localhost:3000", "unix:/run/apps/a.sock"] });
    assert_eq!(put(&app, &project, &fine).await.status(), 200);
}

#[tokio::test]
async fn only_an_operator_of_the_same_organization_registers_origins() {
    let app = TestApp::start().await;
    let (project, _) = app.project("guarded").await;
    let body = json!({ "origins": ["http://1.1.1.1"] });
    let ordinary = Member::token(&app, &app.org, &app.user, &[]);
    let stranger = Member::of_new_organization(&app, "strangers");
    let their_operator = Member::token(&app, &stranger.org, &stranger.user, &["--admin"]);
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let ask = async |member: &Member| {
            let request = member.request(&app, method.clone(), &path(&project)).json(&body);
            request.send().await.unwrap()
        };
        assert_problem(ask(&ordinary).await, 403, "FORBIDDEN").await;
        assert_problem(ask(&stranger).await, 404, "PROJECT_NOT_FOUND").await;
        assert_problem(ask(&their_operator).await, 404, "PROJECT_NOT_FOUND").await;
    }
    assert_eq!(app.one("SELECT count(*) FROM upstream"), "0");
}

/// An application that answers each connection once, with these words; where it listens.
fn application(words: &'static str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // As much as a request without a body is; more is not looked at.
            let mut head = [0; 8_192];
            let mut read = 0;
            while !head[..read].windows(4).any(|w| w == b"\r\n\r\n") {
                match stream.read(&mut head[read..]) {
                    Ok(more) if more > 0 => read += more,
                    _ => break,
                }
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{words}",
                words.len()
            );
            // A client that has gone away already needs no answer.
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_registered_application_answers_for_the_worker_on_every_server_until_it_is_removed() {
    let settings = quick(&[]);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("swapped").await;
    let first = app.deploy_live(&app.body(&project, &[("index.html", "static")])).await;
    let second = app.folder.serve(&settings);
    let page = async |address: &str, label: &str| {
        let request = app.http.get(format!("http://{address}/")).header("host", format!("{label}.{BASE}"));
        request.send().await.unwrap().text().await.unwrap()
    };
    for words in ["one", "another"] {
        let body = json!({ "origins": [application(words)], "policy": { "health": { "intervalMs": 0 } } });
        let (status, document) = answer(put(&app, &project, &body).await).await;
        assert_eq!((status.as_u16(), &document["visible"]), (200, &json!(true)), "{document}");
        assert_eq!(page(&app.server.address, &worker).await, words);
        app.wait("the other server passes requests on", async || {
            page(&second.address, &worker).await == words
        })
        .await;
    }
    // Previews and what is live beneath are as they were.
    assert_eq!(page(&app.server.address, &format!("{}--{worker}", &first[..12])).await, "static");
    app.deploy_live(&app.body(&project, &[("index.html", "newer")])).await;
    assert_eq!(page(&app.server.address, &worker).await, "another");
    app.panic_actor("worker_registry").await;
    app.wait("the registry is built anew", async || {
        app.health().await["checks"]["actors"]["actors"]["worker_registry"]["restarts"] == 1
            && page(&app.server.address, &worker).await == "another"
    })
    .await;
    let removed = app.request(Method::DELETE, &path(&project)).send().await.unwrap();
    assert_eq!(removed.status(), 200);
    assert_eq!(page(&app.server.address, &worker).await, "newer");
    app.wait("the other server too", async || page(&second.address, &worker).await == "newer").await;
}

#[tokio::test]
async fn the_program_registers_and_lists() {
    let app = TestApp::start().await;
    let (_, worker) = app.project("by hand").await;
    let run = |arguments: &[&str]| {
        let output = app.cli(arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}{complained}");
        said
    };
    let policy = r#"{"hostHeader":"origin"}"#;
    let origins = ["--origin", "http://127.0.0.1:3999", "--origin", "http://127.0.0.1:3998"];
    let arguments: Vec<&str> =
        ["workers", "upstream", &worker, "--policy", policy].into_iter().chain(origins).collect();
    assert!(run(&arguments).contains("http://127.0.0.1:3998"));
    let shown: Value = serde_json::from_str(&run(&["workers", "upstream", "by hand", "--json"])).unwrap();
    assert_eq!(shown["policy"]["hostHeader"], "origin");
    assert!(run(&["workers", "list"]).contains("upstream"));
    run(&["workers", "upstream", &worker, "--remove"]);
    let line: Value = serde_json::from_str(&run(&["workers", "list", "--json"])).unwrap();
    assert_eq!((&line["name"], &line["serves"]), (&json!(worker), &json!("nothing")));
    assert_eq!(app.cli(&["workers", "upstream", &worker]).status.code(), Some(1));
    let wrong = app.cli(&["workers", "upstream", &worker, "--origin", "http://10.0.0.1"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("not public"));
}
