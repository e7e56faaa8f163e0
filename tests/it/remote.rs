//! Builds at E2B and Daytona, end to end: the same deployment as with the local provider, and what
//! becomes of it when the provider is away or the server dies. The protocols are the provider tests'.

use serde_json::json;

use crate::app::{Settings, TestApp, root};
use crate::cloud::{Fault, KEY, Protocol, Server};
use crate::failing::{BUILD, QUICK, built_site, quick};

const BOTH: [(&str, Protocol); 2] = [("e2b", Protocol::E2b), ("daytona", Protocol::Daytona)];

fn cloud(protocol: Protocol) -> Server {
    let tools = std::env::var_os("LIBRA__TOOLS_DIR").map_or_else(|| root().join(".libra/tools"), Into::into);
    Server::start(protocol, &tools.join("node/24"))
}

/// Settings that lead there; which provider is the default is another one.
fn way_to<'a>(name: &str, url: &'a str) -> Vec<(&'static str, &'a str)> {
    let mut settings =
        vec![("LIBRA__SANDBOX__REMOTE__RETRIES", "1"), ("LIBRA__SANDBOX__REMOTE__RETRY_WAIT_MS", "20")];
    settings.extend(match name {
        "e2b" => vec![
            ("E2B_API_KEY", KEY),
            ("LIBRA__SANDBOX__E2B__API_URL", url),
            ("LIBRA__SANDBOX__E2B__SANDBOX_URL", url),
        ],
        _ => vec![("DAYTONA_API_KEY", KEY), ("LIBRA__SANDBOX__DAYTONA__API_URL", url)],
    });
    settings
}

fn as_default<'a>(name: &'a str, url: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut settings = way_to(name, url);
    settings.push(("SANDBOX_BUILDER_DEFAULT_PROVIDER", name));
    quickly(settings)
}

fn quickly<'a>(more: Vec<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    let mut all: Vec<(&'a str, &'a str)> = QUICK.to_vec();
    all.extend(more);
    all
}

async fn start(settings: Settings<'_>) -> TestApp {
    TestApp::start_with(settings).await
}

#[tokio::test]
async fn a_build_at_a_remote_provider_goes_live_and_leaves_nothing_there() {
    for (name, protocol) in BOTH {
        let server = cloud(protocol);
        let app = start(&as_default(name, server.url())).await;
        let (project, worker) = app.project("far away").await;
        let script = format!("{BUILD}console.log('word', process.env.WORD.length);\n");
        let mut body = built_site(&app, &project, &script, "<h1>far</h1>");
        body["env"] = json!({ "WORD": "a-secret-word" });
        let id = app.deploy_live(&body).await;
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>far</h1>", "{name}");
        let log = app.log_of(&id).await;
        assert!(log.contains("built") && log.contains("word 13"), "{name}: {log}");
        assert!(server.boxes().is_empty(), "{name}");
        app.wait("health knows the provider", async || {
            let sandbox = app.health().await["checks"]["sandbox"].clone();
            sandbox["provider"] == name && sandbox["status"] == "healthy" && sandbox["notEnforced"].is_array()
        })
        .await;
        // A failing build is the project's fault there too.
        let failing = built_site(&app, &project, "process.exit(9)", "");
        let document = app.until_final(&app.deploy(&failing).await).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("failed"), &json!(1)),
            "{document:#}"
        );
        assert_eq!(document["cause"]["class"], "user", "{document:#}");
        assert!(!app.server.log().contains(KEY), "{name}: the key is in the log");
    }
}

#[tokio::test]
async fn an_organization_is_given_another_provider_and_back() {
    let server = cloud(Protocol::E2b);
    let settings = quickly(way_to("e2b", server.url()));
    let app = start(&settings).await;
    let (project, worker) = app.project("given").await;
    let set = |provider: &str| {
        let arguments = ["orgs", "set", &app.org, "--sandbox-provider", provider];
        app.folder.libra(&settings).args(arguments).output().unwrap()
    };
    let refused = set("daytona");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("sandbox.daytona.api_key"), "{said}");
    for (provider, made, page) in [
        ("e2b", 1, "<h1>e2b</h1>"),
        ("local", 1, "<h1>local</h1>"),
        ("e2b", 2, "<h1>again</h1>"),
        ("default", 2, "<h1>default</h1>"),
    ] {
        assert!(set(provider).status.success(), "{provider}");
        app.deploy_live(&built_site(&app, &project, BUILD, page)).await;
        assert_eq!(server.count("POST", "/v2/sandboxes"), made, "{provider}");
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), page);
    }
    // One that the server does not have (any more) is the operator's matter.
    assert!(set("e2b").status.success());
    let app = app.restart_after_kill(&quick(&[]));
    let id = app.deploy(&built_site(&app, &project, BUILD, "")).await;
    let document = app.until_final(&id).await;
    assert_eq!(document["cause"]["class"], "platform", "{document:#}");
    let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
    assert!(member["deployment"]["cause"]["evidence"].to_string().contains("libra orgs set"), "{member:#}");
}

#[tokio::test]
async fn a_provider_that_is_down_costs_three_attempts_and_is_a_dead_letter() {
    for (name, protocol) in BOTH {
        let server = cloud(protocol);
        let app = start(&as_default(name, server.url())).await;
        let path = if name == "e2b" { "/v2/sandboxes" } else { "/sandbox" };
        let fault = Fault::Status { status: 503, retry_after: None, body: "down, says key-in-the-body" };
        server.arm("POST", path, fault, 1_000);
        let (project, _) = app.project("down").await;
        let id = app.deploy(&built_site(&app, &project, BUILD, "")).await;
        let document = app.until_final(&id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("failed"), &json!(3)),
            "{document:#}"
        );
        let cause = &document["cause"];
        assert_eq!(
            (&cause["class"], &cause["step"]),
            (&json!("platform"), &json!("sandbox")),
            "{document:#}"
        );
        let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
        let evidence = member["deployment"]["cause"]["evidence"].to_string();
        assert!(evidence.contains(name) && evidence.contains("503"), "{evidence}");
        assert!(!document.to_string().contains("key-in-the-body"), "{document:#}");
        let letters = app.letters().await;
        let [(_, letter)] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!(letter["cause"]["summary"], cause["summary"]);
        // It is back: so are we.
        server.disarm();
        app.deploy_live(&built_site(&app, &project, BUILD, "<h1>back</h1>")).await;
    }
}

#[tokio::test]
async fn what_a_killed_server_left_at_a_provider_is_swept() {
    for (name, protocol) in BOTH {
        let server = cloud(protocol);
        let settings = as_default(name, server.url());
        let app = start(&settings).await;
        server.make_foreign();
        let (project, worker) = app.project("killed").await;
        app.hold(&format!("build.begin@{project}")).await;
        let id = app.deploy(&built_site(&app, &project, BUILD, "<h1>second try</h1>")).await;
        app.until_held(&id, "build").await;
        let first = format!("{id}.1");
        let has = |sandbox: &str| {
            server.boxes().iter().any(|b| b.get("libra-sandbox").is_some_and(|s| s == sandbox))
        };
        assert!(has(&first), "{name}");
        let app = app.restart_after_kill(&settings);
        let document = app.until_final(&id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&json!("completed"), &json!(2)),
            "{document:#}"
        );
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>second try</h1>");
        app.wait("the leftover is gone", async || !has(&first)).await;
        // What another installation made is not ours to sweep.
        assert_eq!(server.boxes().len(), 1, "{name}");
    }
}
