//! Kept dependencies through the whole product: what the second deployment leaves out, who has to install
//! for themselves, and what the build log says.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{TestApp, answer};
use crate::tenants::Member;

const BUILD: &str = r#"const fs = require("fs"); fs.mkdirSync("dist", { recursive: true });
    fs.mkdirSync("node_modules/.cache/own", { recursive: true }); fs.appendFileSync("node_modules/.cache/own/x", "x");
    const builds = fs.readFileSync("node_modules/.cache/own/x").length;
    fs.writeFileSync("dist/index.html", [typeof require("picocolors").red, fs.readFileSync("words.txt", "utf8"), builds].join(" "));"#;

/// A project with one package of the registry, and a lockfile as people have it.
fn files(name: &str, words: &str) -> Vec<(String, String)> {
    let text =
        std::fs::read_to_string(crate::app::root().join("examples/vite-react/package-lock.json")).unwrap();
    let example: Value = serde_json::from_str(&text).unwrap();
    let manifest = json!({ "name": name, "version": "1.0.0", "dependencies": { "picocolors": "1.1.1" } });
    let packages =
        json!({ "": manifest, "node_modules/picocolors": example["packages"]["node_modules/picocolors"] });
    let mut lockfile = json!({ "name": name, "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": packages });
    lockfile["packages"]["node_modules/picocolors"].as_object_mut().unwrap().remove("dev");
    let mut manifest = manifest;
    manifest["scripts"] = json!({ "build": "node build.js" });
    [
        ("package.json", manifest.to_string()),
        ("package-lock.json", lockfile.to_string()),
        ("build.js", BUILD.to_owned()),
        ("words.txt", words.to_owned()),
    ]
    .map(|(path, text)| (path.to_owned(), text))
    .into()
}

fn body(app: &TestApp, project: &str, files: &[(String, String)]) -> Value {
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    app.body(project, &files)
}

/// The key that the log names after `word`.
fn key(log: &str, word: &str) -> String {
    let from = format!("libra: dependencies: {word} ");
    let line = log.lines().find(|l| l.contains(&from)).unwrap_or_else(|| panic!("no {word}: {log}"));
    let rest = &line[line.find(&from).unwrap() + from.len()..];
    rest.chars().take_while(char::is_ascii_hexdigit).collect()
}

#[tokio::test]
async fn the_second_deployment_installs_nothing_even_while_the_registry_is_away() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("kept").await;
    let first = app.deploy_live(&body(&app, &project, &files("kept", "one"))).await;
    let log = app.log_of(&first).await;
    let kept = key(&log, "miss");
    assert_eq!(key(&log, "kept as"), kept);
    assert!(log.contains("$ npm ci") && kept.len() == 12, "{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function one 1");

    // Another organization has to install the same for itself, and so has who changes the lockfile.
    let stranger = Member::of_new_organization(&app, "stranger");
    let theirs = stranger.project(&app, "kept").await;
    let mut foreign = body(&app, &theirs, &files("kept", "one"));
    foreign["orgId"] = json!(stranger.org);
    foreign["userId"] = json!(stranger.user);
    let (status, made) =
        answer(stranger.request(&app, Method::POST, "/deploy").json(&foreign).send().await.unwrap()).await;
    assert_eq!(status, 202, "{made}");
    let id = made["deploymentId"].as_str().unwrap();
    assert_eq!(app.until_final(id).await["status"], "completed");
    let path = format!("/api/v1/deployments/{id}/logs");
    let log = stranger.request(&app, Method::GET, &path).send().await.unwrap().text().await.unwrap();
    assert!(log.contains("$ npm ci") && key(&log, "miss") != kept, "{log}");
    let mut changed = files("kept", "one");
    changed[1].1 = changed[1].1.replace("\"requires\":true", "\"requires\":true,\"more\":1");
    let other = app.deploy_live(&body(&app, &project, &changed)).await;
    let log = app.log_of(&other).await;
    assert!(log.contains("$ npm ci") && key(&log, "miss") != kept, "{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function one 2");

    // Neither a registry nor a package that was fetched before.
    let empty = tempfile::tempdir().unwrap();
    let away = [
        ("LIBRA__SANDBOX__MIRROR__REGISTRY_URL", "http://127.0.0.1:9/"),
        ("LIBRA__MIRROR_DIR", empty.path().to_str().unwrap()),
    ];
    let app = app.restart_after_kill(&away);
    let second = app.deploy_live(&body(&app, &project, &files("kept", "two"))).await;
    let log = app.log_of(&second).await;
    assert_eq!(key(&log, "hit"), kept);
    assert!(!log.contains("$ npm ci") && log.contains(" ms"), "{log}");
    assert!(log.contains("framework caches: put back node_modules/.cache"), "{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function two 3");

    // Nothing ran while it was made, so another project of the organization has it too; its framework
    // caches it has not.
    let (sibling, worker) = app.project("sibling").await;
    let third = app.deploy_live(&body(&app, &sibling, &files("sibling", "three"))).await;
    assert_eq!(key(&app.log_of(&third).await, "hit"), kept);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function three 1");
}

#[tokio::test]
async fn a_deployment_can_be_told_to_forget_what_was_kept() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("forgetful").await;
    let mut order = body(&app, &project, &files("forgetful", "one"));
    let first = app.deploy_live(&order).await;
    let kept = key(&app.log_of(&first).await, "kept as");
    order["build"] = json!({ "cache": false });
    let second = app.deploy_live(&order).await;
    let log = app.log_of(&second).await;
    assert!(log.contains("nothing that was kept is used") && log.contains("$ npm ci"), "{log}");
    // It was forgotten, so that there is room under the same key.
    assert_eq!(key(&log, "kept as"), kept);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function one 1");
    order["build"] = json!({ "cache": true });
    let third = app.deploy_live(&order).await;
    assert_eq!(key(&app.log_of(&third).await, "hit"), kept);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "function one 2");
}

#[tokio::test]
async fn a_projects_own_part_of_the_install_sees_the_files_of_now() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("own").await;
    let manifest = r#"{"name":"p","version":"1.0.0","dependencies":{"words":"file:./words"},"scripts":{
        "build":"mkdir -p dist && cp made.txt dist/index.html","postinstall":"node make.js"}}"#;
    let lockfile = r#"{"name":"p","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
        "":{"name":"p","version":"1.0.0","hasInstallScript":true,"dependencies":{"words":"file:./words"}},
        "words":{"version":"1.0.0"},"node_modules/words":{"resolved":"words","link":true}}}"#;
    let deploy = async |words: &str, env: Value| {
        let make = r#"require("fs").writeFileSync("made.txt", require("words"))"#;
        let export = format!("module.exports = '{words}'");
        let files = [
            ("package.json", manifest),
            ("package-lock.json", lockfile),
            ("make.js", make),
            ("words/package.json", r#"{"name":"words","version":"1.0.0"}"#),
            ("words/index.js", &*export),
        ];
        let mut body = app.body(&project, &files);
        body["env"] = env;
        let id = app.deploy_live(&body).await;
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), words);
        app.log_of(&id).await
    };
    let first = deploy("first", json!({ "WORD": "secret-of-one" })).await;
    assert!(first.contains("$ npm ci\n"), "{first}");
    let kept = key(&first, "kept as");
    let second = deploy("second", json!({ "WORD": "secret-of-one" })).await;
    assert_eq!(key(&second, "hit"), kept);
    assert!(second.contains("$ npm run postinstall") && !second.contains("$ npm ci"), "{second}");
    // Scripts ran, and a variable may have told them what to do.
    let third = deploy("third", json!({ "WORD": "secret-of-two" })).await;
    assert_ne!(key(&third, "miss"), kept);
}

#[tokio::test]
async fn nothing_is_kept_where_that_is_switched_off() {
    let app = TestApp::start_with(&[("LIBRA__SANDBOX__CACHE__ENABLED", "false")]).await;
    let (project, _) = app.project("off").await;
    for words in ["one", "two"] {
        let id = app.deploy_live(&body(&app, &project, &files("off", words))).await;
        let log = app.log_of(&id).await;
        assert!(log.contains("$ npm ci") && !log.contains("libra: dependencies"), "{log}");
    }
    assert!(!app.folder.data().join("sandbox/cache").exists());
}
