//! What builds reach beyond the registry: nothing, until their project lists a host; then that host,
//! on that port, if it is no address of ours; and the log tells of each.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use crate::answers::details;
use crate::app::{TestApp, answer};

/// A host of the outside world: TLS, one answer a connection, for as long as the test runs.
fn outside(body: &'static [u8]) -> u16 {
    drop(rustls::crypto::ring::default_provider().install_default());
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream);
            let mut head = [0; 4096];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", {
                // A client that goes away, or is refused its allowance, ends its own connection only.
                drop(stream.read(&mut head));
                body.len()
            });
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)));
            stream.conn.send_close_notify();
            drop(stream.flush());
        }
    });
    port
}

/// A build that fetches `url` with Node's own fetch and makes its page of what it got.
fn fetching(app: &TestApp, project: &str, url: &str) -> Value {
    let script = format!(
        r#"const fs = require("fs");
        fetch("{url}").then(r => r.text(), e => "refused: " + (e.cause?.code ?? e.cause?.message ?? e)).then(text => {{
            fs.mkdirSync("dist"); fs.writeFileSync("dist/index.html", text.slice(0, 200)); }});"#
    );
    let mut body = app.body(
        project,
        &[("package.json", r#"{"scripts":{"build":"node build.js"}}"#), ("build.js", &script)],
    );
    // The outside world of a test has no certificate that anybody vouches for, and is called localhost,
    // which tools otherwise keep from a proxy.
    body["env"] =
        json!({ "NODE_TLS_REJECT_UNAUTHORIZED": "0", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1" });
    body
}

async fn page(app: &TestApp, worker: &str) -> String {
    app.worker(worker, "/").await.text().await.unwrap()
}

async fn allow(app: &TestApp, project: &str, hosts: Value) -> (reqwest::StatusCode, Value) {
    let request = app.request(Method::PATCH, &format!("/api/v1/projects/{project}"));
    answer(request.json(&json!({ "egressHosts": hosts })).send().await.unwrap()).await
}

#[tokio::test]
async fn a_build_reaches_the_hosts_of_its_project_and_no_others() {
    let app =
        TestApp::start_with(&[("LIBRA__SANDBOX__EGRESS__ALLOW_NETWORKS", "127.0.0.1/32,::1/128")]).await;
    let port = outside(b"words from outside");
    let url = format!("https://localhost:{port}/");
    let (project, worker) = app.project("fetches").await;

    // The list is empty at first: not even a name is resolved.
    app.deploy_live(&fetching(&app, &project, &url)).await;
    assert!(page(&app, &worker).await.starts_with("refused: "), "{}", page(&app, &worker).await);

    let (status, shown) = allow(&app, &project, json!([format!("LOCALHOST:{port}")])).await;
    assert_eq!((status.as_u16(), &shown["egressHosts"]), (200, &json!([format!("localhost:{port}")])));
    let id = app.deploy_live(&fetching(&app, &project, &url)).await;
    assert_eq!(page(&app, &worker).await, "words from outside");
    let log = app.log_of(&id).await;
    assert!(log.contains(&format!("libra: network: localhost:{port} connected")), "{log}");

    // Another port of the same host was not listed, and another project has a list of its own.
    let other = outside(b"never");
    let id = app.deploy_live(&fetching(&app, &project, &format!("https://localhost:{other}/"))).await;
    let log = app.log_of(&id).await;
    assert!(log.contains(&format!("localhost:{other} refused: not in the project's egress list")), "{log}");
    assert!(page(&app, &worker).await.starts_with("refused: "));
    let (stranger, address) = app.project("lists nothing").await;
    app.deploy_live(&fetching(&app, &stranger, &url)).await;
    assert!(page(&app, &address).await.starts_with("refused: "));
}

#[tokio::test]
async fn a_listed_host_that_is_one_of_ours_is_not_reached() {
    let app = TestApp::start().await;
    let (project, worker) = app.project("inwards").await;
    let operator = app.server.operator.rsplit(':').next().unwrap().to_owned();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_lowercase();
    // By the loopback name, and by the name that leads to this host's own address.
    for host in ["localhost", name.as_str()] {
        assert_eq!(allow(&app, &project, json!([format!("{host}:{operator}")])).await.0, 200);
        let url = format!("https://{host}:{operator}/livez");
        let id = app.deploy_live(&fetching(&app, &project, &url)).await;
        let log = app.log_of(&id).await;
        assert!(log.contains(&format!("{host}:{operator} refused: it resolves to a private")), "{log}");
        assert!(page(&app, &worker).await.starts_with("refused: "));
    }
}

#[tokio::test]
async fn a_build_gets_its_allowance_of_bytes_and_no_more() {
    static BODY: [u8; 300_000] = [b'x'; 300_000];
    let app = TestApp::start_with(&[
        ("LIBRA__SANDBOX__EGRESS__ALLOW_NETWORKS", "127.0.0.1/32,::1/128"),
        ("LIBRA__SANDBOX__EGRESS__TOTAL_BYTES", "100000"),
    ])
    .await;
    let port = outside(&BODY);
    let (project, worker) = app.project("greedy").await;
    assert_eq!(allow(&app, &project, json!([format!("localhost:{port}")])).await.0, 200);
    let body = fetching(&app, &project, &format!("https://localhost:{port}/"));
    let id = app.deploy(&body).await;
    let document = app.until_final(&id).await;
    // Whether the build lives with half an answer is its own affair; it never got the whole.
    let page = page(&app, &worker).await;
    assert!(document["status"] == "failed" || page.starts_with("refused"), "{document} {page}");
}

#[tokio::test]
async fn a_list_says_what_is_wrong_with_it_and_is_its_owners_alone() {
    let app = TestApp::start_with(&[("LIBRA__SANDBOX__EGRESS__HOSTS_PER_PROJECT", "2")]).await;
    let (project, _) = app.project("lists").await;
    let path = format!("/api/v1/projects/{project}");
    for (hosts, field) in [
        (json!(["10.0.0.1"]), "egressHosts[0]"),
        (json!(["a.example", "*.com"]), "egressHosts[1]"),
        (json!([7]), "egressHosts[0]"),
        (json!("a.example"), "egressHosts"),
        (json!(["a.example", "b.example", "c.example"]), "egressHosts"),
        (Value::Null, "egressHosts"),
    ] {
        let (status, problem) = allow(&app, &project, hosts).await;
        let fields: Vec<String> = details(&problem).into_iter().map(|(field, _)| field).collect();
        assert_eq!((status.as_u16(), fields), (400, vec![field.to_owned()]), "{problem}");
    }
    assert_eq!(app.get(&path).await.1["egressHosts"], json!([]));
    let cli = app.cli(&["projects", "egress", &project, "--allow", "A.example", "--allow", "*.b.example"]);
    assert_eq!(String::from_utf8(cli.stdout).unwrap(), "a.example\n*.b.example\n");
    let cli = app.cli(&["projects", "egress", &project, "--remove", "a.example"]);
    assert_eq!(String::from_utf8(cli.stdout).unwrap(), "*.b.example\n");
    assert_eq!(app.get(&path).await.1["egressHosts"], json!(["*.b.example"]));
}
