//! Certificates of custom domains, got from a real issuer: proved, renewed, refused, counted.

use std::sync::Arc;

use libra::domain::ChallengeKind;
use libra::tls::{CertificateTable, Challenges, Outstanding, server_config};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::app::{TestApp, answer};
use crate::issuer::{Issuer, free_port};
use crate::tenants::Member;

/// Stands where the domain leads: another server of the installation, which knows the record only.
struct Elsewhere {
    challenges: Arc<Challenges>,
    http: TcpListener,
    tls: TcpListener,
}

impl Elsewhere {
    async fn bind() -> (Self, u16, u16) {
        let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (http, tls) = (bind().await, bind().await);
        let port = |l: &TcpListener| l.local_addr().unwrap().port();
        let ports = (port(&http), port(&tls));
        (Self { challenges: Arc::default(), http, tls }, ports.0, ports.1)
    }

    /// Answers what the record says, one connection at a time, until it is dropped.
    async fn answer(&self, app: &TestApp) {
        let table = Arc::new(CertificateTable::new("", Arc::clone(&self.challenges)));
        let acceptor = tokio_rustls::TlsAcceptor::from(server_config(table).unwrap());
        for reading in 1.. {
            tokio::select! {
                met = self.http.accept() => {
                    self.read(app, reading);
                    let mut stream = met.unwrap().0;
                    let mut asked = vec![0; 4_096];
                    let count = stream.read(&mut asked).await.unwrap();
                    let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
                    let body = self.page(&asked).unwrap_or_default();
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                    drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
                }
                met = self.tls.accept() => {
                    self.read(app, reading);
                    // An issuer hangs up when it has seen the certificate.
                    drop(acceptor.accept(met.unwrap().0).await);
                }
            }
        }
    }

    fn read(&self, app: &TestApp, reading: i64) {
        let rows = app.rows("SELECT hostname, kind, token, key_authorization FROM acme_challenge");
        let outstanding = rows.into_iter().map(|row| Outstanding {
            hostname: row[0].clone(),
            kind: ChallengeKind::parse(&row[1]).unwrap(),
            token: row[2].clone(),
            key_authorization: row[3].clone(),
        });
        self.challenges.replace(reading, outstanding.collect());
    }

    fn page(&self, asked: &str) -> Option<String> {
        let token = asked.strip_prefix("GET /.well-known/acme-challenge/")?.split(' ').next()?;
        let host = asked.split("\r\n").find_map(|line| line.strip_prefix("Host: "))?;
        self.challenges.http01(host.split(':').next()?, token)
    }
}

/// What a server needs to be told to ask this issuer.
fn asking(issuer: &Issuer) -> Vec<(&'static str, String)> {
    [
        ("LIBRA__TLS__ACME__ENABLED", "true".to_owned()),
        ("LIBRA__TLS__ACME__TERMS_AGREED", "true".to_owned()),
        ("LIBRA__TLS__ACME__CONTACT", "operator@example.test".to_owned()),
        ("LIBRA__TLS__ACME__DIRECTORY", issuer.directory.clone()),
        ("LIBRA__TLS__ACME__CA_FILE", issuer.ca_file()),
        ("LIBRA__TLS__ACME__LOOK_MS", "100".to_owned()),
        ("LIBRA__TLS__ACME__RETRY_FIRST_SECONDS", "1".to_owned()),
        ("LIBRA__TLS__ACME__RETRY_LONGEST_SECONDS", "2".to_owned()),
        ("LIBRA__TLS__POLL_MS", "100".to_owned()),
    ]
    .into()
}

async fn start(settings: &[(&'static str, String)]) -> TestApp {
    let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    TestApp::start_with(&settings).await
}

/// A claim on `hostname` with this status, as if it had been proved.
async fn domain(app: &TestApp, hostname: &str, status: &str) {
    let (project, _) = app.project(hostname).await;
    let id = uuid::Uuid::new_v4().simple();
    app.change(&format!(
        "INSERT INTO custom_domain (id, org_id, project_id, hostname, status, token, created_at, verified_at) \
         VALUES ('{id}', '{}', '{project}', '{hostname}', '{status}', 'token', 1, 1)",
        app.org
    ));
}

async fn certificate(app: &TestApp, hostname: &str) -> Value {
    let (status, page) = app.get(&format!("/api/v1/certificates?hostname={hostname}")).await;
    assert_eq!(status, 200, "{page}");
    page["certificates"][0].clone()
}

/// Waits until the certificate satisfies `holds`.
async fn until(app: &TestApp, hostname: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Value::Null;
    app.wait(&format!("the certificate of {hostname}"), async || {
        seen = certificate(app, hostname).await;
        holds(&seen)
    })
    .await;
    seen
}

fn is_valid(certificate: &Value) -> bool {
    certificate["state"] == "valid"
}

/// One number that the database knows.
fn number(app: &TestApp, sql: &str) -> i64 {
    app.rows(sql)[0][0].parse().unwrap()
}

#[tokio::test]
async fn a_proved_domain_gets_a_certificate_by_http_01_and_an_unproved_one_is_never_ordered() {
    let (elsewhere, http_port, tls_port) = Elsewhere::bind().await;
    let issuer = Issuer::start(http_port, tls_port);
    let app = start(&asking(&issuer)).await;
    let test = async {
        for status in ["pending", "failed", "quarantined"] {
            domain(&app, &format!("{status}.example.test"), status).await;
        }
        domain(&app, "shop.example.test", "active").await;
        domain(&app, "www.example.test", "verified").await;
        let got = until(&app, "shop.example.test", is_valid).await;
        until(&app, "www.example.test", is_valid).await;
        assert_eq!((&got["source"], &got["challenge"]), (&"acme".into(), &"http-01".into()), "{got}");
        assert!(
            got["lastWords"].is_null() && issuer.directory.contains(got["issuer"].as_str().unwrap()),
            "{got}"
        );
        assert!(got["notAfter"].as_str() > got["nextTry"].as_str(), "{got}");

        // The same by the command line, of the organization's own domains only.
        let output = app.cli(&["certificates", "shop.example.test", "--json"]);
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(printed, got);
        let other = Member::of_new_organization(&app, "others");
        let asked = other.request(&app, reqwest::Method::GET, "/api/v1/certificates").send().await.unwrap();
        let (_, page) = answer(asked).await;
        assert_eq!(page["certificates"], serde_json::json!([]));

        // Nothing was asked for the others, and nothing that is kept can be read.
        let ordered = app.rows("SELECT DISTINCT hostname FROM acme_attempt ORDER BY hostname");
        assert_eq!(ordered, [["shop.example.test"], ["www.example.test"]]);
        let kept = app
            .rows("SELECT key_sealed FROM certificate UNION ALL SELECT credentials_sealed FROM acme_account");
        assert_eq!(kept.len(), 3);
        for row in kept {
            assert!(
                row[0].starts_with("v1.") && !row[0].contains("PRIVATE") && !row[0].contains("key_pkcs8")
            );
        }
        assert_eq!(number(&app, "SELECT count(*) FROM acme_challenge"), 0);
        let tls = app.get("/health/detailed").await.1["checks"]["tls"].clone();
        assert_eq!((&tls["status"], &tls["issued"]), (&"healthy".into(), &2.into()), "{tls}");
        assert!(tls["soonestExpiry"].is_string());

        // Its time comes: renewed, with another key.
        let of_shop = "FROM certificate WHERE hostname = 'shop.example.test'";
        let before = app.rows(&format!("SELECT chain {of_shop}"));
        app.change("UPDATE certificate SET next_try_at = 1 WHERE hostname = 'shop.example.test'");
        app.wait("the renewal", async || app.rows(&format!("SELECT chain {of_shop}")) != before).await;
        assert!(is_valid(&certificate(&app, "shop.example.test").await));
        assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt WHERE hostname = 'shop.example.test'"), 2);
    };
    tokio::select! {
        () = elsewhere.answer(&app) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn where_http_01_finds_nothing_tls_alpn_01_is_tried_at_once() {
    let (elsewhere, _, tls_port) = Elsewhere::bind().await;
    // Nothing listens where the issuer looks for pages.
    let issuer = Issuer::start(free_port(), tls_port);
    let app = start(&asking(&issuer)).await;
    let test = async {
        domain(&app, "shop.example.test", "active").await;
        let got = until(&app, "shop.example.test", is_valid).await;
        assert_eq!(got["challenge"], "tls-alpn-01", "{got}");
        let failed = "SELECT count(*) FROM acme_attempt WHERE may_have_failed AND NOT may_have_certificate";
        assert_eq!(number(&app, failed), 1);
    };
    tokio::select! {
        () = elsewhere.answer(&app) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_is_named_and_the_second_one_asked() {
    let (elsewhere, http_port, tls_port) = Elsewhere::bind().await;
    let issuer = Issuer::start(http_port, tls_port);
    let mut settings = asking(&issuer);
    let nowhere = format!("https://127.0.0.1:{}/dir", free_port());
    settings.push(("LIBRA__TLS__ACME__SECOND_DIRECTORY", issuer.directory.clone()));
    settings.push(("LIBRA__TLS__ACME__DIRECTORY", nowhere.clone()));
    let app = start(&settings).await;
    let test = async {
        domain(&app, "shop.example.test", "active").await;
        let told = until(&app, "shop.example.test", |c| c["state"] == "failed").await;
        assert_eq!(told["lastWords"], "The issuer can't be reached.", "{told}");
        assert!(nowhere.contains(told["issuer"].as_str().unwrap()) && told["nextTry"].is_string(), "{told}");
        let shown = app.cli(&["certificates"]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("The issuer can't be reached."));
        let got = until(&app, "shop.example.test", is_valid).await;
        assert!(issuer.directory.contains(got["issuer"].as_str().unwrap()), "{got}");
    };
    tokio::select! {
        () = elsewhere.answer(&app) => {}
        () = test => {}
    }
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_told_in_the_issuers_words_and_its_looks_are_counted() {
    let issuer = Issuer::start(free_port(), free_port());
    let mut settings = asking(&issuer);
    settings.push(("LIBRA__TLS__ACME__FAILURES_OF_ONE_HOST", "3".to_owned()));
    let app = start(&settings).await;
    domain(&app, "shop.example.test", "active").await;
    let told = until(&app, "shop.example.test", |c| c["state"] == "failed").await;
    let words = told["lastWords"].as_str().unwrap();
    assert!(words.contains("http-01: ") && words.contains("tls-alpn-01: "), "{words}");
    assert!(words.contains("refused") && !words.contains('\n'), "{words}");
    // The second try may look once; then the hour is over before there is another.
    let waits = |c: &Value| c["lastWords"].as_str().is_some_and(|w| w.starts_with("Waits: "));
    let waiting = until(&app, "shop.example.test", waits).await;
    assert_eq!(waiting["state"], "queued");
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 3);
    let pause = number(&app, "SELECT next_try_at - updated_at FROM certificate");
    assert!((3_000_000..=3_600_000).contains(&pause), "{pause} ms");
    // A server that starts anew knows it still.
    let app = app.restart_after_kill(&settings.iter().map(|(k, v)| (*k, v.as_str())).collect::<Vec<_>>());
    app.change("UPDATE certificate SET next_try_at = 1");
    app.wait("another look at the budget", async || {
        number(&app, "SELECT next_try_at FROM certificate") > 1
            && waits(&certificate(&app, "shop.example.test").await)
    })
    .await;
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 3);
}

#[tokio::test]
async fn orders_beyond_the_budget_wait_and_renewals_go_first() {
    let (elsewhere, http_port, tls_port) = Elsewhere::bind().await;
    let issuer = Issuer::start(http_port, tls_port);
    let mut settings = asking(&issuer);
    settings.push(("LIBRA__TLS__ACME__ORDERS", "3".to_owned()));
    settings.push(("LIBRA__TLS__ACME__ORDERS_FOR_RENEWALS", "1".to_owned()));
    let app = start(&settings).await;
    let test = async {
        for name in ["a.example.test", "b.example.test"] {
            domain(&app, name, "active").await;
            until(&app, name, is_valid).await;
        }
        domain(&app, "c.example.test", "active").await;
        let waiting = until(&app, "c.example.test", |c| c["lastWords"].is_string()).await;
        assert_eq!(waiting["state"], "queued", "{waiting}");
        assert_eq!(waiting["lastWords"], "Waits: this installation's orders are used up for now.");
        // A renewal may use what is kept for it, once.
        app.change("UPDATE certificate SET next_try_at = 1 WHERE hostname = 'a.example.test'");
        app.wait("the renewal", async || number(&app, "SELECT count(*) FROM acme_attempt") == 3).await;
        until(&app, "a.example.test", is_valid).await;
        app.change("UPDATE certificate SET next_try_at = 1 WHERE hostname = 'b.example.test'");
        let kept = until(&app, "b.example.test", |c| c["lastWords"].is_string()).await;
        assert!(is_valid(&kept), "a certificate that is good stays: {kept}");
        assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 3);
    };
    tokio::select! {
        () = elsewhere.answer(&app) => {}
        () = test => {}
    }
}
