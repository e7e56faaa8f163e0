//! Variables of a build: given to that build, and to nobody else, in no form.

use std::path::Path;

use serde_json::{Value, json};

use crate::app::{Folder, TestApp};
use crate::host::{Host, files_with, pids};

const BUILDS: &str = r#"{"scripts":{"build":"node build.js"}}"#;
/// With all that needs escaping somewhere.
const SECRET: &str = "p@ss-w0rd/\"Q\"+ü <1>";

/// Prints the secret as tools do, then waits to be let go.
const PRINTS: &str = r#"const fs = require("fs"); const s = process.env.API_KEY, half = s.length / 2;
    const show = (how, text) => console.log(how, "[" + text + "]");
    show("plain", s); show("json", JSON.stringify(s)); show("twice", JSON.stringify({ body: JSON.stringify({ s }) }));
    show("component", encodeURIComponent(s)); show("form", new URLSearchParams({ s }));
    for (const how of ["base64", "base64url", "hex"]) show(how, Buffer.from(s).toString(how));
    for (const user of ["u", "us", "use"]) show("basic", Buffer.from(user + ":" + s).toString("base64"));
    show("colour", s.slice(0, half) + "\x1b[31m" + s.slice(half)); show("long", "-".repeat(16370) + s);
    process.stdout.write(s.slice(0, half)); console.error(s.slice(half)); console.log(process.env);
    fs.writeFileSync("ready", "");
    const until = () => fs.existsSync("go") ? done() : setTimeout(until, 20);
    const done = () => { fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", "length " + s.length); process.exit(Number(process.env.CODE)); };
    until();"#;

/// Waits until the one build that runs has got so far, looks, and lets it go on.
async fn while_it_runs<T>(app: &TestApp, look: impl FnOnce() -> T) -> T {
    let work = app.folder.data().join("sandbox/work");
    let tree = || {
        let entry = std::fs::read_dir(&work).ok()?.flatten().next()?;
        Some(entry.path().join("tree")).filter(|tree| tree.join("ready").exists())
    };
    app.wait("the build runs", async || tree().is_some()).await;
    let tree = tree().unwrap();
    let seen = look();
    std::fs::write(tree.join("go"), "").unwrap();
    seen
}

/// Command lines of the whole host, and environments outside of sandboxes, that hold `text`.
fn shown_by_processes(text: &str) -> Vec<String> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (ours, me) = (namespace("self"), i32::try_from(std::process::id()).unwrap());
    let holds = |path: String| {
        let bytes = std::fs::read(&path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(text).then_some(path)
    };
    pids()
        .filter(|pid| *pid != me)
        .flat_map(|pid| {
            let outside = namespace(&pid.to_string()) == ours;
            let environ = outside.then(|| holds(format!("/proc/{pid}/environ"))).flatten();
            [holds(format!("/proc/{pid}/cmdline")), environ].into_iter().flatten()
        })
        .collect()
}

fn body(app: &TestApp, project: &str, script: &str, env: Value) -> Value {
    let mut body = app.body(project, &[("package.json", BUILDS), ("build.js", script)]);
    body["env"] = env;
    body
}

#[tokio::test]
async fn a_builds_variables_are_masked_sealed_and_gone_afterwards() {
    let folder = Folder::new();
    let (host, server) = Host::serve(&folder, &[]);
    let app = TestApp::on(folder, server);
    for (name, code) in [("succeeds", "0"), ("fails", "1")] {
        let (project, worker) = app.project(name).await;
        let env = json!({ "API_KEY": SECRET, "CODE": code });
        let id = app.deploy(&body(&app, &project, PRINTS, env)).await;
        let seen = while_it_runs(&app, || shown_by_processes(SECRET)).await;
        assert_eq!(seen, Vec::<String>::new());
        let public = app.until_final(&id).await;
        let log = app.log_of(&id).await;
        assert_eq!(public["status"], if code == "0" { "completed" } else { "failed" }, "{log}");
        let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
        for form in [
            "plain [***]",
            "json [\"***\"]",
            "component [***]",
            "form [s=***]",
            "base64 [***",
            "hex [***]",
            "colour [***]",
            "API_KEY: '***'",
            "\n***\n",
        ] {
            assert!(log.contains(form), "{form}: {log}");
        }
        // No beginning and no end of it either, in any place that anybody reads or that lies on disk.
        for part in ["p@ss-w0", "w0rd/", "p%40ss", "%221%22", "\\\"Q", "70407373", "cEBzcy13"] {
            for (place, text) in
                [("log", &log), ("public", &public.to_string()), ("member", &member.to_string())]
            {
                assert!(!text.contains(part), "{part} in {place}: {text}");
            }
        }
        assert_eq!(files_with(app.folder.path(), b"w0rd/"), Vec::<std::path::PathBuf>::new());
        if code == "0" {
            let page = app.worker(&worker, "/").await.text().await.unwrap();
            assert_eq!(page, format!("length {}", SECRET.encode_utf16().count()));
        }
    }
    // The next deployment of the same project has none of it.
    let (project, worker) = app.project("later").await;
    app.deploy_live(&body(
        &app,
        &project,
        r#"require("fs").mkdirSync("dist");
        require("fs").writeFileSync("dist/index.html", "first " + process.env.API_KEY)"#,
        json!({ "API_KEY": "for the first" }),
    ))
    .await;
    app.deploy_live(&body(
        &app,
        &project,
        r#"require("fs").mkdirSync("dist");
        require("fs").writeFileSync("dist/index.html", JSON.stringify(process.env))"#,
        json!({}),
    ))
    .await;
    let page = app.worker(&worker, "/").await.text().await.unwrap();
    let seen: Value = serde_json::from_str(&page).unwrap();
    assert!(seen["API_KEY"].is_null() && !page.contains("for the first"), "{page}");
    // Nor anything of the server's own.
    let own = ["LIBRA", "CARGO", "RUST", "SSH", "USER"];
    let names = seen.as_object().unwrap().keys();
    assert_eq!(
        names.filter(|n| own.iter().any(|o| n.starts_with(o))).collect::<Vec<_>>(),
        Vec::<&String>::new()
    );
    host.must_be_untouched(&app.folder);
    assert!(app.server.stop().success());
}

#[tokio::test]
async fn variables_that_steer_programs_steer_none_outside_the_sandbox() {
    let folder = Folder::new();
    let (host, server) = Host::serve(&folder, &[]);
    let app = TestApp::on(folder, server);
    // Where every uid may write: outside it would lie in the host's folder, inside in the sandbox's own.
    let trace = format!("libra-trace-{}", uuid::Uuid::new_v4().simple());
    let (project, worker) = app.project("steered").await;
    // Each of them writes where it is obeyed: as a file of the build, or as one of the host.
    let env = json!({
        "LD_PRELOAD": "/work/evil.so",
        "LD_LIBRARY_PATH": "/work",
        "LD_DEBUG": "files",
        "LD_DEBUG_OUTPUT": format!("/tmp/{trace}"),
        "NODE_OPTIONS": "--require /work/evil.js",
        "PATH": "/work/bin:/opt/node/bin:/usr/bin:/bin",
        "HOME": "/root",
        "BASH_ENV": "/work/evil.sh",
        "GCONV_PATH": "/work",
        "TMPDIR": app.folder.path().display().to_string(),
        "npm_config_registry": "http://192.0.2.1/",
        "LIBRA__SANDBOX__PROVIDER": "none",
    });
    let evil = r#"try { require("fs").writeFileSync("/work/obeyed", String(process.pid)) } catch {}"#;
    let build = r#"const fs = require("fs"); fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", "obeyed " + fs.existsSync("obeyed"));"#;
    let files = [
        ("package.json", BUILDS),
        ("build.js", build),
        ("evil.js", evil),
        ("evil.so", "not a library"),
        ("bin/bwrap", "#!/bin/sh\ntouch /tmp/evil\n"),
        ("evil.sh", "touch /tmp/evil\n"),
    ];
    let mut hostile = app.body(&project, &files);
    hostile["env"] = env;
    app.deploy_live(&hostile).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "obeyed true");
    let traces = || std::fs::read_dir("/tmp").unwrap().flatten().map(|e| e.file_name());
    assert!(!traces().any(|name| name.to_string_lossy().starts_with(&trace)));
    assert!(!Path::new("/tmp/evil").exists() && !Path::new("/work/obeyed").exists());
    // The same folder, without the variables: nothing of them has stayed.
    app.deploy_live(&app.body(&project, &files)).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "obeyed false");
    host.must_be_untouched(&app.folder);
    assert!(app.server.stop().success());
}
