//! A restart with the database away: what was live is served from this machine's disk, the control surface
//! says that it is away, and everything goes on when it comes back.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Method, Response};
use serde_json::json;

use crate::app::{BASE, Folder, PATIENCE, Server, Settings, TestApp};
use crate::failing::quick;
use crate::parts::{Whose, all, sqlite_file};

pub const SOON: Settings<'static> =
    &[("LIBRA__ROUTES__FILE_SECONDS", "1"), ("LIBRA__START__RETRY_MS", "100")];
/// Much shorter than the database stays away.
pub const IMPATIENT: Settings<'static> = &[("LIBRA__START__WAIT_SECONDS", "1")];
const DOMAIN: &str = "www.kept.example";

fn file(folder: &Folder) -> PathBuf {
    folder.data().join("edge/routes.jsonl")
}

pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// An origin that answers every connection with the same words, as long as the test runs.
fn origin() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            // A client that is gone needs no answer.
            drop(socket.read(&mut [0; 4096]));
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\norigin";
            drop(socket.write_all(answer.as_bytes()));
        }
    });
    format!("http://{address}")
}

/// The database can't be reached, or can again.
pub fn database_is_away(folder: &Folder, away: bool) {
    let data = folder.data();
    let (here, there) = (data.join("database"), data.join("database.away"));
    match (folder.ground.cluster(), away) {
        (Some(cluster), true) => cluster.stop(),
        (Some(cluster), false) => cluster.keep_running(),
        (None, true) => {
            std::fs::rename(here, there).unwrap();
            // Something that is there and is no database.
            std::fs::create_dir_all(sqlite_file(&data)).unwrap();
        }
        (None, false) => {
            std::fs::remove_dir_all(&here).unwrap();
            std::fs::rename(there, here).unwrap();
        }
    }
}

/// A client of a server that has not written where it listens.
struct Client {
    http: reqwest::Client,
    front: String,
    operator: String,
}

impl Client {
    fn new() -> Self {
        // The first test of the process does it; the others find it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { http, front: free_address(), operator: free_address() }
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        vec![("LIBRA__HTTP__LISTEN", &self.front), ("LIBRA__HTTP__OPERATOR_LISTEN", &self.operator)]
    }

    async fn ask(&self, address: &str, host: &str, path: &str) -> reqwest::Result<Response> {
        self.http.get(format!("http://{address}{path}")).header("host", host).send().await
    }

    /// Waits until the front door answers at all.
    async fn until_open(&self, folder: &Folder) {
        let started = Instant::now();
        while self.ask(&self.front, BASE, "/").await.is_err() {
            assert!(started.elapsed() < PATIENCE, "{}", folder.logs());
            tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
        }
    }

    async fn front(&self, host: &str) -> (u16, String) {
        let answer = self.ask(&self.front, host, "/").await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn operator(&self, path: &str) -> u16 {
        self.ask(&self.operator, BASE, path).await.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sites_upstreams_and_domains_are_served_by_a_start_with_the_database_away() {
    let settings = quick(SOON);
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let (kept, kept_worker) = app.project("kept").await;
    app.deploy_live(&app.body(&kept, &[("index.html", "kept")])).await;
    let (lost, lost_worker) = app.project("lost").await;
    let deployment = app.deploy_live(&app.body(&lost, &[("index.html", "lost")])).await;
    let (behind, behind_worker) = app.project("behind").await;
    let put = app.request(Method::PUT, &format!("/api/v1/projects/{behind}/upstream"));
    assert_eq!(put.json(&json!({ "origins": [origin()] })).send().await.unwrap().status(), 200);
    app.change(&format!(
        "INSERT INTO custom_domain (id, org_id, project_id, hostname, status, token, created_at) \
         VALUES ('{:032}', '{}', '{kept}', '{DOMAIN}', 'active', 't', 1); \
         UPDATE route_epoch SET epoch = epoch + 1",
        7, app.org
    ));
    let path = file(&app.folder);
    app.wait("everything is kept", async || {
        let kept = text(&path);
        [DOMAIN, "127.0.0.1", &*lost_worker, "\"end\""].iter().all(|word| kept.contains(word))
    })
    .await;
    let version = app.rows(&format!("SELECT id FROM version WHERE deployment_id = '{deployment}'"));
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    std::fs::remove_dir_all(folder.data().join("edge/versions").join(&version[0][0])).unwrap();
    database_is_away(&folder, true);

    // Told to stop while it waits, it stops in order.
    let client = Client::new();
    let log = folder.path().join("early.log");
    let mut child = folder
        .libra(&all(&[&settings, IMPATIENT, &client.settings()]))
        .arg("serve")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    client.until_open(&folder).await;
    assert_eq!(client.front(&format!("{kept_worker}.{BASE}")).await, (200, "kept".into()));
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", text(&log));

    let client = Client::new();
    let folder = Arc::new(folder);
    let serving = tokio::task::spawn_blocking({
        let (folder, more) = (Arc::clone(&folder), client.settings());
        let settings = all(&[&settings, IMPATIENT, &more]);
        let owned: Vec<(String, String)> =
            settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        move || -> Server {
            folder.serve(&owned.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>())
        }
    });
    client.until_open(&folder).await;
    assert_eq!(client.front(&format!("{kept_worker}.{BASE}")).await, (200, "kept".into()));
    assert_eq!(client.front(DOMAIN).await, (200, "kept".into()));
    assert_eq!(client.front(&format!("{behind_worker}.{BASE}")).await, (200, "origin".into()));
    assert_eq!(client.front(&format!("{lost_worker}.{BASE}")).await.0, 404, "its bytes are not here");
    let refused = client.ask(&client.front, BASE, "/api/v1/projects").await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    assert_eq!(refused.json::<serde_json::Value>().await.unwrap()["code"], "DATABASE_ERROR");
    let started = Instant::now();
    // Longer than `start.wait_seconds`.
    while !folder.logs().contains("a part is away; waiting for it")
        || started.elapsed() < Duration::from_secs(2)
    {
        assert!(started.elapsed() < PATIENCE && !serving.is_finished(), "{}", folder.logs());
        assert_eq!(client.front(DOMAIN).await, (200, "kept".into()));
    }
    let health =
        [client.operator("/livez").await, client.operator("/readyz").await, client.operator("/health").await];
    assert_eq!(health, [200, 200, 503]);
    let metrics = client.ask(&client.operator, BASE, "/metrics").await.unwrap().text().await.unwrap();
    let served =
        metrics.lines().find_map(|l| l.strip_prefix("libra_requests_total{kind=\"site\",status=\"2xx\"} "));
    assert!(served.is_some_and(|count| count != "0"), "{metrics}");
    assert!(folder.logs().contains("this disk has not is skipped"), "{}", folder.logs());
    assert!(!folder.data().join("server.json").exists());

    database_is_away(&folder, false);
    let server = serving.await.unwrap();
    let app = TestApp::on(Arc::into_inner(folder).unwrap(), server);
    assert_eq!(client.operator("/readyz").await, 200);
    assert_eq!(app.get("/api/v1/projects").await.0, 200);
    app.wait("what was lost is fetched", async || app.worker(&lost_worker, "/").await.status() == 200).await;
    app.deploy_live(&app.body(&kept, &[("index.html", "newer")])).await;
    assert_eq!(client.front(DOMAIN).await, (200, "newer".into()));
    assert_eq!(client.front(&format!("{behind_worker}.{BASE}")).await, (200, "origin".into()));
}

#[tokio::test]
async fn a_first_start_with_the_database_away_says_so_instead_of_leaving_clients_waiting() {
    let folder = Folder::embedded();
    let client = Client::new();
    let nobody = format!("postgres://somebody:hidden@{}/libra", free_address());
    let database = [("LIBRA__DATABASE__URL", nobody.as_str())];
    let log = folder.path().join("first.log");
    let mut child = folder
        .libra(&all(&[&client.settings(), &database]))
        .arg("serve")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    client.until_open(&folder).await;
    for host in [&format!("blog.{BASE}"), DOMAIN, BASE] {
        let refused = client.ask(&client.front, host, "/").await.unwrap();
        assert_eq!(refused.status(), 503, "{host}");
        assert_eq!(refused.headers()["retry-after"], "5");
        let document: serde_json::Value = refused.json().await.unwrap();
        assert_eq!(
            (&document["error"], &document["code"]),
            (&json!("Database connection failed"), &json!("DATABASE_ERROR"))
        );
    }
    assert_eq!([client.operator("/livez").await, client.operator("/readyz").await], [200, 503]);
    let metrics = client.ask(&client.operator, BASE, "/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.contains("libra_refusals_total{code=\"DATABASE_ERROR\"} "), "{metrics}");
    let started = Instant::now();
    while !text(&log).contains("a part is away; waiting for it") {
        assert!(started.elapsed() < PATIENCE, "{}", text(&log));
        assert_eq!(client.operator("/livez").await, 200);
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success(), "{}", text(&log));
}

#[tokio::test]
async fn a_damaged_file_is_ignored_and_replaced_and_a_route_that_went_meanwhile_is_gone() {
    let settings = quick(SOON);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("damaged").await;
    app.deploy_live(&app.body(&project, &[("index.html", "sound")])).await;
    let path = file(&app.folder);
    app.wait("it is kept", async || text(&path).contains(&worker)).await;
    let TestApp { folder, server, .. } = app;
    server.kill();
    let whole = text(&path);
    std::fs::write(&path, whole.replacen(&worker, "x", 1)).unwrap();
    let app = {
        let server = folder.serve(&settings);
        TestApp::on(folder, server)
    };
    assert!(app.server.log().contains("the last table can't be used"), "{}", app.server.log());
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "sound");
    app.wait("it is kept anew", async || text(&path) == whole).await;

    // The record is right, whatever the file says.
    app.change(&format!(
        "UPDATE project_target SET live_version_id = NULL, route_epoch = 1000 WHERE project_id = '{project}'"
    ));
    let app = app.restart_after_kill(&settings);
    assert!(app.server.log().contains("the last table is served until"), "{}", app.server.log());
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_writes_leaves_a_whole_file() {
    let settings = quick(SOON);
    let mut app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("killed").await;
    app.deploy_live(&app.body(&project, &[("index.html", "whole")])).await;
    let path = file(&app.folder);
    app.wait("it is kept", async || text(&path).contains(&worker)).await;
    for _ in 0..5 {
        let before = text(&path);
        app.change("UPDATE route_epoch SET epoch = epoch + 1");
        let started = Instant::now();
        let writing = || {
            let entries = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten();
            entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("routes.tmp-"))
        };
        while !writing() && text(&path) == before {
            assert!(started.elapsed() < PATIENCE, "nothing is written");
        }
        app = app.restart_after_kill(&settings);
        let log = app.server.log();
        assert!(
            log.contains("the last table is served until") && !log.contains("the last table can't"),
            "{log}"
        );
        assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "whole");
    }
}
