//! Projects as people have them: recognised, overridden, built where they lie, and told what is wrong.

use serde_json::{Value, json};

use crate::app::{BASE, TestApp};

/// A builder without packages: writes a page into a folder.
fn writes(folder: &str) -> String {
    format!(
        r#"require("fs").mkdirSync("{folder}", {{ recursive: true }}); require("fs").writeFileSync("{folder}/index.html", "in {folder}");"#
    )
}

const BUILDS: &str = r#"{"scripts":{"build":"node build.js"}}"#;

/// Deploys and answers how it ended, as a member sees it, and its log.
async fn ended(app: &TestApp, name: &str, files: &[(&str, &str)], build: Value) -> (Value, String, String) {
    let (project, worker) = app.project(name).await;
    let mut body = app.body(&project, files);
    body["build"] = build;
    let id = app.deploy(&body).await;
    let public = app.until_final(&id).await;
    let (_, member) = app.get(&format!("/api/v1/deployments/{id}")).await;
    // What a stranger sees has no evidence, and no sign.
    assert!(public["cause"]["evidence"].is_null() && public["sign"].is_null(), "{public}");
    (member, app.log_of(&id).await, worker)
}

#[tokio::test]
async fn the_projects_file_says_how_it_is_built_and_the_deployment_has_the_last_word() {
    let app = TestApp::start().await;
    let file = "[build]\nroot_directory = \"apps/web\"\ncommand = \"node site.js\"\noutput_directory = \"made/site\"\ninstall_command = \"\"\n";
    let (site, other) = (writes("made/site"), writes("other"));
    let files = [
        ("libra.toml", file),
        ("apps/web/package.json", BUILDS),
        ("apps/web/site.js", &*site),
        ("apps/web/other.js", &*other),
    ];
    let (member, log, worker) = ended(&app, "by file", &files, json!({})).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "in made/site");
    let build = json!({ "command": "node other.js", "outputDirectory": "other" });
    let (member, log, worker) = ended(&app, "by deployment", &files, build).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "in other");

    let wrong = [("libra.toml", "[build]\n\noutput = \"x\"\n"), ("index.html", "x")];
    let (member, ..) = ended(&app, "mistake", &wrong, json!({})).await;
    let cause = &member["deployment"]["cause"];
    assert_eq!(cause["summary"], "libra.toml can't be read.", "{cause}");
    let evidence = cause["evidence"].as_str().unwrap();
    assert!(evidence.contains("line 3: unknown field `output`"), "{evidence}");

    let plain = [("package.json", BUILDS), ("site/index.html", "as it is")];
    let set = json!({ "framework": "plain", "outputDirectory": "site" });
    let (member, _, worker) = ended(&app, "set plain", &plain, set).await;
    assert_eq!(member["framework"], "plain");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "as it is");
    let mut body = app.body(&"0".repeat(32), &[("index.html", "x")]);
    body["build"] = json!({ "framework": "wordpress" });
    let (status, refused) = app.post("/deploy", &body).await;
    assert_eq!(status, 400, "{refused}");
    assert_eq!(refused["details"][0]["field"], "build.framework");
}

#[tokio::test]
async fn the_folder_that_was_written_is_found_or_named() {
    let app = TestApp::start().await;
    let (odd, two) = (writes("odd/place"), format!("{}{}", writes("one"), writes("two")));
    let files = |script| [("package.json", BUILDS), ("build.js", script), ("notes/index.html", "source")];
    let (member, log, worker) = ended(&app, "one", &files(&odd), json!({})).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert!(log.contains("output found in odd/place/"), "{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "in odd/place");
    // Two could be meant, and a folder that was named is not replaced by another.
    for (name, script, build) in
        [("two", &two, json!({})), ("named", &odd, json!({ "outputDirectory": "dist" }))]
    {
        let (member, ..) = ended(&app, name, &files(script), build).await;
        let cause = &member["deployment"]["cause"];
        assert_eq!(cause["summary"], "The build produced no output.", "{cause}");
        let evidence = cause["evidence"].as_str().unwrap();
        let written = if name == "two" { "written to: one, two" } else { "written to: odd/place" };
        assert!(evidence.ends_with(written), "{evidence}");
    }
}

#[tokio::test]
async fn a_build_that_needs_a_server_is_told_what_to_change() {
    let app = TestApp::start().await;
    // What such builds leave, without the time that the frameworks take.
    let wrote = |file: &str, page: &str| {
        let folder = |path: &str| path.rsplit_once('/').map_or(".", |(f, _)| f).to_owned();
        let one = |path: &str| {
            format!(
                r#"require("fs").mkdirSync("{}", {{ recursive: true }}); require("fs").writeFileSync("{path}", "x");"#,
                folder(path)
            )
        };
        format!("{}{}", one(file), one(page))
    };
    for (name, file, page, words, hint) in [
        ("next", ".next/BUILD_ID", ".next/server/app/index.html", "Next.js", "output: 'export'"),
        ("astro", "dist/server/entry.mjs", "dist/client/index.html", "Astro", "output: 'static'"),
        ("sveltekit", "build/handler.js", "build/client/x.html", "SvelteKit", "adapter-static"),
        ("react-router", "build/server/index.js", "build/client/x.js", "React Router", "ssr: false"),
        ("nuxt", ".output/server/index.mjs", ".output/public/x.js", "Nuxt", "nuxt generate"),
    ] {
        let script = wrote(file, page);
        let files = [("package.json", BUILDS), ("build.js", &*script)];
        let build = json!({ "framework": name, "command": "node build.js" });
        let (member, log, _) = ended(&app, name, &files, build).await;
        let cause = &member["deployment"]["cause"];
        let (summary, told) =
            (cause["summary"].as_str().unwrap_or(&log), cause["hint"].as_str().unwrap_or(""));
        assert!(summary.contains(words) && summary.contains("needs a server"), "{name}: {summary}");
        assert!(told.contains(hint), "{name}: {told}");
        assert_eq!(cause["class"], "user");
    }
}

#[tokio::test]
async fn a_failed_command_gets_its_cause_and_the_line_that_proves_it() {
    let app = TestApp::start().await;
    let heap = "const all = []; for (;;) all.push(new Array(1e5).fill({ x: 1 }));";
    let cases = [
        (
            "module",
            r#"{"scripts":{"build":"node build.js"}}"#,
            "require('./lib/Thing.js')",
            "A file is imported with other upper and lower case than its name has.",
            "the project has lib/thing.js",
        ),
        (
            "package",
            r#"{"scripts":{"build":"node build.js"}}"#,
            "require('not-there-at-all')",
            "A file or package that is imported is not there.",
            "Cannot find module 'not-there-at-all'",
        ),
        (
            "heap",
            r#"{"scripts":{"build":"node --max-old-space-size=64 build.js"}}"#,
            heap,
            "The build ran out of memory: Node's own heap limit was reached.",
            "JavaScript heap out of memory",
        ),
        (
            "network",
            r#"{"scripts":{"build":"node build.js"}}"#,
            "fetch('https://cms.example.com/posts').then(r => r.json())",
            "The build wanted a host that builds can't reach.",
            "cms.example.com",
        ),
        (
            "engine",
            r#"{"dependencies":{"x":"file:./lib"},"scripts":{"build":"node build.js"}}"#,
            "",
            "The project does not run on this version of Node.",
            ">=99",
        ),
    ];
    for (name, manifest, script, summary, evidence) in cases {
        let files = [
            ("package.json", manifest),
            ("build.js", script),
            ("lib/thing.js", ""),
            ("lib/package.json", r#"{"name":"x","version":"1.0.0","engines":{"node":">=99"}}"#),
            (".npmrc", "engine-strict=true\n"),
        ];
        let (member, log, _) = ended(&app, name, &files, json!({})).await;
        let cause = &member["deployment"]["cause"];
        assert_eq!(cause["summary"], summary, "{name}: {cause}\n{log}");
        assert!(cause["evidence"].as_str().unwrap().contains(evidence), "{name}: {cause}");
    }
}

#[tokio::test]
async fn a_package_of_a_workspace_is_installed_at_the_root() {
    let app = TestApp::start().await;
    let page = format!(
        "{}{}",
        writes("dist"),
        r#"require("fs").writeFileSync("dist/index.html", require("words"));"#
    );
    let files = [
        ("package.json", r#"{"private":true,"workspaces":["apps/*","packages/*"]}"#),
        (
            "apps/web/package.json",
            r#"{"name":"web","scripts":{"build":"node build.js"},"dependencies":{"words":"*"}}"#,
        ),
        ("apps/web/build.js", &*page),
        ("packages/words/package.json", r#"{"name":"words","version":"1.0.0","main":"index.js"}"#),
        ("packages/words/index.js", "module.exports = 'from the workspace'"),
    ];
    let (member, log, worker) =
        ended(&app, "workspace", &files, json!({ "rootDirectory": "apps/web" })).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "from the workspace");
}

/// Starters come wrapped in a folder, or as pages beneath `public/`: what goes live is the site, never sources.
#[tokio::test]
async fn the_project_is_found_where_it_lies() {
    let app = TestApp::start().await;
    let page = writes("dist");
    let wrapped = [
        ("README.md", "x"),
        ("starter-main/package.json", BUILDS),
        ("starter-main/index.html", "source"),
        ("starter-main/build.js", &*page),
        ("starter-main/libra.toml", "[build]\nnode = 22\n"),
    ];
    let (member, log, worker) = ended(&app, "wrapped", &wrapped, json!({})).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "in dist");
    let sign = member["sign"].as_str().unwrap();
    assert!(sign.ends_with("(in starter-main, the project's only package)") && log.contains(sign), "{sign}");
    assert!(log.contains("Node 22"), "its own libra.toml counts: {log}");

    let two = [("web/package.json", BUILDS), ("web/index.html", "source"), ("api/package.json", BUILDS)];
    let (member, ..) = ended(&app, "two", &two, json!({})).await;
    let cause = &member["deployment"]["cause"];
    assert!(cause["evidence"].as_str().unwrap().ends_with("lies in api, web"), "{cause}");
    assert!(cause["hint"].as_str().unwrap().contains("root_directory"), "{cause}");

    let pages = [("readme.md", "x"), ("public/index.html", "home"), ("public/a.css", "p{}")];
    let (member, log, worker) = ended(&app, "public", &pages, json!({})).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "home", "{member:#}\n{log}");
    assert!(log.contains("index.html lies in public"), "{log}");
}

/// Rollup's own starter keeps its page in `public/` and builds its script beside it; for others it is a template.
#[tokio::test]
async fn a_public_folder_is_the_output_if_the_build_wrote_into_it() {
    let app = TestApp::start().await;
    let beside = r#"require("fs").writeFileSync("public/bundle.js", "built()")"#;
    let files = |script| [("package.json", BUILDS), ("build.js", script), ("public/index.html", "page")];
    let (member, log, worker) = ended(&app, "beside", &files(beside), json!({})).await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    assert_eq!(app.worker(&worker, "/bundle.js").await.text().await.unwrap(), "built()");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "page");
    let elsewhere = r#"require("fs").writeFileSync("bundle.js", "built()")"#;
    let (member, ..) = ended(&app, "elsewhere", &files(elsewhere), json!({})).await;
    assert_eq!(member["deployment"]["cause"]["summary"], "The build produced no output.", "{member:#}");
}

/// TanStack Start's own starter always leaves a server, also where its pages need none.
#[tokio::test]
async fn a_server_beside_a_single_page_shell_is_left_out() {
    let app = TestApp::start().await;
    let wrote = |page: &str| {
        let folders = r#"for (const f of ["server", "public"]) require("fs").mkdirSync(".output/" + f, { recursive: true });"#;
        let write = |path: &str| format!(r#"require("fs").writeFileSync(".output/{path}", "{path}");"#);
        format!("{folders}{}{}", write("server/index.mjs"), write(page))
    };
    let run = async |name: &str, page: &str| {
        let script = wrote(page);
        let files = [("package.json", BUILDS), ("build.js", &*script)];
        let build = json!({ "framework": "tanstack-start", "command": "node build.js" });
        ended(&app, name, &files, build).await
    };
    let (member, log, worker) = run("shell", "public/_shell.html").await;
    assert_eq!(member["state"]["status"], "completed", "{member:#}\n{log}");
    for path in ["/", "/users/7"] {
        let address = format!("http://{}{path}", app.server.address);
        let request =
            app.http.get(address).header("host", format!("{worker}.{BASE}")).header("accept", "text/html");
        let page = request.send().await.unwrap().text().await.unwrap();
        assert!(page.contains("_shell.html"), "{path}: {page}");
    }
    let (member, ..) = run("server", "public/app.js").await;
    let cause = &member["deployment"]["cause"];
    assert!(cause["hint"].as_str().unwrap().contains("spa: { enabled: true }"), "{cause}");
}
