//! A restart with the database away speaks HTTPS too: by the last certificates, which lie on this machine's disk
//! with their keys sealed.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::app::{Folder, PATIENCE, TestApp, rows};
use crate::certificates::{asking, at, borrowed, domain, https, is_valid, until};
use crate::failing::quick;
use crate::issuer::{Issuer, free_port};
use crate::last_table::{IMPATIENT, SOON, database_is_away, text};
use crate::parts::{Whose, all};

const HOST: &str = "kept.example.test";
const GONE: &str = "gone.example.test";

/// A server that waits for its database.
struct Waiting(Child);

impl Waiting {
    fn start(folder: &Folder, settings: &[(&str, &str)]) -> Self {
        let log = folder.path().join(format!("waiting-{}.log", uuid::Uuid::new_v4().simple()));
        let mut program = folder.libra(settings);
        program.arg("serve").stdin(Stdio::null()).stdout(Stdio::null());
        Self(program.stderr(std::fs::File::create(log).unwrap()).spawn().unwrap())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Already ended and waited for: nothing to kill.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_the_database_away_speaks_https_with_the_last_certificates() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let asks = [asking(&issuer), at(http_port, tls_port)].concat();
    let settings = all(&[&quick(SOON), &borrowed(&asks)]);
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let project = domain(&app, HOST, "active").await;
    domain(&app, GONE, "active").await;
    app.change("UPDATE route_epoch SET epoch = epoch + 1");
    let version = app.deploy_live(&app.body(&project, &[("index.html", "kept")])).await;
    until(&app, HOST, is_valid).await;
    until(&app, GONE, is_valid).await;
    let path = app.folder.data().join("edge/certificates.jsonl");
    let table = app.folder.data().join("edge/routes.jsonl");
    let is_live = |table: &str| {
        let leads = |line: &str| line.starts_with("{\"worker\"") && line.contains(&version);
        table.contains(HOST) && table.lines().any(leads)
    };
    app.wait("both are kept, and the table", async || {
        let kept = text(&path);
        [HOST, GONE, "\"end\""].iter().all(|word| kept.contains(word)) && is_live(&text(&table))
    })
    .await;
    assert!(!text(&path).contains("PRIVATE KEY"), "keys are sealed");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let root = issuer.root().await;
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    // As after a restored backup: the record does not know it at all.
    rows(&folder, &format!("DELETE FROM certificate WHERE hostname = '{GONE}'"));
    rows(&folder, &format!("DELETE FROM custom_domain WHERE hostname = '{GONE}'"));
    database_is_away(&folder, true);

    let page = async |host: &str| {
        let client = https(&root, tls_port, &[host]);
        let answer = client.get(format!("https://{host}:{tls_port}/")).send().await.ok()?;
        answer.text().await.ok()
    };
    let until_page = async |host: &str, logs: &Folder| {
        let started = Instant::now();
        while page(host).await.is_none() {
            assert!(started.elapsed() < PATIENCE, "{}", logs.logs());
            tokio::time::timeout(std::time::Duration::from_millis(20), std::future::pending::<()>())
                .await
                .unwrap_err();
        }
    };
    let patient = all(&[&settings, IMPATIENT]);
    // Another secret opens none of them: the handshake fails, and the log says why.
    let other = [("LIBRA__SECURITY__SECRET_KEY", "another-secret-of-32-characters-or-more")];
    let waiting = Waiting::start(&folder, &all(&[&patient, &other]));
    let started = Instant::now();
    while !folder.logs().contains("a kept certificate can't be used") {
        assert!(started.elapsed() < PATIENCE, "{}", folder.logs());
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    assert_eq!(page(HOST).await, None);
    drop(waiting);

    let waiting = Waiting::start(&folder, &patient);
    until_page(HOST, &folder).await;
    assert_eq!(page(HOST).await.as_deref(), Some("kept"));
    // The last that was known; nobody can say yet that it is over.
    until_page(GONE, &folder).await;
    drop(waiting);

    // A damaged file is no reason not to start.
    let whole = text(&path);
    std::fs::write(&path, whole.replacen(HOST, "x", 1)).unwrap();
    let waiting = Waiting::start(&folder, &patient);
    let started = Instant::now();
    while !folder.logs().contains("the last certificates can't be used") {
        assert!(started.elapsed() < PATIENCE, "{}", folder.logs());
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
    drop(waiting);
    std::fs::write(&path, whole).unwrap();

    database_is_away(&folder, false);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    assert_eq!(page(HOST).await.as_deref(), Some("kept"));
    app.wait("what the record does not name is gone", async || page(GONE).await.is_none()).await;
    app.wait("also from the disk", async || !text(&path).contains(GONE)).await;
    assert_eq!(page(HOST).await.as_deref(), Some("kept"));
}
