//! From a TXT record to a page over HTTPS in one go: a real command line, name server, issuer and client. And what a
//! name costs that leads elsewhere: no order.

use std::net::TcpListener;

use reqwest::header;
use serde_json::Value;

use crate::app::{BASE, TestApp};
use crate::certificates::{asking, at, borrowed, certificate, https, is_valid, number, until};
use crate::dns::{Mood, NameServer};
use crate::domains::SLOW;
use crate::issuer::{Issuer, free_port};
use crate::sockets::handshake;
use crate::wire;

const HOST: &str = "shop.example.test";

struct Scene {
    app: TestApp,
    names: NameServer,
    issuer: Issuer,
    http_port: u16,
    tls_port: u16,
}

impl Scene {
    async fn start(more: &[(&'static str, &str)]) -> Self {
        let (http_port, tls_port) = (free_port(), free_port());
        let issuer = Issuer::start(http_port, tls_port);
        let names = NameServer::start().await;
        let mut settings = [asking(&issuer), at(http_port, tls_port)].concat();
        settings
            .retain(|(key, _)| !matches!(*key, "LIBRA__TLS__ACME__LOOK_FIRST" | "LIBRA__TLS__PUBLIC_PORT"));
        settings.push(("LIBRA__TLS__ACME__HTTP_PORT", http_port.to_string()));
        settings.push(("LIBRA__TLS__ACME__TLS_PORT", tls_port.to_string()));
        settings.push(("LIBRA__TLS__ACME__LOOK_AGAIN_SECONDS", "1".to_owned()));
        settings.push(("LIBRA__DOMAINS__DNS__SERVERS", names.address.to_string()));
        settings.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let settings = borrowed(&settings);
        let app = TestApp::start_with(&[SLOW, &settings[..]].concat()).await;
        Self { app, names, issuer, http_port, tls_port }
    }

    /// What the command line says, which must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.app.cli(arguments);
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {complained}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Adds a domain and sets the TXT record that was printed.
    fn add(&self, project: &str, host: &str) {
        let said = self.run(&["domains", "add", host, "--project", project]);
        let record = said.lines().find(|line| line.trim_start().starts_with("TXT")).unwrap();
        let mut words = record.split_whitespace().skip(1);
        let (name, value) = (words.next().unwrap(), words.next().unwrap());
        self.names.set(name, &[&[value]]);
    }

    /// Orders that were placed, for `host`.
    fn orders(&self, host: &str) -> i64 {
        number(&self.app, &format!("SELECT count(*) FROM acme_attempt WHERE hostname = '{host}'"))
    }

    async fn told(&self, host: &str, words: &str) -> Value {
        until(&self.app, host, |c| c["lastWords"].as_str().is_some_and(|w| w.contains(words))).await
    }
}

// The command line is waited for while the name server answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_set_as_printed_ends_in_a_page_over_https_and_no_order_comes_before_its_proof() {
    let scene = Scene::start(&[]).await;
    let app = &scene.app;
    let (project, worker) = app.project("shop").await;
    // Larger than what is held in memory.
    let large: String = (0..400_000).map(|line| format!("{line:07}\n")).collect();
    app.deploy_live(&app.body(&project, &[("index.html", "the shop"), ("large.txt", &large)])).await;
    let said = scene.run(&["domains", "add", "unproved.example.test", "--project", "shop"]);
    assert!(said.contains("_libra.unproved.example.test"), "{said}");
    scene.names.lead("unproved.example.test", &["127.0.0.1"]);

    scene.add(&project, HOST);
    let said = scene.run(&["domains", "verify", HOST]);
    assert!(said.starts_with(&format!("{HOST} is active")), "{said}");
    // Nobody leads the name here yet: that is told, with what to set, and costs nothing.
    let told = scene.told(HOST, "has no address").await;
    let words = told["lastWords"].as_str().unwrap();
    assert!(words.contains(&format!("Set CNAME {HOST} {worker}.{BASE}.")), "{words}");
    assert_eq!((&told["state"], scene.orders(HOST)), (&"failed".into(), 0), "{told}");
    assert!(told["issuer"].is_null(), "nobody was asked: {told}");
    scene.names.lead(HOST, &["127.0.0.1"]);
    let got = until(app, HOST, is_valid).await;
    assert_eq!((&got["challenge"], scene.orders(HOST)), (&"http-01".into(), 1), "{got}");

    let client = https(&scene.issuer.root().await, scene.tls_port, &[HOST]);
    let url = format!("https://{HOST}:{}/", scene.tls_port);
    app.wait("the page is served over HTTPS", async || match client.get(&url).send().await {
        Ok(page) => page.text().await.unwrap() == "the shop",
        Err(_) => false,
    })
    .await;
    let whole = client.get(format!("{url}large.txt")).send().await.unwrap().text().await.unwrap();
    assert!(whole == large, "{} bytes", whole.len());
    let plain = app.http.get(format!("http://127.0.0.1:{}/a?b", scene.http_port)).header("host", HOST);
    let sent = plain.send().await.unwrap();
    // The port is the listener's, because nothing else was set.
    assert_eq!(sent.status(), 308);
    assert_eq!(sent.headers()[header::LOCATION], format!("{url}a?b"));
    // Few WebSocket clients follow, so that it is said in words too.
    let socket = format!("wss://{HOST}:{}/live", scene.tls_port);
    let asks = handshake(HOST, "/live").replace("Connection: Upgrade", "Connection: Upgrade, close");
    let reply = wire::ask(&app.server.address, asks.as_bytes()).await;
    assert_eq!((reply.status, reply.header("location")), (308, Some(&*socket)), "{reply:?}");
    assert!(reply.body.contains(&format!("connect to {socket}")), "{reply:?}");

    // The one without a proof was looked at all this time, and nobody was asked for it.
    assert_eq!(scene.orders("unproved.example.test"), 0);
    assert_eq!(number(app, "SELECT count(*) FROM certificate"), 1);
}

// The command line is waited for while the name server answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_leads_elsewhere_costs_no_order_and_its_owner_is_told_where_it_leads() {
    let scene = Scene::start(&[("LIBRA__DOMAINS__DNS__TIMEOUT_MS", "300")]).await;
    let app = &scene.app;
    let (project, _) = app.project("elsewhere").await;
    scene.add(&project, HOST);
    scene.names.lead(HOST, &["10.0.0.1", "169.254.169.254"]);
    scene.run(&["domains", "verify", HOST]);
    scene.told(HOST, "leads to 10.0.0.1, 169.254.169.254, which is not public.").await;
    // Another server, beside ours: an issuer might ask just that one.
    let other = TcpListener::bind(("127.0.0.2", scene.http_port)).unwrap();
    std::thread::spawn(move || {
        for mut socket in other.incoming().flatten() {
            // Whoever asks may be gone.
            drop(std::io::Read::read(&mut socket, &mut [0; 4_096]));
            drop(std::io::Write::write_all(&mut socket, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"));
        }
    });
    scene.names.lead(HOST, &["127.0.0.1", "127.0.0.2"]);
    scene.told(HOST, "leads to 127.0.0.2, where something else answers.").await;
    scene.names.lead(HOST, &["127.0.0.3"]);
    let port = scene.http_port;
    scene.told(HOST, &format!("leads to 127.0.0.3, where nobody answers at port {port}.")).await;
    scene.names.mood(Mood::Fails);
    scene.told(HOST, "gave no answer").await;
    assert_eq!(scene.orders(HOST), 0);
    assert_eq!(certificate(app, HOST).await["state"], "failed");
    scene.names.mood(Mood::Answers);
    // One that does not answer is no obstacle where another one is ours.
    scene.names.lead(HOST, &["127.0.0.1", "127.0.0.3"]);
    until(app, HOST, is_valid).await;
    assert_eq!(scene.orders(HOST), 1);

    // Our own look is answered to whoever asks, and tells nothing that helps to answer another one.
    let look = |token: &str| {
        let path = format!("http://{}/.well-known/acme-challenge/{token}", app.server.address);
        app.http.get(path).header("host", HOST).send()
    };
    let token = format!("libra.look.{}", "a1".repeat(16));
    let first = look(&token).await.unwrap().text().await.unwrap();
    assert_eq!(first.len(), 64);
    let second = look(&format!("libra.look.{}", "a2".repeat(16))).await.unwrap().text().await.unwrap();
    assert_ne!(first, second);
    assert_ne!(look("libra.look.x").await.unwrap().status(), 200);
}

// The command line is waited for while the name server answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_port_80_is_silent_tls_alpn_01_is_ordered_at_once() {
    let scene = Scene::start(&[("LIBRA__TLS__ACME__HTTP_PORT", "1")]).await;
    let (project, _) = scene.app.project("silent").await;
    scene.add(&project, HOST);
    scene.names.lead(HOST, &["127.0.0.1"]);
    scene.run(&["domains", "verify", HOST]);
    let got = until(&scene.app, HOST, is_valid).await;
    assert_eq!((&got["challenge"], scene.orders(HOST)), (&"tls-alpn-01".into(), 1), "{got}");
}
