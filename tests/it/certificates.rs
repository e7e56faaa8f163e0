//! Certificates: got for proved domains from a real issuer, renewed, refused, counted; the operator's own from
//! files; all served by name, changed while serving.

use std::time::Duration;

use reqwest::{Certificate, Method, Version};
use serde_json::{Value, json};

use crate::app::{BASE, Folder, Server, TestApp, answer};
use crate::issuer::{Issuer, free_port};
use crate::tenants::Member;

/// What a server needs to be told to ask this issuer.
pub fn asking(issuer: &Issuer) -> Vec<(&'static str, String)> {
    [
        ("LIBRA__TLS__ACME__ENABLED", "true".to_owned()),
        ("LIBRA__TLS__ACME__TERMS_AGREED", "true".to_owned()),
        ("LIBRA__TLS__ACME__CONTACT", "operator@example.test".to_owned()),
        ("LIBRA__TLS__ACME__DIRECTORY", issuer.directory.clone()),
        ("LIBRA__TLS__ACME__CA_FILE", issuer.ca_file()),
        ("LIBRA__TLS__ACME__LOOK_MS", "100".to_owned()),
        ("LIBRA__TLS__ACME__SWEEP_SECONDS", "1".to_owned()),
        ("LIBRA__TLS__ACME__RETRY_FIRST_SECONDS", "1".to_owned()),
        ("LIBRA__TLS__ACME__RETRY_LONGEST_SECONDS", "2".to_owned()),
        // No name server of these tests knows their names; the issuer's own does.
        ("LIBRA__TLS__ACME__LOOK_FIRST", "false".to_owned()),
    ]
    .into()
}

/// Settings of a server whose front door is at these ports.
pub fn at(http_port: u16, tls_port: u16) -> Vec<(&'static str, String)> {
    [
        ("LIBRA__HTTP__LISTEN", format!("127.0.0.1:{http_port}")),
        ("LIBRA__TLS__LISTEN", format!("127.0.0.1:{tls_port}")),
        ("LIBRA__TLS__PUBLIC_PORT", tls_port.to_string()),
        ("LIBRA__TLS__POLL_MS", "100".to_owned()),
        ("LIBRA__TLS__FILE_POLL_MS", "100".to_owned()),
    ]
    .into()
}

pub fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(key, value)| (*key, value.as_str())).collect()
}

pub async fn start(settings: &[(&'static str, String)]) -> TestApp {
    TestApp::start_with(&borrowed(settings)).await
}

/// A client of the HTTPS listener at `port`, that knows this root only and finds these names there.
pub fn https(root: &str, port: u16, names: &[&str]) -> reqwest::Client {
    let root = Certificate::from_pem(root.as_bytes()).unwrap();
    let builder = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let builder = names.iter().fold(builder, |b, name| b.resolve(name, ([127, 0, 0, 1], port).into()));
    builder.tls_certs_only([root]).tls_info(true).timeout(Duration::from_secs(10)).build().unwrap()
}

/// A claim on `hostname` with this status, as if it had been proved.
pub async fn domain(app: &TestApp, hostname: &str, status: &str) -> String {
    let (project, _) = app.project(hostname).await;
    let id = uuid::Uuid::new_v4().simple();
    app.change(&format!(
        "INSERT INTO custom_domain (id, org_id, project_id, hostname, status, token, created_at, verified_at) \
         VALUES ('{id}', '{}', '{project}', '{hostname}', '{status}', 'token', 1, 1); \
         UPDATE route_epoch SET epoch = epoch + 1",
        app.org
    ));
    project
}

pub async fn certificate(app: &TestApp, hostname: &str) -> Value {
    let (status, page) = app.get(&format!("/api/v1/certificates?hostname={hostname}")).await;
    assert_eq!(status, 200, "{page}");
    page["certificates"][0].clone()
}

/// Waits until the certificate satisfies `holds`.
pub async fn until(app: &TestApp, hostname: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut seen = Value::Null;
    app.wait(&format!("the certificate of {hostname}"), async || {
        seen = certificate(app, hostname).await;
        holds(&seen)
    })
    .await;
    seen
}

pub fn is_valid(certificate: &Value) -> bool {
    certificate["state"] == "valid"
}

/// One number that the database knows.
pub fn number(app: &TestApp, sql: &str) -> i64 {
    app.rows(sql)[0][0].parse().unwrap()
}

#[tokio::test]
async fn a_proved_domain_is_served_by_https_and_renewed_while_serving() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let app = start(&[asking(&issuer), at(http_port, tls_port)].concat()).await;
    let host = "shop.example.test";
    let project = domain(&app, host, "active").await;
    app.deploy_live(&app.body(&project, &[("index.html", "the shop")])).await;
    let got = until(&app, host, is_valid).await;
    assert_eq!((&got["source"], &got["challenge"]), (&"acme".into(), &"http-01".into()), "{got}");
    assert!(got["lastWords"].is_null(), "{got}");
    assert!(got["notAfter"].as_str() > got["nextTry"].as_str(), "{got}");

    let client = https(&issuer.root().await, tls_port, &[host, "other.example.test"]);
    let url = format!("https://{host}:{tls_port}/");
    let page = async |client: &reqwest::Client| {
        let response = client.get(&url).send().await.unwrap();
        (response.version(), response.text().await.unwrap())
    };
    let the_shop = async |client: &reqwest::Client| match client.get(&url).send().await {
        Ok(response) => response.text().await.unwrap() == "the shop",
        Err(_) => false,
    };
    app.wait("the certificate and the site serve", async || the_shop(&client).await).await;
    assert_eq!(page(&client).await, (Version::HTTP_2, "the shop".to_owned()));
    let root = issuer.root().await;
    // What a new connection is shown.
    let shown = async || {
        let response = https(&root, tls_port, &[host]).get(&url).send().await.unwrap();
        let info = response.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
        info.peer_certificate().unwrap().to_vec()
    };
    let first = shown().await;
    assert_eq!(shown().await, first);
    // A name without a certificate fails in the handshake; a host is asked to come by HTTPS where it can.
    let other = client.get(format!("https://other.example.test:{tls_port}/")).send().await.unwrap_err();
    assert!(other.is_connect(), "{other:?}");
    let asked = |host: &str, path: &str| {
        app.http.get(format!("http://{}{path}", app.server.address)).header("host", host).send()
    };
    let sent = asked(host, "/a?b=c").await.unwrap();
    assert_eq!(sent.status(), 308);
    assert_eq!(sent.headers()["location"], format!("{url}a?b=c"));
    assert!(sent.headers().contains_key("x-request-id"));
    let unknown = asked(host, "/.well-known/acme-challenge/none").await.unwrap();
    assert_eq!(unknown.status(), 404, "a challenge is never sent to HTTPS");
    assert_eq!(asked("other.example.test", "/").await.unwrap().status(), 404);

    // Its time comes: another certificate, on the same listener; who is connected stays connected.
    app.change("UPDATE certificate SET next_try_at = 1");
    app.wait("the renewal serves", async || shown().await != first).await;
    until(&app, host, is_valid).await;
    assert_eq!(page(&client).await, (Version::HTTP_2, "the shop".to_owned()));
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 2);
    // After a restart it serves from the record, without being asked for anew.
    let app = app.restart_after_kill(&borrowed(&at(http_port, tls_port)));
    let fresh = https(&root, tls_port, &[host]);
    app.wait("the certificate and the site serve", async || the_shop(&fresh).await).await;
}

#[tokio::test]
async fn only_proved_domains_are_ordered_shown_to_their_owner_and_keys_are_sealed() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let app = start(&[asking(&issuer), at(http_port, tls_port)].concat()).await;
    for status in ["pending", "failed", "quarantined"] {
        domain(&app, &format!("{status}.example.test"), status).await;
    }
    domain(&app, "shop.example.test", "active").await;
    domain(&app, "www.example.test", "verified").await;
    let got = until(&app, "shop.example.test", is_valid).await;
    until(&app, "www.example.test", is_valid).await;

    let output = app.cli(&["certificates", "shop.example.test", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), got);
    let other = Member::of_new_organization(&app, "others");
    let asked = other.request(&app, Method::GET, "/api/v1/certificates").send().await.unwrap();
    assert_eq!(answer(asked).await.1["certificates"], json!([]));
    let (_, first) = app.get("/api/v1/certificates?limit=1").await;
    assert_eq!(first["certificates"][0]["hostname"], "quarantined.example.test");
    let (_, second) = app
        .get(&format!("/api/v1/certificates?limit=1&cursor={}", first["nextCursor"].as_str().unwrap()))
        .await;
    assert_eq!(second["certificates"][0]["hostname"], "shop.example.test");
    assert_eq!(app.get("/api/v1/certificates?hostname=a%20b").await.0, 400);

    let ordered = app.rows("SELECT DISTINCT hostname FROM acme_attempt ORDER BY hostname");
    assert_eq!(ordered, [["shop.example.test"], ["www.example.test"]]);
    let kept =
        app.rows("SELECT key_sealed FROM certificate UNION ALL SELECT credentials_sealed FROM acme_account");
    assert_eq!(kept.len(), 3);
    for row in kept {
        assert!(row[0].starts_with("v1.") && !row[0].contains("PRIVATE") && !row[0].contains("key_pkcs8"));
    }
    app.wait("the challenges are gone", async || number(&app, "SELECT count(*) FROM acme_challenge") == 0)
        .await;
    let tls = app.get("/health/detailed").await.1["checks"]["tls"].clone();
    assert_eq!((&tls["status"], &tls["issued"]), (&"healthy".into(), &2.into()), "{tls}");
    assert!(tls["soonestExpiry"].is_string());

    // A name that nobody owns any more is taken out of service, its key forgotten, and never renewed.
    let client = https(&issuer.root().await, tls_port, &["shop.example.test", "www.example.test"]);
    let serves = async |host: &str| client.get(format!("https://{host}:{tls_port}/")).send().await.is_ok();
    assert!(serves("shop.example.test").await);
    app.change("DELETE FROM custom_domain WHERE hostname = 'shop.example.test'");
    app.change("UPDATE certificate SET next_try_at = 1");
    let row =
        "SELECT state, coalesce(key_sealed, 'none') FROM certificate WHERE hostname = 'shop.example.test'";
    app.wait("its key is forgotten", async || app.rows(row) == [["none", "none"]]).await;
    let fresh = async |host: &str| {
        let client = https(&issuer.root().await, tls_port, &[host]);
        client.get(format!("https://{host}:{tls_port}/")).send().await.is_ok()
    };
    app.wait("it is not served", async || !fresh("shop.example.test").await).await;
    assert!(fresh("www.example.test").await);
    let orders =
        |host: &str| number(&app, &format!("SELECT count(*) FROM acme_attempt WHERE hostname = '{host}'"));
    app.wait("the other one is renewed", async || orders("www.example.test") == 2).await;
    assert_eq!(orders("shop.example.test"), 1);
}

#[tokio::test]
async fn where_http_01_finds_nothing_tls_alpn_01_is_tried_at_once() {
    let (http_port, tls_port) = (free_port(), free_port());
    // Nothing listens where the issuer looks for pages.
    let issuer = Issuer::start(free_port(), tls_port);
    let app = start(&[asking(&issuer), at(http_port, tls_port)].concat()).await;
    domain(&app, "shop.example.test", "active").await;
    let got = until(&app, "shop.example.test", is_valid).await;
    assert_eq!(got["challenge"], "tls-alpn-01", "{got}");
    let failed = "SELECT count(*) FROM acme_attempt WHERE may_have_failed AND NOT may_have_certificate";
    assert_eq!(number(&app, failed), 1);
}

#[tokio::test]
async fn a_server_that_asks_nobody_answers_the_issuer_for_the_one_that_does() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    for kind in ["http-01", "tls-alpn-01"] {
        let folder = Folder::new();
        let asks = [asking(&issuer), at(free_port(), free_port())].concat();
        let asks = [&borrowed(&asks)[..], &[("LIBRA__TLS__ACME__CHALLENGES", kind)]].concat();
        let asking_server = folder.serve(&asks);
        // Where the domain leads.
        let answering: Server = folder.serve(&borrowed(&at(http_port, tls_port)));
        let app = TestApp::on(folder, asking_server);
        domain(&app, "shop.example.test", "active").await;
        let got = until(&app, "shop.example.test", is_valid).await;
        assert_eq!(got["challenge"], kind, "{got}");
        // And serves what the other one got.
        let client = https(&issuer.root().await, tls_port, &["shop.example.test"]);
        let url = format!("https://shop.example.test:{tls_port}/");
        app.wait("the other server serves it", async || client.get(&url).send().await.is_ok()).await;
        assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 1);
        drop(answering);
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_is_named_and_the_second_one_asked() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let nowhere = format!("https://127.0.0.1:{}/dir", free_port());
    let mut settings = [asking(&issuer), at(http_port, tls_port)].concat();
    settings.push(("LIBRA__TLS__ACME__SECOND_DIRECTORY", issuer.directory.clone()));
    settings.push(("LIBRA__TLS__ACME__DIRECTORY", nowhere.clone()));
    let app = start(&settings).await;
    domain(&app, "shop.example.test", "active").await;
    let told = until(&app, "shop.example.test", |c| c["state"] == "failed").await;
    assert_eq!(told["lastWords"], "The issuer can't be reached.", "{told}");
    assert!(nowhere.contains(told["issuer"].as_str().unwrap()) && told["nextTry"].is_string(), "{told}");
    let shown = app.cli(&["certificates"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("The issuer can't be reached."));
    let got = until(&app, "shop.example.test", is_valid).await;
    assert!(issuer.directory.contains(got["issuer"].as_str().unwrap()), "{got}");
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
    let app = app.restart_after_kill(&borrowed(&settings));
    app.change("UPDATE certificate SET next_try_at = 1");
    app.wait("another look at the budget", async || {
        number(&app, "SELECT next_try_at FROM certificate") > 1
            && waits(&certificate(&app, "shop.example.test").await)
    })
    .await;
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 3);
}

#[tokio::test]
async fn orders_beyond_the_budget_wait_and_renewals_have_room_of_their_own() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let mut settings = [asking(&issuer), at(http_port, tls_port)].concat();
    settings.push(("LIBRA__TLS__ACME__ORDERS", "3".to_owned()));
    settings.push(("LIBRA__TLS__ACME__ORDERS_FOR_RENEWALS", "1".to_owned()));
    let app = start(&settings).await;
    for name in ["a.example.test", "b.example.test"] {
        domain(&app, name, "active").await;
        until(&app, name, is_valid).await;
    }
    domain(&app, "c.example.test", "active").await;
    let waiting = until(&app, "c.example.test", |c| c["lastWords"].is_string()).await;
    assert_eq!(waiting["state"], "queued", "{waiting}");
    assert_eq!(waiting["lastWords"], "Waits: this installation's orders are used up for now.");
    // A renewal may use what is kept for it, once.
    let orders = "SELECT count(*) FROM acme_attempt";
    app.change("UPDATE certificate SET next_try_at = 1 WHERE hostname = 'a.example.test'");
    app.wait("the renewal", async || number(&app, orders) == 3).await;
    until(&app, "a.example.test", is_valid).await;
    app.change("UPDATE certificate SET next_try_at = 1 WHERE hostname = 'b.example.test'");
    let kept = until(&app, "b.example.test", |c| c["lastWords"].is_string()).await;
    assert!(is_valid(&kept), "a certificate that is good stays: {kept}");
    assert_eq!(number(&app, orders), 3);
}

#[tokio::test]
async fn servers_share_one_budget_and_one_of_them_asks_at_a_time() {
    let (http_port, tls_port) = (free_port(), free_port());
    let issuer = Issuer::start(http_port, tls_port);
    let folder = Folder::new();
    let common = [
        ("LIBRA__TLS__ACME__ORDERS", "4"),
        ("LIBRA__TLS__ACME__ORDERS_FOR_RENEWALS", "0"),
        ("LIBRA__TLS__ACME__CHALLENGE_WAIT_MS", "500"),
    ];
    let serve = |http_port, tls_port| {
        let settings = [asking(&issuer), at(http_port, tls_port)].concat();
        folder.serve(&[&borrowed(&settings)[..], &common].concat())
    };
    let (first, others) =
        (serve(http_port, tls_port), [serve(free_port(), free_port()), serve(free_port(), free_port())]);
    let app = TestApp::on(folder, first);
    for number in 0..7 {
        domain(&app, &format!("n{number}.example.test"), "active").await;
    }
    let settled = "SELECT count(*) FROM certificate WHERE state = 'valid' OR last_words LIKE 'Waits: %'";
    app.wait("every name got one or waits", async || number(&app, settled) == 7).await;
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 4);
    assert_eq!(number(&app, "SELECT count(*) FROM certificate WHERE state = 'valid'"), 4);
    assert_eq!(number(&app, "SELECT count(*) FROM acme_account"), 1);
    drop(others);
}

#[tokio::test]
async fn an_order_that_died_with_its_server_is_counted_and_made_again() {
    let (http_port, tls_port) = (free_port(), free_port());
    let mut issuer = Issuer::start(http_port, tls_port);
    issuer.look_for_seconds(20);
    let mut settings = [asking(&issuer), at(http_port, tls_port)].concat();
    settings.push(("LIBRA__TLS__ACME__LEASE_SECONDS", "3".to_owned()));
    let app = start(&settings).await;
    domain(&app, "shop.example.test", "active").await;
    app.wait("the issuer was asked", async || number(&app, "SELECT count(*) FROM acme_challenge") == 1).await;
    assert_eq!(certificate(&app, "shop.example.test").await["state"], "issuing");
    let app = app.restart_after_kill(&borrowed(&settings));
    issuer.look_for_seconds(0);
    // The issuer has forgotten us meanwhile: that is said, and another account made.
    let words = |c: &Value| c["lastWords"].as_str().is_some_and(|w| w.starts_with("accountDoesNotExist: "));
    until(&app, "shop.example.test", words).await;
    until(&app, "shop.example.test", is_valid).await;
    let unsettled = "SELECT count(*) FROM acme_attempt WHERE may_have_failed AND may_have_certificate";
    assert_eq!(number(&app, unsettled), 1);
    assert_eq!(number(&app, "SELECT count(*) FROM acme_attempt"), 3);
}

#[tokio::test]
async fn the_operators_wildcard_serves_workers_and_is_changed_without_a_restart() {
    let (http_port, tls_port) = (free_port(), free_port());
    let folder = Folder::new();
    let (chain, key) = (folder.path().join("wildcard.pem"), folder.path().join("wildcard.key"));
    let put = |names: &[&str]| {
        let own = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = rcgen::CertificateParams::new(names).unwrap().self_signed(&own).unwrap();
        std::fs::write(&key, own.serialize_pem()).unwrap();
        std::fs::write(&chain, made.pem()).unwrap();
        made.pem()
    };
    let first = put(&[&format!("*.{BASE}")]);
    let mut settings = at(http_port, tls_port);
    settings.push(("LIBRA__TLS__CERTIFICATES", format!("{}:{}", chain.display(), key.display())));
    let server = folder.serve(&borrowed(&settings));
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("by wildcard").await;
    app.deploy_live(&app.body(&project, &[("index.html", "by wildcard")])).await;
    let host = format!("{worker}.{BASE}");
    let url = format!("https://{host}:{tls_port}/");
    let reads = async |root: &str| {
        let client = https(root, tls_port, &[&host]);
        Some(client.get(&url).send().await.ok()?.text().await.unwrap())
    };
    assert_eq!(reads(&first).await.as_deref(), Some("by wildcard"));
    let sent = app.worker(&worker, "/x").await;
    assert_eq!(sent.status(), 308);
    assert_eq!(sent.headers()["location"], format!("{url}x"));
    // The API by its address is nobody's to redirect.
    assert_eq!(app.get("/health").await.0, 200);

    std::fs::write(&chain, "no certificate").unwrap();
    let tls = async || app.get("/health/detailed").await.1["checks"]["tls"].clone();
    app.wait("health says so", async || tls().await["failedFiles"] == 1).await;
    assert_eq!(
        (tls().await["status"].as_str(), reads(&first).await.as_deref()),
        (Some("unhealthy"), Some("by wildcard"))
    );
    let second = put(&[&format!("*.{BASE}"), "more.example.test"]);
    app.wait("the new one serves", async || reads(&second).await.is_some()).await;
    assert_eq!(reads(&first).await, None);
    let tls = tls().await;
    assert_eq!((&tls["status"], &tls["names"]), (&"healthy".into(), &2.into()), "{tls}");

    // No issuer is set, so a domain without a certificate says that nobody was asked.
    domain(&app, "shop.example.test", "active").await;
    domain(&app, "more.example.test", "active").await;
    assert_eq!(certificate(&app, "shop.example.test").await["state"], "none");
    let own = certificate(&app, "more.example.test").await;
    assert_eq!((&own["state"], &own["source"]), (&"valid".into(), &"operator".into()), "{own}");
}
