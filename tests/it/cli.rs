//! The program at a command line: credentials, settings and their mistakes, exit codes.

use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::app::{Folder, PATIENCE, TestApp, answer};
use crate::tenants::Member;

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a command that must end by itself.
fn run(folder: &Folder, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = folder.libra(settings);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{arguments:?} does not end: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn organizations_users_and_tokens_are_made_and_a_secret_is_shown_once() {
    let app = TestApp::start().await;
    let member = Member::of_new_organization(&app, "acme");
    let project = member.project(&app, "made by a member").await;
    let deployed = member.request(&app, reqwest::Method::POST, "/deploy").json(&member.body(&project));
    assert_eq!(answer(deployed.send().await.unwrap()).await.0, 202);

    let listed = |what: &str| said(&app.cli(&[what, "list"])) + &said(&app.cli(&[what, "list", "--json"]));
    assert!(listed("orgs").contains(&member.org) && listed("orgs").contains("acme"));
    assert!(listed("users").contains(&member.user));
    assert!(listed("tokens").contains(&member.token_id));
    assert!(!listed("tokens").contains(&member.token) && !listed("tokens").contains(&app.token));
    let admin = Member::token(&app, &member.org, &member.user, &["--admin", "--name", "the boss"]);
    let shown = listed("tokens");
    assert!(
        shown.lines().any(|l| l.contains(&admin.token_id) && l.contains("admin") && l.contains("the boss"))
    );
    let plain = app.cli(&["tokens", "create", "--of", &member.org, "--as", &member.user]);
    assert!(said(&plain).contains("libra_") && said(&plain).contains("not shown again"));

    for (arguments, expected, word) in [
        (&["orgs", "create", "acme"][..], 1, "exists already"),
        (&["users", "create", "x", "--of", "nonsense"], 2, "--of"),
        (&["users", "create", "x", "--of", "00000000000000000000000000000000"], 2, "organization"),
        (&["tokens", "create", "--of", &member.org, "--as", &app.user], 2, "no member"),
        (
            &["tokens", "create", "--of", &member.org, "--as", &member.user, "--scope", "all"],
            2,
            "deployments:write",
        ),
        (&["tokens", "create", "--of", &member.org, "--as", &member.user, "--days", "0"], 2, "1..=3650"),
        (
            &["tokens", "create", "--of", &member.org, "--as", &member.user, "--name", "bootstrap"],
            2,
            "another name",
        ),
        (&["tokens", "revoke", "00000000000000000000000000000000"], 2, "no such token"),
        (&["nonsense"], 2, "unrecognized"),
        (&["status", "nonsense"], 1, "DEPLOYMENT_NOT_FOUND"),
        (&["logs", "x", "--token", "libra_wrong"], 77, "UNAUTHORIZED"),
        (&["status", "x", "--url", "http://127.0.0.1:1"], 69, "could not be reached"),
    ] {
        let output = app.cli(arguments);
        assert_eq!(code(&output), expected, "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(word), "{arguments:?}: {}", said(&output));
    }
    assert!(app.cli(&["tokens", "revoke", &member.token_id]).status.success());
    let again = member.request(&app, reqwest::Method::GET, "/api/v1/projects").send().await.unwrap();
    assert_eq!(again.status(), 401);
    assert!(listed("tokens").lines().any(|l| l.contains(&member.token_id) && l.contains("revoked")));
}

#[tokio::test]
async fn a_deployment_says_what_it_was_taken_for_and_what_proves_its_failure() {
    let app = TestApp::start().await;
    let source = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = source.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("web/package.json", r#"{"scripts":{"build":"node build.js"}}"#);
    write("web/build.js", "require('not-there-at-all')");
    write("api/package.json", "{}");
    write("api/site/index.html", "a site");
    let folder = source.path().to_str().unwrap();
    let deploy = |more: &[&str]| app.cli(&[&["deploy", folder, "--name", "starter"], more].concat());

    let output = deploy(&[]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    for part in
        ["hint: Set build.rootDirectory (libra deploy --root", "evidence: neither", "lies in api, web"]
    {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
    let output = deploy(&["--root", "web"]);
    assert_eq!(code(&output), 1, "{}", said(&output));
    for part in ["recognised: package.json with a build script", "evidence: ", "'not-there-at-all'"] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }
    let output = deploy(&["--root", "api", "--output", "site", "--framework", "plain"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(said(&output).contains("recognised: plain HTML: the framework is set"), "{}", said(&output));
    let output = deploy(&["--root", "web", "--command", "mkdir made && echo x > made/a", "--output", "made"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
}

#[test]
fn mistakes_in_the_settings_are_told_all_at_once() {
    let folder = Folder::new();
    let file = folder.path().join("mine.toml");
    std::fs::write(&file, "[http]\nbody_bytes = \"much\"\nbodybytes = 1\n[nonsense]\na = 1\n").unwrap();
    let path = file.to_str().unwrap();
    let settings = [
        ("LIBRA__PIPELINE__CONCURRENCY", "many"),
        ("LIBRA__HTTP__LISTEN", "nowhere"),
        ("LIBRA__SANDBOX__PROVIDER", "e2b"),
        ("LIBRA__SECURITY__NONSENSE", "x"),
        ("LIBRA__SECURITY__SECRET_KEYS", "a-secret-nobody-may-see"),
        ("LIBRA__DATABASE__URL", "postgres://user:a-password@host/db?sslmode=disable"),
        ("MAX_DEPLOYMENT_TIMEOUT", "soon"),
    ];
    for command in [&["config", "check"][..], &["serve"], &["config", "show"]] {
        let output = run(&folder, &settings, &[command, &["--config", path]].concat());
        let told = said(&output);
        assert_eq!(code(&output), 64, "{command:?}: {told}");
        for part in [
            "http.body_bytes",
            path,
            "http.bodybytes",
            "nonsense.a",
            "pipeline.concurrency",
            "many",
            "LIBRA__PIPELINE__CONCURRENCY",
            "security.nonsense",
            "MAX_DEPLOYMENT_TIMEOUT",
            "soon",
            "whole number",
        ] {
            assert!(told.contains(part), "{part} is not told: {told}");
        }
        assert!(!told.contains("a-secret-nobody-may-see"), "{told}");
    }
    // Values of the right type are judged next, all of them too.
    let output = run(&folder, &settings[1..3], &["config", "check"]);
    let told = said(&output);
    assert_eq!(code(&output), 64);
    for part in ["http.listen", "nowhere", "IP:PORT", "sandbox.e2b.api_key", "E2B_API_KEY"] {
        assert!(told.contains(part), "{part} is not told: {told}");
    }
    let output = run(&folder, &settings[5..6], &["config", "check"]);
    assert_eq!(code(&output), 64);
    assert!(!said(&output).contains("a-password"), "{}", said(&output));

    let right = [
        ("LIBRA__SECURITY__SECRET_KEY", "0123456789abcdef0123456789abcdef"),
        ("DISPATCH_NAMESPACE_NAME", "x"),
    ];
    assert_eq!(code(&run(&folder, &right, &["config", "check"])), 0);
    let shown = said(&run(&folder, &right, &["config", "show"]));
    assert!(
        shown.contains("pipeline.concurrency")
            && shown.contains("DISPATCH_NAMESPACE_NAME")
            && shown.contains("no effect")
    );
    assert!(!shown.contains("0123456789abcdef0123456789abcdef"), "{shown}");
    let guide = [("POSTGRES_URL", "postgres://user:a-password@db.example.com/libra")];
    let shown = said(&run(&folder, &guide, &["config", "show"]));
    assert!(shown.contains("database.url = ***") && !shown.contains("a-password"), "{shown}");
    assert!(!folder.data().exists(), "looking at settings makes nothing");
}

/// What production needs, beside a secret of its own.
const PRODUCTION: [(&str, &str); 4] = [
    ("LIBRA__ENVIRONMENT", "production"),
    ("LIBRA__DOMAINS__BASE", "libra.test"),
    ("LIBRA__TESTING__FAULT_INJECTION", "false"),
    ("LIBRA__SANDBOX__ALLOW_POLLED_LIMITS", "true"),
];

#[tokio::test]
async fn production_refuses_what_development_allows_and_starts_with_its_own() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.data()).unwrap();
    std::fs::write(folder.data().join("bootstrap.json"), "{}").unwrap();
    let careless = [
        ("LIBRA__ENVIRONMENT", "production"),
        ("LIBRA__SANDBOX__PROVIDER", "none"),
        ("LIBRA__SECURITY__SECRET_KEY", "a-development-secret-of-more-than-32"),
    ];
    for arguments in [&["serve"][..], &["config", "check"]] {
        let output = run(&folder, &careless, arguments);
        let told = said(&output);
        assert_eq!(code(&output), 64, "{told}");
        for key in [
            "security.secret_key",
            "domains.base",
            "sandbox.provider",
            "testing.fault_injection",
            "bootstrap.json",
        ] {
            assert!(told.contains(key), "{key} is not told: {told}");
        }
        assert!(!told.contains("a-development-secret"), "{told}");
    }

    let folder = Folder::new();
    let mut settings = PRODUCTION.to_vec();
    let missing = run(&folder, &settings, &["serve"]);
    assert_eq!(code(&missing), 64);
    assert!(said(&missing).contains("security.secret_key"), "{}", said(&missing));
    settings.push(("LIBRA__SECURITY__SECRET_KEY", "kq7Zp0vX3mB9sT5wYc1RfL8nJ2hD6gAe"));
    let server = folder.serve(&settings);
    assert!(!folder.data().join("bootstrap.json").exists() && !folder.data().join("secret.key").exists());
    let print = |arguments: &[&str]| -> Value {
        let output = run(&folder, &settings, arguments);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", said(&output)))
    };
    let org = print(&["orgs", "create", "first", "--json"])["orgId"].as_str().unwrap().to_owned();
    let user =
        print(&["users", "create", "first", "--of", &org, "--json"])["userId"].as_str().unwrap().to_owned();
    let made = print(&["tokens", "create", "--of", &org, "--as", &user, "--admin", "--json"]);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}", server.address);
    let (_, health) = answer(http.get(format!("{url}/health")).send().await.unwrap()).await;
    assert_eq!(health["environment"], "production");
    let request = http.post(format!("{url}/api/v1/projects")).bearer_auth(made["token"].as_str().unwrap());
    let request = request.json(&json!({ "name": "first", "orgId": org }));
    assert_eq!(request.send().await.unwrap().status(), 201);
    let fault = http.post(format!("http://{}/testing/panic/sweep", server.operator)).send().await.unwrap();
    assert_eq!(fault.status(), 404, "there are no faults to ask for");
    assert!(server.stop().success());
}

/// A development credential does not become a production one by deleting the file it was written to.
#[tokio::test]
async fn production_refuses_a_development_credential_that_is_still_valid() {
    let app = TestApp::start().await;
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    let mut settings = PRODUCTION.to_vec();
    settings.push(("LIBRA__SECURITY__SECRET_KEY", "kq7Zp0vX3mB9sT5wYc1RfL8nJ2hD6gAe"));
    std::fs::remove_file(folder.data().join("bootstrap.json")).unwrap();
    let refused = run(&folder, &settings, &["serve"]);
    assert_eq!(code(&refused), 64, "{}", said(&refused));
    let listed = said(&run(&folder, &settings, &["tokens", "list"]));
    let id = listed.lines().find(|l| l.contains("bootstrap")).unwrap().split_whitespace().next().unwrap();
    assert!(
        said(&refused).contains(id) && said(&refused).contains("libra tokens revoke"),
        "{}",
        said(&refused)
    );
    assert!(run(&folder, &settings, &["tokens", "revoke", id]).status.success());
    let server = folder.serve(&settings);
    assert!(server.stop().success());
}

#[test]
fn a_taken_port_is_named_and_nothing_is_left_half_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["LIBRA__HTTP__LISTEN", "LIBRA__HTTP__OPERATOR_LISTEN"] {
        let folder = Folder::new();
        let output = run(&folder, &[(key, &address)], &["serve"]);
        assert_eq!(code(&output), 69, "{}", said(&output));
        assert!(said(&output).contains(&address), "{}", said(&output));
        assert!(!folder.data().join("server.json").exists());
    }
}
