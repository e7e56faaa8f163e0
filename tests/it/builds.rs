//! Builds that are broken or hostile, sent in as users do: each ends with its own cause, and nothing
//! of it is left on the host.

use serde_json::{Value, json};

use crate::app::{Folder, Settings, TestApp};
use crate::host::Host;

const BUILDS: &str = r#"{"scripts":{"build":"node build.js"}}"#;
const WRITE_PAGE: &str = r#"const fs = require("fs"); fs.mkdirSync("dist", { recursive: true });
    fs.writeFileSync("dist/index.html", "<h1>built</h1>");"#;

/// A server of the test's own, watched from outside.
struct Yard {
    app: TestApp,
    host: Host,
    /// What follows the name of a limit that is only polled here.
    polled: &'static str,
}

/// A deployment that must fail.
struct Attack<'a> {
    name: &'a str,
    files: Vec<(&'a str, &'a str)>,
    build: Value,
}

/// How it must end.
struct Cause<'a> {
    step: &'a str,
    summary: &'a str,
    hint: &'a str,
    evidence: &'a str,
}

impl Yard {
    async fn open(settings: Settings<'_>) -> Self {
        let folder = Folder::new();
        let (host, server) = Host::serve(&folder, settings);
        let app = TestApp::on(folder, server);
        let started = app.server.log();
        assert!(started.contains("provider=\"local\" default=true ok=true"), "{started}");
        let polled = if started.contains("limiter=polling") { " (polled)" } else { "" };
        Self { app, host, polled }
    }

    /// Deploys something that must fail, and holds its cause to `expected`.
    async fn fails(&self, attack: Attack<'_>, expected: Cause<'_>) {
        let name = attack.name;
        let (project, worker) = self.app.project(name).await;
        let mut body = self.app.body(&project, &attack.files);
        body["build"] = attack.build;
        let id = self.app.deploy(&body).await;
        let public = self.app.until_final(&id).await;
        let (_, member) = self.app.get(&format!("/api/v1/deployments/{id}")).await;
        let cause = &member["deployment"]["cause"];
        let all = format!("{name}: {cause:#}\n{}", self.app.log_of(&id).await);
        assert_eq!(public["status"], "failed", "{all}");
        // Final at once: nothing that the user did is tried again.
        assert_eq!(public["attempt"], 1, "{all}");
        assert_eq!(cause["class"], "user", "{all}");
        assert_eq!(cause["step"], expected.step, "{all}");
        assert_eq!(cause["summary"], expected.summary, "{all}");
        assert!(cause["hint"].as_str().unwrap().contains(expected.hint), "{all}");
        assert!(cause["evidence"].as_str().unwrap_or_default().contains(expected.evidence), "{all}");
        let mut shown = cause.clone();
        shown.as_object_mut().unwrap().remove("evidence");
        assert_eq!(public["cause"], shown, "{name}");
        assert_eq!(self.app.worker(&worker, "/").await.status(), 404, "{name}");
    }

    async fn succeeds(&self, name: &str, files: &[(&str, &str)], build: Value) -> (String, String) {
        let (project, worker) = self.app.project(name).await;
        let mut body = self.app.body(&project, files);
        body["build"] = build;
        let id = self.app.deploy_live(&body).await;
        (id, worker)
    }

    async fn page(&self, worker: &str, path: &str) -> String {
        self.app.worker(worker, path).await.text().await.unwrap()
    }

    fn close(self) {
        self.host.must_be_untouched(&self.app.folder);
        assert!(self.app.server.stop().success());
    }
}

/// A project whose build is this script.
fn script<'a>(name: &'a str, build: &'a str) -> Attack<'a> {
    Attack { name, files: vec![("package.json", BUILDS), ("build.js", build)], build: json!({}) }
}

fn files<'a>(name: &'a str, files: &[(&'a str, &'a str)]) -> Attack<'a> {
    Attack { name, files: files.to_vec(), build: json!({}) }
}

#[tokio::test]
async fn a_broken_project_is_told_what_is_wrong_with_it() {
    let yard = Yard::open(&[]).await;
    let failed = "The build command failed with exit code 1.";
    let cause = |step, summary, hint, evidence| Cause { step, summary, hint, evidence };
    let in_build = |summary, hint, evidence| cause("build", summary, hint, evidence);
    tokio::join!(
        yard.fails(
            script("exits one", r#"console.log("words of the build"); process.exit(1)"#),
            in_build(failed, "Read the build log", "words of the build"),
        ),
        yard.fails(
            script("signals", "process.kill(process.pid, 'SIGSEGV'); setInterval(() => {}, 1000)"),
            in_build("The build command failed with exit code 139.", "Read the build log", "node build.js"),
        ),
        yard.fails(
            script("nothing", "console.log('all is well')"),
            in_build("The build produced no output.", "build.outputDirectory", "looked for: dist, build"),
        ),
        yard.fails(
            script("empty", "require('fs').mkdirSync('dist/deep', { recursive: true })"),
            in_build("The build produced no output.", "build.outputDirectory", "looked for: dist, build"),
        ),
        yard.fails(
            files("broken manifest", &[("package.json", "{"), ("index.html", "x")]),
            cause("sandbox", "package.json can't be read.", "a valid JSON object", "package.json"),
        ),
        yard.fails(
            files("no script", &[("package.json", r#"{"dependencies":{"a":"1"}}"#)]),
            cause("sandbox", "package.json has no build script.", "set build.command", "script named build"),
        ),
        yard.fails(
            files("no site", &[("readme.md", "x")]),
            cause("sandbox", "Nothing to deploy: no package.json and no HTML file.", "index.html", "neither"),
        ),
        yard.fails(
            Attack {
                build: json!({ "rootDirectory": "apps/none", "command": "true" }),
                ..script("no root", "")
            },
            cause("sandbox", "The root directory does not exist.", "build.rootDirectory", "apps/none"),
        ),
        yard.fails(
            Attack { build: json!({ "outputDirectory": "site" }), ..script("elsewhere", WRITE_PAGE) },
            in_build("The build produced no output.", "build.outputDirectory", "looked for: site"),
        ),
        yard.fails(
            Attack {
                build: json!({ "installCommand": "node -e 'process.exit(7)'" }),
                ..script("install", "")
            },
            in_build("Installing the dependencies failed with exit code 7.", "package.json", "process.exit"),
        ),
        yard.fails(
            Attack { build: json!({ "command": "no-such-program --now" }), ..script("command", "") },
            in_build(
                "A program that a command names is not installed.",
                "correct the command",
                "no-such-program"
            ),
        ),
    );
    yard.close();
}

#[tokio::test]
async fn a_greedy_build_is_killed_and_the_limit_named() {
    let settings = [("LIBRA__SANDBOX__DISK_BYTES", "67108864"), ("LIBRA__SANDBOX__PROCESSES", "128")];
    let yard = Yard::open(&settings).await;
    let memory = format!("killed: memory limit 2.0 GiB{}", yard.polled);
    let killed =
        |summary, evidence| Cause { step: "build", summary, hint: "Make the build need less", evidence };
    let eat = "const all = []; for (let i = 0; i < 96; i++) all.push(Buffer.alloc(32 << 20, 1)); console.log('ate 3 GiB');";
    yard.fails(script("memory", eat), killed(&memory, &memory)).await;
    // Its parent hides the death, leaves a whole site and says that all is well.
    let grandchild = format!(
        r#"const run = require("child_process").spawnSync;
        run("node", ["-e", `require("child_process").spawnSync("node", ["-e", ${{JSON.stringify({eat:?})}}])`]);
        {WRITE_PAGE}"#
    );
    yard.fails(script("grandchild", &grandchild), killed(&memory, &memory)).await;
    tokio::join!(
        yard.fails(
            script("prints", r#"const line = "x".repeat(65535) + "\n"; for (let i = 0; i < 16384; i++) require("fs").writeSync(1, line);"#),
            killed("killed: output limit 64 MiB", "killed: output limit 64 MiB"),
        ),
        yard.fails(
            script("fills", r#"for (let i = 0; ; i++) require("fs").writeFileSync("f" + i, Buffer.alloc(1 << 20, 1))"#),
            killed("killed: disk limit 64 MiB", "killed: disk limit 64 MiB"),
        ),
    );
    yard.close();
}

#[tokio::test]
async fn a_build_without_end_is_killed_with_all_its_children() {
    let settings = [("LIBRA__SANDBOX__WALL_SECONDS", "20"), ("LIBRA__SANDBOX__PROCESSES", "128")];
    let yard = Yard::open(&settings).await;
    let killed =
        |summary, evidence| Cause { step: "build", summary, hint: "Make the build need less", evidence };
    let stubborn = r#"for (const s of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(s, () => {});
        require("child_process").spawn("node", ["-e", "setInterval(() => {}, 1000)"], { detached: true, stdio: "ignore" }).unref();
        setInterval(() => {}, 1000)"#;
    // Where a group counts, the refused forks are known; elsewhere whoever looks sees them or not.
    let forks = r#"const { spawn } = require("child_process"); let failed = false;
        const more = () => { for (let i = 0; i < 16; i++) spawn("cat", { stdio: ["pipe", "ignore", "ignore"] }).on("error", () => failed = true);
            if (failed) setTimeout(() => process.exit(1), 1000); else setImmediate(more); };
        more();"#;
    let limit = format!("killed: process limit 128{}", yard.polled);
    let ever =
        yard.fails(script("ever", stubborn), killed("killed: time limit 20 s", "killed: time limit 20 s"));
    if yard.polled.is_empty() {
        tokio::join!(ever, yard.fails(script("forks", forks), killed(&limit, "process limit")));
    } else {
        ever.await;
    }
    yard.close();
}

#[tokio::test]
async fn nothing_but_plain_files_of_the_output_is_served() {
    let yard = Yard::open(&[]).await;
    let refused = "The build's output can't be taken.";
    let taken = |evidence| Cause { step: "build", summary: refused, hint: "plain files", evidence };
    let none = |evidence| Cause {
        step: "build",
        summary: "The build produced no output.",
        hint: "build.outputDirectory",
        evidence,
    };
    let links = format!(
        r#"{WRITE_PAGE} fs.symlinkSync("/etc", "dist/etc"); fs.symlinkSync("/etc/passwd", "dist/passwd.txt");
        fs.symlinkSync("index.html", "dist/same.html"); fs.linkSync("dist/index.html", "dist/hard.html");
        require("child_process").execFileSync("mkfifo", ["dist/pipe.txt"]);
        for (const from of ["/etc/passwd", "/usr/bin/env", "/opt/node/bin/node", "/run/libra/shim", "/proc/self/environ"])
            try {{ fs.linkSync(from, "dist/taken"); console.log("LINKED", from); }} catch (e) {{ console.log(e.code, from); }}"#
    );
    let outside = format!(
        r#"{WRITE_PAGE} const wrote = [];
        for (const path of ["/etc/passwd", "/etc/x", "/usr/x", "/x", "/opt/node/bin/node", "/run/libra/shim", "/proc/sys/kernel/core_pattern",
                            "/var/x", "/root/x", "../x", "/run/libra/sockets/registry.sock"])
            try {{ fs.writeFileSync(path, "x"); wrote.push(path); }} catch (e) {{ console.log(e.code, path); }}
        fs.writeFileSync("dist/wrote.json", JSON.stringify(wrote));"#
    );
    let removed = format!(r#"{WRITE_PAGE} fs.rmSync("dist", {{ recursive: true }})"#);
    let device = format!(
        r#"{WRITE_PAGE} require("child_process").execFileSync("mknod", ["dist/zero", "c", "1", "5"])"#
    );
    let bad_name = format!(r#"{WRITE_PAGE} fs.writeFileSync("dist/a\\b.txt", "x")"#);
    let (links, outside) = (
        [("package.json", BUILDS), ("build.js", &*links)],
        [("package.json", BUILDS), ("build.js", &*outside)],
    );
    let (with_links, writes_outside, ..) = tokio::join!(
        yard.succeeds("links", &links, json!({})),
        yard.succeeds("outside", &outside, json!({})),
        yard.fails(
            script("link for folder", r#"require("fs").symlinkSync("/etc", "dist")"#),
            taken("`dist` is not a plain folder"),
        ),
        yard.fails(
            script("fifo for folder", r#"require("child_process").execFileSync("mkfifo", ["dist"])"#),
            taken("`dist` is not a plain folder"),
        ),
        yard.fails(
            script("fifo for page", r#"require("fs").mkdirSync("dist"); require("child_process").execFileSync("mkfifo", ["dist/index.html"])"#),
            none("looked for: dist, build"),
        ),
        yard.fails(
            script("removed", &removed),
            none("looked for: dist, build"),
        ),
        yard.fails(
            script("device", &device),
            Cause {
                step: "build",
                summary: "The build command failed with exit code 1.",
                hint: "build log",
                evidence: "Operation not permitted",
            },
        ),
        yard.fails(
            script("bad name", &bad_name),
            taken("backslash"),
        ),
    );
    let (id, worker) = with_links;
    let log = yard.app.log_of(&id).await;
    assert!(!log.contains("LINKED"), "{log}");
    // What is left out is said, not dropped in silence.
    for (path, kind) in [("etc", "link"), ("passwd.txt", "link"), ("same.html", "link"), ("pipe.txt", "fifo")]
    {
        assert!(log.contains(&format!("left out, because it is no regular file: {path} ({kind})")), "{log}");
        assert_eq!(yard.app.worker(&worker, &format!("/{path}/passwd.txt")).await.status(), 404, "{path}");
    }
    assert_eq!(yard.app.worker(&worker, "/passwd.txt").await.status(), 404);
    for path in ["/", "/hard.html"] {
        assert_eq!(yard.page(&worker, path).await, "<h1>built</h1>");
    }
    assert_eq!(yard.page(&writes_outside.1, "/wrote.json").await, "[]");
    yard.close();
}

#[tokio::test]
async fn dependencies_are_installed_as_the_lockfile_allows() {
    let yard = Yard::open(&[]).await;
    let build = format!(r#"{WRITE_PAGE} fs.writeFileSync("dist/index.html", require("words-0"))"#);
    let manifest = |count: usize| {
        let all: Vec<String> = (0..count).map(|i| format!(r#""words-{i}":"file:./words/{i}""#)).collect();
        format!(
            r#"{{"name":"p","version":"1.0.0","scripts":{{"build":"node build.js"}},"dependencies":{{{}}}}}"#,
            all.join(",")
        )
    };
    // So many misfits that npm's own words about them are longer than what is kept as evidence.
    let many = 150;
    let (one, all) = (manifest(1), manifest(many));
    let package = |i: usize| {
        (format!("words/{i}/package.json"), format!(r#"{{"name":"words-{i}","version":"1.0.0"}}"#))
    };
    let packages: Vec<(String, String)> = (0..many).map(package).collect();
    let lockfile = r#"{"name":"p","version":"1.0.0","lockfileVersion":3,"requires":true,"packages":{
        "":{"name":"p","version":"1.0.0","dependencies":{"words-0":"file:./words/0"}},
        "words/0":{"name":"words-0","version":"1.0.0"},
        "node_modules/words-0":{"resolved":"words/0","link":true}}}"#;
    let with = |manifest: &str, lockfile: Option<&str>, count: usize| {
        let mut files: Vec<(String, String)> = packages[..count].to_vec();
        files.push(("package.json".into(), manifest.into()));
        files.push(("build.js".into(), build.clone()));
        files.push(("words/0/index.js".into(), "module.exports = 'from a dependency'".into()));
        files.extend(lockfile.map(|l| ("package-lock.json".to_owned(), l.to_owned())));
        files
    };
    let run = async |name: &str, files: Vec<(String, String)>| {
        let files: Vec<(&str, &str)> = files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
        let (id, worker) = yard.succeeds(name, &files, json!({})).await;
        assert_eq!(yard.page(&worker, "/").await, "from a dependency", "{name}");
        yard.app.log_of(&id).await
    };
    let (fits, misfits, without) = tokio::join!(
        run("fits", with(&one, Some(lockfile), 1)),
        run("misfits", with(&all, Some(lockfile), many)),
        run("without", with(&one, None, 1)),
    );
    assert!(fits.contains("$ npm ci") && !fits.contains("npm install"), "{fits}");
    assert!(
        misfits.contains("$ npm ci")
            && misfits.contains("the lockfile does not fit package.json; falling back to npm install"),
        "{misfits}"
    );
    assert!(without.contains("no lockfile") && without.contains("$ npm install"), "{without}");
    yard.close();
}

#[tokio::test]
async fn a_users_own_commands_and_folders_are_used() {
    let yard = Yard::open(&[]).await;
    let files = [
        ("readme.md", "a repository of several projects"),
        ("apps/web/package.json", r#"{"scripts":{"build":"node wrong.js"},"dependencies":{"absent":"1"}}"#),
        ("apps/web/page.txt", "page of the web app"),
    ];
    let build = json!({
        "rootDirectory": "apps/web/",
        "installCommand": "mkdir -p made && echo installed > made/words.txt",
        "command": "mkdir -p out/site && cat made/words.txt page.txt > out/site/index.html && pwd",
        "outputDirectory": "./out/site",
    });
    let (id, worker) = yard.succeeds("own", &files, build).await;
    assert_eq!(yard.page(&worker, "/").await, "installed\npage of the web app");
    let log = yard.app.log_of(&id).await;
    assert!(log.contains("/work/apps/web\n") && log.contains("output found in out/site/"), "{log}");
    // Without a package.json a command is enough, and an empty install command installs nothing.
    let bare = [("words.txt", "no manifest")];
    let build = json!({ "command": "mkdir dist && cp words.txt dist/index.html", "installCommand": "" });
    let (_, worker) = yard.succeeds("bare", &bare, build).await;
    assert_eq!(yard.page(&worker, "/").await, "no manifest");
    yard.close();
}
