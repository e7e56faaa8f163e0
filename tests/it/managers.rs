//! Package managers and Node versions through the whole product: which ones a project gets, that they
//! are fetched once and checked, and what a project is told that asks for what can't be had.

use serde_json::{Value, json};

use crate::app::{Folder, Settings, TestApp, root};
use crate::host::Host;

/// Tells in the page which Node and which manager built it.
const CONFIG: &str = r#"import pc from "picocolors";
    const tell = (html) => html.replace("BUILT", `${process.version} ${process.env.npm_config_user_agent} ${typeof pc.red}`);
    export default { plugins: [{ name: "tell", transformIndexHtml: tell }] };"#;
const PAGE: &str = r#"<p>BUILT</p><script type="module" src="/main.js"></script>"#;
const MAIN: &str = r#"import pc from "picocolors"; document.title = pc.red("greeting");"#;
const PLAIN: &str = r#"{"scripts":{"build":"node build.js"}}"#;
const WRITES: &str = r#"const fs = require("fs"); fs.mkdirSync("dist", { recursive: true });
    fs.writeFileSync("dist/index.html", process.version);"#;

fn fixture(name: &str) -> String {
    std::fs::read_to_string(root().join("tests/fixtures/managers").join(name)).unwrap()
}

/// The small Vite project, with these files beside.
fn greeting(manifest: &Value, more: &[(&str, &str)]) -> Vec<(String, String)> {
    // As people's are: yarn writes others anew.
    let manifest = format!("{manifest:#}\n");
    let own =
        [("package.json", &*manifest), ("vite.config.js", CONFIG), ("index.html", PAGE), ("main.js", MAIN)];
    own.iter().chain(more).map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

fn manifest(changes: Value) -> Value {
    let mut manifest: Value = serde_json::from_str(&fixture("package.json")).unwrap();
    manifest.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    manifest
}

/// What a deployment came to: its page and its log.
struct Built {
    page: String,
    log: String,
}

impl Built {
    fn must_say(&self, page: &[&str], log: &[&str]) {
        let all = format!("{}\n{}", self.page, self.log);
        assert!(page.iter().all(|word| self.page.contains(word)), "{page:?}: {all}");
        assert!(log.iter().all(|word| self.log.contains(word)), "{log:?}: {all}");
    }
}

async fn build(app: &TestApp, name: &str, files: Vec<(String, String)>, settings: Value) -> Built {
    let project = app.project(name).await;
    build_of(app, &project, &files, &settings).await
}

/// Builds it a second time too, which must find what the first one installed and be as good without it.
async fn build_twice(app: &TestApp, name: &str, files: Vec<(String, String)>, settings: Value) -> Built {
    let project = app.project(name).await;
    let first = build_of(app, &project, &files, &settings).await;
    let second = build_of(app, &project, &files, &settings).await;
    second.must_say(&[], &["libra: dependencies: hit "]);
    assert_eq!(second.page, first.page);
    assert!(!second.log.contains(" install "), "{}", second.log);
    first
}

async fn build_of(
    app: &TestApp,
    (project, worker): &(String, String),
    files: &[(String, String)],
    settings: &Value,
) -> Built {
    let files: Vec<(&str, &str)> = files.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
    let mut body = app.body(project, &files);
    body["build"] = settings.clone();
    let id = app.deploy_live(&body).await;
    let page = app.worker(worker, "/").await.text().await.unwrap();
    Built { page, log: app.log_of(&id).await }
}

/// Deploys what must fail; its cause as a member sees it, and the attempt it ended with.
async fn fail(app: &TestApp, name: &str, files: &[(&str, &str)]) -> (Value, Value) {
    let (project, _) = app.project(name).await;
    let id = app.deploy(&app.body(&project, files)).await;
    let public = app.until_final(&id).await;
    let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
    assert_eq!(public["status"], "failed", "{name}: {}", app.log_of(&id).await);
    (member["deployment"]["cause"].clone(), public["attempt"].clone())
}

fn serve(settings: Settings<'_>) -> (Host, TestApp) {
    let folder = Folder::new();
    let (host, server) = Host::serve(&folder, settings);
    (host, TestApp::on(folder, server))
}

fn close(host: &Host, app: TestApp) {
    host.must_be_untouched(&app.folder);
    assert!(app.server.stop().success());
}

/// `sha512.<hex>` of a pinned tarball, as corepack writes it.
fn pinned_hash(line: &str) -> String {
    use base64::Engine;
    let pins = std::fs::read_to_string(root().join("src/toolchain/pins.toml")).unwrap();
    let after = pins.split_once(line).unwrap().1;
    let digest = after.split('"').find_map(|word| word.strip_prefix("sha512-")).unwrap();
    format!("sha512.{}", hex::encode(base64::engine::general_purpose::STANDARD.decode(digest).unwrap()))
}

#[tokio::test]
async fn a_project_is_built_by_npm_on_every_node() {
    let (host, app) = serve(&[]);
    let lock = fixture("package-lock.json");
    let npm = |version: &'static str, more: &'static [(&'static str, &'static str)], changes: Value| {
        let (app, lock) = (&app, &lock);
        async move {
            let mut files = greeting(&manifest(changes), more);
            files.push(("package-lock.json".into(), lock.clone()));
            let built = build(app, version, files, json!({})).await;
            built.must_say(&[&format!("v{version}."), "npm/"], &["$ npm ci\n", "$ npm run build\n"]);
            built
        }
    };
    let (twenty, twenty_two, newest) = tokio::join!(
        npm("20", &[(".nvmrc", "20.10.0\n")], json!({})),
        npm("22", &[], json!({ "engines": { "node": ">=20 <24" } })),
        npm("24", &[], json!({})),
    );
    twenty.must_say(&["npm/10."], &[".nvmrc says 20.10.0"]);
    twenty_two.must_say(&["npm/10."], &["engines.node says >=20 <24"]);
    newest.must_say(&["npm/11."], &["nothing asks for another"]);
    close(&host, app);
}

#[tokio::test]
async fn a_project_is_built_by_each_package_manager() {
    let (host, app) = serve(&[]);
    let (pnpm, yarn, berry, bun) =
        (fixture("pnpm-lock.yaml"), fixture("yarn-1.lock"), fixture("yarn-4.lock"), fixture("bun.lock"));
    let plain = manifest(json!({}));
    // A lockfile of npm lies beside; the field decides, and its hash is the right one.
    let field = format!("pnpm@10.34.8+{}", pinned_hash("version = \"10.34.8\""));
    let named = manifest(json!({ "packageManager": field }));
    let npms = fixture("package-lock.json");
    let nm = (".yarnrc.yml", "nodeLinker: node-modules\n");
    let line = json!({ "command": "vite build && echo by a line of its own" });
    // One after another: five at once would each take five times as long.
    let files = greeting(&named, &[("pnpm-lock.yaml", &pnpm), ("package-lock.json", &npms)]);
    let pnpm = build_twice(&app, "pnpm", files, json!({})).await;
    let yarn = build_twice(&app, "yarn", greeting(&plain, &[("yarn.lock", &yarn)]), json!({})).await;
    let modules = build_twice(&app, "berry", greeting(&plain, &[("yarn.lock", &berry), nm]), json!({})).await;
    let pnp = build_twice(&app, "pnp", greeting(&plain, &[("yarn.lock", &berry)]), line).await;
    let bun = build_twice(&app, "bun", greeting(&plain, &[("bun.lock", &bun)]), json!({})).await;
    pnpm.must_say(
        &["v24.", "pnpm/10.34.8"],
        &[
            "packageManager says so",
            "ignored, because pnpm does not read it: package-lock.json",
            "$ pnpm install --frozen-lockfile\n",
            "$ pnpm run build\n",
        ],
    );
    yarn.must_say(
        &["v24.", "yarn/1.22."],
        &["yarn.lock is there", "$ yarn install --frozen-lockfile", "$ yarn run build\n"],
    );
    modules.must_say(&["v24.", "yarn/4."], &["$ yarn install --immutable\n", "$ yarn run build\n"]);
    pnp.must_say(&["v24."], &["$ yarn install --immutable\n", "by a line of its own"]);
    bun.must_say(&["v24.", "bun/1."], &["$ bun install --frozen-lockfile\n", "$ bun run build\n"]);
    for built in [&pnpm, &yarn, &modules, &pnp, &bun] {
        assert!(!built.log.contains("falling back"), "{}", built.log);
    }
    close(&host, app);
}

#[tokio::test]
async fn a_lockfile_that_does_not_fit_is_said_and_made_anew() {
    let (host, app) = serve(&[]);
    let (pnpm, yarn, berry, bun) =
        (fixture("pnpm-lock.yaml"), fixture("yarn-1.lock"), fixture("yarn-4.lock"), fixture("bun.lock"));
    let changed = manifest(json!({ "dependencies": { "picocolors": "1.1.0" } }));
    for (name, lockfile, content) in [
        ("pnpm", "pnpm-lock.yaml", pnpm),
        ("yarn", "yarn.lock", yarn),
        ("yarn", "yarn.lock", berry),
        ("bun", "bun.lock", bun),
    ] {
        let files = greeting(&changed, &[(lockfile, &content)]);
        let built = build(&app, name, files, json!({})).await;
        let said = format!("the lockfile does not fit package.json; falling back to {name} install");
        built.must_say(&["v24."], &[&said]);
    }
    close(&host, app);
}

#[tokio::test]
async fn what_can_not_be_had_is_the_users_to_mend() {
    let (host, app) = serve(&[]);
    let manifest =
        |field: &str| format!(r#"{{"packageManager":"{field}","scripts":{{"build":"node build.js"}}}}"#);
    let wrong = manifest(&format!("pnpm@10.34.8+sha224.{}", "0".repeat(56)));
    let unknown = manifest("pnpm@10.999.999");
    let range = manifest("yarn@^4.0.0");
    type Case<'c> = (&'c str, Vec<(&'c str, &'c str)>, &'c str, &'c str);
    let cases: [Case<'_>; 4] = [
        (
            "wrong hash",
            vec![("package.json", &wrong)],
            "does not match the hash",
            "pnpm 10.34.8 has not the hash",
        ),
        ("unknown", vec![("package.json", &unknown)], "version does not exist", "no pnpm 10.999.999"),
        ("range", vec![("package.json", &range)], "can't be used", "exact"),
        (
            "old node",
            vec![("package.json", PLAIN), (".nvmrc", "18")],
            "Node version",
            "20.20.2, 22.23.3, 24.21.0",
        ),
    ];
    for (name, files, summary, evidence) in cases {
        let (cause, attempt) = fail(&app, name, &files).await;
        assert!(cause["summary"].as_str().unwrap().contains(summary), "{name}: {cause:#}");
        assert!(cause["evidence"].as_str().unwrap().contains(evidence), "{name}: {cause:#}");
        assert_eq!(
            (&cause["class"], &cause["step"], attempt),
            (&json!("user"), &json!("sandbox"), json!(1)),
            "{name}"
        );
    }
    close(&host, app);
}

#[tokio::test]
async fn a_registry_that_is_away_is_the_platforms_failure_and_tried_again() {
    let place = tempfile::tempdir().unwrap();
    let (tools, mirror) = (place.path().join("tools"), place.path().join("mirror"));
    let (host, app) = serve(&[
        ("LIBRA__TOOLCHAIN__FOLDER", tools.to_str().unwrap()),
        ("LIBRA__MIRROR_DIR", mirror.to_str().unwrap()),
        // The port of «discard», where nothing listens.
        ("LIBRA__SANDBOX__MIRROR__REGISTRY_URL", "http://127.0.0.1:9/"),
        ("LIBRA__PIPELINE__RETRY_FIRST_SECONDS", "1"),
        ("LIBRA__PIPELINE__RETRY_SECOND_SECONDS", "1"),
    ]);
    let (cause, attempt) =
        fail(&app, "away", &[("package.json", PLAIN), (".nvmrc", "20"), ("build.js", WRITES)]).await;
    assert_eq!((&cause["class"], &cause["step"], attempt), (&json!("platform"), &json!("sandbox"), json!(3)));
    assert!(cause["evidence"].as_str().unwrap().contains("node-20.20.2 could not be fetched"), "{cause:#}");
    // Nothing that looks like a tool is left.
    let left: Vec<_> = std::fs::read_dir(&tools).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.iter().all(|name| name.to_string_lossy().starts_with('.')), "{left:?}");
    assert_eq!(std::fs::read_dir(tools.join(".staging")).unwrap().count(), 0);
    close(&host, app);
}

#[tokio::test]
async fn a_tool_is_installed_once_whoever_needs_it() {
    let place = tempfile::tempdir().unwrap();
    let tools = place.path().join("tools");
    let settings = [("LIBRA__TOOLCHAIN__FOLDER", tools.to_str().unwrap())];
    let servers = [serve(&settings), serve(&settings)];
    let files = || {
        [("package.json", PLAIN), (".nvmrc", "20"), ("build.js", WRITES)]
            .map(|(p, c)| (p.into(), c.into()))
            .to_vec()
    };
    let [(_, first), (_, second)] = &servers;
    let built = tokio::join!(
        build(first, "a", files(), json!({})),
        build(first, "b", files(), json!({})),
        build(second, "c", files(), json!({})),
    );
    for built in [built.0, built.1, built.2] {
        assert_eq!(built.page, "v20.20.2");
    }
    let installed: usize =
        servers.iter().map(|(_, app)| app.server.log().matches("tool installed").count()).sum();
    assert_eq!(installed, 1);
    for (host, app) in servers {
        close(&host, app);
    }
}

#[tokio::test]
async fn workspaces_in_circles_and_huge_manifests_are_built_or_refused_at_once() {
    let (host, app) = serve(&[]);
    let member = |name: &str, needs: &str, version: &str| {
        json!({ "name": name, "version": "1.0.0", "scripts": { "build": "node build.js" }, "dependencies": { needs: version } }).to_string()
    };
    let uses = r#"const fs = require("fs"); fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", require("lib"));"#;
    let circle = |version: &str, more: &[(&str, &str)]| -> Vec<(String, String)> {
        let (web, lib) = (member("web", "lib", version), member("lib", "web", version));
        let files = [
            ("package.json", r#"{"name":"all","private":true,"workspaces":["apps/*","libs/*"]}"#),
            ("apps/web/package.json", &web),
            ("apps/web/build.js", uses),
            ("libs/lib/package.json", &lib),
            ("libs/lib/index.js", "module.exports = 'round and round'"),
        ];
        let all: std::collections::BTreeMap<&str, &str> = files.iter().chain(more).copied().collect();
        all.into_iter().map(|(p, c)| (p.to_owned(), c.to_owned())).collect()
    };
    let web = || json!({ "rootDirectory": "apps/web" });
    let pnpm = [
        ("pnpm-workspace.yaml", "packages:\n  - 'apps/*'\n  - libs/*\n"),
        ("package.json", r#"{"name":"all","private":true,"packageManager":"pnpm"}"#),
    ];
    let yarn = [(
        "package.json",
        r#"{"name":"all","private":true,"workspaces":["apps/*","libs/*"],"packageManager":"yarn@4.18.1"}"#,
    )];
    let large =
        json!({ "scripts": { "build": "node build.js" }, "padding": "x".repeat(5 << 20) }).to_string();
    let deep = format!(r#"{{"scripts":{{"build":"node build.js"}},"x":{}}}"#, "[".repeat(500 << 10));
    let large_elsewhere = [
        (
            "package.json",
            r#"{"name":"all","private":true,"workspaces":[".","apps/*","libs/*","libs/../apps/*","libs/**"]}"#,
        ),
        ("docs/package.json", &*large),
    ];
    let large = [("package.json", &*large), ("build.js", WRITES)];
    let deep = [("package.json", &*deep), ("build.js", WRITES)];
    let (by_npm, by_itself, by_pnpm, by_yarn, (too_large, once), (cause, attempt)) = tokio::join!(
        build(&app, "npm", circle("*", &[]), web()),
        // A workspace that holds itself, some twice; and what is too large decides nothing.
        build(&app, "itself", circle("*", &large_elsewhere), web()),
        build(&app, "pnpm", circle("workspace:*", &pnpm), web()),
        build(&app, "yarn", circle("workspace:*", &yarn), web()),
        fail(&app, "large", &large),
        fail(&app, "deep", &deep),
    );
    for built in [by_npm, by_itself, by_pnpm, by_yarn] {
        let said = "apps/web is a member of the workspace at the project's top";
        built.must_say(&["round and round"], &[said]);
    }
    assert_eq!((&too_large["class"], once), (&json!("user"), json!(1)));
    assert_eq!(too_large["summary"], "A file that says how to build is too large.");
    assert_eq!((&cause["class"], attempt), (&json!("user"), json!(1)));
    assert_eq!(cause["summary"], "package.json can't be read.");
    close(&host, app);
}
