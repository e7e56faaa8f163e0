//! Parts that are away at the start: waited for in clear lines, used when they come, refused when not.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::app::{Folder, PATIENCE, Settings, TestApp};
use crate::failing::quick;
use crate::parts::nats::{Clients, Cluster};
use crate::parts::s3::{S3, Wire};
use crate::parts::{all, borrowed};

/// A server that can't start: how it ended.
fn refused(folder: &Folder, settings: Settings<'_>) -> Output {
    folder.libra(settings).arg("serve").stdin(Stdio::null()).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const SOON: &[(&str, &str)] = &[
    ("LIBRA__START__WAIT_SECONDS", "2"),
    ("LIBRA__START__NOTICE_SECONDS", "1"),
    ("LIBRA__START__RETRY_MS", "100"),
    ("LIBRA__BLOBS__RETRIES", "0"),
];

#[tokio::test]
async fn a_part_that_stays_away_ends_the_start_with_69_after_clear_lines() {
    // A port that nobody has: bound, and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let url = format!("nats://somebody:hidden@127.0.0.1:{port}");
    let s3 = [
        ("LIBRA__BLOBS__URL", "s3://libra"),
        ("LIBRA__BLOBS__ENDPOINT", endpoint.as_str()),
        ("LIBRA__BLOBS__ACCESS_KEY_ID", "me"),
        ("LIBRA__BLOBS__SECRET_ACCESS_KEY", "hidden"),
    ];
    let nats = [("LIBRA__NATS__URL", url.as_str())];
    let login = format!("postgres://somebody:hidden@127.0.0.1:{port}/libra");
    let database = [("LIBRA__DATABASE__URL", login.as_str())];
    for (part, address, key, settings) in [
        ("database", format!("postgres://127.0.0.1:{port}"), "database.url", &database[..]),
        ("blob store", endpoint.clone(), "blobs.url", &s3[..]),
        ("broker", format!("nats://***@127.0.0.1:{port}"), "nats.url", &nats[..]),
    ] {
        let folder = Folder::embedded();
        let began = Instant::now();
        let output = refused(&folder, &all(&[SOON, settings]));
        let said = text(&output);
        assert_eq!(output.status.code(), Some(69), "{part}: {said}");
        assert!(began.elapsed() >= Duration::from_secs(2), "{part} was not waited for: {said}");
        let line = said.lines().find(|l| l.contains("a part is away; waiting for it")).unwrap_or_default();
        assert!(line.contains(part) && line.contains(&address), "{said}");
        let last = said.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
        assert!(last.contains(&address) && last.contains("2 s") && last.contains(key), "{said}");
        assert!(!said.contains("hidden"), "{said}");
    }
}

#[tokio::test]
async fn a_store_that_comes_in_time_is_waited_for_and_used() {
    let s3 = S3::start();
    s3.wire(Wire::Gone);
    let place = s3.settings("late");
    let more = [("LIBRA__START__RETRY_MS", "50"), ("LIBRA__BLOBS__RETRIES", "0")];
    let settings = all(&[&borrowed(&place), &more]);
    let settings = quick(&settings);
    let folder = Folder::new();
    let server = std::thread::scope(|scope| {
        let serving = scope.spawn(|| folder.serve(&settings));
        let started = Instant::now();
        // It says so before it comes, and then it serves.
        while !folder.logs().contains("a part is away; waiting for it") {
            assert!(started.elapsed() < PATIENCE && !serving.is_finished(), "{}", folder.logs());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        s3.wire(Wire::Well);
        serving.join().unwrap()
    });
    let app = TestApp::on(folder, server);
    assert!(app.server.log().contains("the part is there now"));
    let (project, worker) = app.project("late").await;
    app.deploy_live(&app.body(&project, &[("index.html", "late")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "late");
}

#[tokio::test]
async fn what_no_waiting_mends_is_refused_at_once_with_a_hint() {
    let s3 = S3::start();
    let cluster = Cluster::shared();
    let (place, account) = (s3.settings("refused"), cluster.account().settings());
    let (place, account) = (borrowed(&place), borrowed(&account));
    let patient = [("LIBRA__START__WAIT_SECONDS", "3600")];
    let without_ca: Vec<_> = account.iter().filter(|(key, _)| !key.ends_with("CA_FILE")).copied().collect();
    type Case<'c> = (&'c str, Settings<'c>, Settings<'c>);
    let cases: [Case<'_>; 5] = [
        ("check blobs.access_key_id", &place, &[("LIBRA__BLOBS__SECRET_ACCESS_KEY", "wrong")]),
        ("check blobs.access_key_id", &place, &[("LIBRA__BLOBS__ACCESS_KEY_ID", "nobody")]),
        ("check nats.user and nats.password", &account, &[("LIBRA__NATS__PASSWORD", "wrong")]),
        ("check nats.ca_file", &without_ca, &[]),
        ("nats.replicas", &account, &[("LIBRA__NATS__REPLICAS", "2")]),
    ];
    for (hint, settings, more) in cases {
        let folder = Folder::embedded();
        let output = refused(&folder, &all(&[settings, &patient, more]));
        let said = text(&output);
        let code = if hint == "nats.replicas" { 64 } else { 69 };
        assert_eq!(output.status.code(), Some(code), "{hint}: {said}");
        assert!(said.contains(hint), "{hint}: {said}");
        assert!(!said.contains(s3.secret()), "{said}");
    }
}

#[tokio::test]
async fn a_broker_that_comes_in_time_is_waited_for_and_one_that_goes_leaves_the_sites() {
    let cluster = Cluster::start(Clients::CertificateAndPassword);
    let account = cluster.account().settings();
    let more = [("LIBRA__START__RETRY_MS", "100")];
    let settings = all(&[&borrowed(&account), &more]);
    let settings = quick(&settings);
    cluster.kill_all();
    let folder = Folder::new();
    let server = std::thread::scope(|scope| {
        let serving = scope.spawn(|| folder.serve(&settings));
        let started = Instant::now();
        while !folder.logs().contains("a part is away; waiting for it") {
            assert!(started.elapsed() < PATIENCE && !serving.is_finished(), "{}", folder.logs());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        for name in ["n0", "n1", "n2"] {
            cluster.restart(name);
        }
        serving.join().unwrap()
    });
    let app = TestApp::on(folder, server);
    // A Worker with origins alone is worth serving too.
    let (behind, behind_worker) = app.project("behind").await;
    let put = app.request(Method::PUT, &format!("/api/v1/projects/{behind}/upstream"));
    let put = put.json(&json!({ "origins": ["http://127.0.0.1:1"] })).send().await.unwrap();
    assert_eq!(put.status(), 200);
    cluster.kill_all();
    let app = app.restart_after_kill(&settings);
    assert!(app.server.log().contains("live sites are served without it"));
    assert_eq!(app.worker(&behind_worker, "/").await.status(), 502);
    for name in ["n0", "n1", "n2"] {
        cluster.restart(name);
    }
    let (project, worker) = app.project("kept").await;
    app.deploy_live(&app.body(&project, &[("index.html", "kept")])).await;

    // Where sites are live they are served at once, and what is deployed waits in the record.
    cluster.kill_all();
    let app = app.restart_after_kill(&settings);
    assert!(app.server.log().contains("live sites are served without it"));
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "kept");
    let id = app.deploy(&app.body(&project, &[("index.html", "newer")])).await;
    assert_eq!(app.status(&id).await["status"], "queued");
    for name in ["n0", "n1", "n2"] {
        cluster.restart(name);
    }
    assert_eq!(app.until_final(&id).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "newer");

    // An operator who would rather have no node than one without its queue says so.
    let TestApp { folder, server, .. } = app;
    server.kill();
    cluster.kill_all();
    let output =
        refused(&folder, &all(&[&settings, SOON, &[("LIBRA__START__SERVE_WITHOUT_BROKER", "false")]]));
    let said = text(&output);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("broker") && !said.contains("live sites are served without it"), "{said}");
}
