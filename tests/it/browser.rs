//! Deployed sites in a real browser: what scripts render is there, deep links work, what is missing
//! is 404. Projects as their tools' own templates make them, with code loaded late.

use std::path::Path;
use std::process::Stdio;

use crate::app::{BASE, PATIENCE, TestApp};

const INDEX: &str = r#"<!doctype html><html><head><title>a site</title></head>
    <body><div id="app">not rendered yet</div><script type="module" src="/src/main.js"></script></body></html>"#;
const LATE: &str = "export default (path) => `loaded late on ${path}`;";
const STYLE: &str = "#app { color: rgb(1, 2, 3); }";

const VUE: &[(&str, &str)] = &[
    (
        "package.json",
        r#"{"name":"vue-site","private":true,"type":"module","scripts":{"build":"vite build"},
        "dependencies":{"vue":"^3.5.44"},"devDependencies":{"@vitejs/plugin-vue":"^6.0.10","vite":"^8.3.4"}}"#,
    ),
    (
        "vite.config.js",
        "import { defineConfig } from 'vite'\nimport vue from '@vitejs/plugin-vue'\nexport default defineConfig({ plugins: [vue()] })\n",
    ),
    ("index.html", INDEX),
    (
        "src/main.js",
        "import { createApp } from 'vue'\nimport './style.css'\nimport App from './App.vue'\ncreateApp(App).mount('#app')\n",
    ),
    (
        "src/App.vue",
        r#"<script setup>
            import { onMounted, ref } from 'vue'
            const late = ref(''), colour = ref('')
            onMounted(async () => {
                late.value = (await import('./late.js')).default(location.pathname)
                colour.value = getComputedStyle(document.getElementById('app')).color
            })
            </script>
            <template><h1>rendered by {{ 'v' + 'ue' }}</h1><p>{{ late }}</p><p>{{ colour }}</p></template>"#,
    ),
    ("src/late.js", LATE),
    ("src/style.css", STYLE),
];

const SVELTE: &[(&str, &str)] = &[
    (
        "package.json",
        r#"{"name":"svelte-site","private":true,"type":"module","scripts":{"build":"vite build"},
        "devDependencies":{"@sveltejs/vite-plugin-svelte":"^7.3.1","svelte":"^5.57.2","vite":"^8.3.4"}}"#,
    ),
    (
        "vite.config.js",
        "import { defineConfig } from 'vite'\nimport { svelte } from '@sveltejs/vite-plugin-svelte'\nexport default defineConfig({ plugins: [svelte()] })\n",
    ),
    ("index.html", INDEX),
    (
        "src/main.js",
        "import { mount } from 'svelte'\nimport './style.css'\nimport App from './App.svelte'\nconst target = document.getElementById('app')\ntarget.textContent = ''\nmount(App, { target })\n",
    ),
    (
        "src/App.svelte",
        r#"<script>
            import { onMount } from 'svelte'
            let late = $state(''), colour = $state('')
            onMount(async () => {
                late = (await import('./late.js')).default(location.pathname)
                colour = getComputedStyle(document.getElementById('app')).color
            })
            </script>
            <h1>rendered by {'sv' + 'elte'}</h1><p>{late}</p><p>{colour}</p>"#,
    ),
    ("src/late.js", LATE),
    ("src/style.css", STYLE),
];

/// The page as it is once its scripts have run.
async fn dom(home: &Path, url: &str) -> String {
    let profile = home.join(format!("chromium-{}", uuid::Uuid::new_v4().simple()));
    let mut command = tokio::process::Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--no-proxy-server", "--virtual-time-budget=10000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(url)
        .env("HOME", home)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Deploys a project of `name` and looks at it as a visitor does.
async fn looks_right(app: &TestApp, name: &str, files: &[(&str, &str)]) {
    let (project, worker) = app.project(name).await;
    let id = app.deploy_live(&app.body(&project, files)).await;
    let log = app.log_of(&id).await;
    assert!(log.contains("Vite: package.json depends on vite") && log.contains("no lockfile"), "{log}");
    let port = app.server.address.rsplit(':').next().unwrap();
    let home = app.folder.path();
    for host in [worker.clone(), format!("{}--{worker}", &id[..12])] {
        for path in ["/", "/products/7"] {
            let page = dom(home, &format!("http://{host}.{BASE}:{port}{path}")).await;
            for words in [
                &format!("<h1>rendered by {name}</h1>"),
                &format!("<p>loaded late on {path}</p>"),
                "<p>rgb(1, 2, 3)</p>",
            ] {
                assert!(page.contains(words), "{host}{path}: no `{words}` in {page}");
            }
        }
    }
    // What a script or a style sheet asks for in vain is missing, whatever the deep links do.
    for missing in ["/assets/none-a1b2c3d4.js", "/assets/none-a1b2c3d4.css", "/none.png", "/none"] {
        assert_eq!(app.worker(&worker, missing).await.status(), 404, "{missing}");
    }
}

#[tokio::test]
async fn vite_sites_render_in_a_browser_and_deep_links_reach_them() {
    let app = TestApp::start().await;
    tokio::join!(looks_right(&app, "vue", VUE), looks_right(&app, "svelte", SVELTE));
    assert!(app.server.stop().success());
}
