//! WebSockets through TLS, by a client that is none of ours: Node's own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use reqwest::Method;
use serde_json::json;

use crate::app::{BASE, Folder, TestApp, root};
use crate::certificates::{at, borrowed};
use crate::issuer::free_port;
use crate::origin::Origin;

/// Says what it sees, a line each. Every name leads to this machine.
const CLIENT: &str = "\
const local = [{ address: '127.0.0.1', family: 4 }];
require('node:dns').lookup = (name, options, done) =>
  options?.all ? done(null, local) : done(null, '127.0.0.1', 4);
const socket = new WebSocket(process.argv[2]);
const say = (line) => console.log(line);
socket.onopen = () => socket.send('first');
socket.onmessage = ({ data }) => { say(`message ${data}`); if (data === 'first') socket.send('second'); };
socket.onerror = ({ error }) => say(`error ${error?.cause ?? error}`);
socket.onclose = ({ code, wasClean }) => say(`close ${code} ${wasClean}`);
setTimeout(() => process.exit(1), 100_000).unref();
";

struct Node {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl Node {
    fn open(folder: &Folder, url: &str, ca: &std::path::Path) -> Self {
        let tools =
            std::env::var("LIBRA__TOOLS_DIR").map_or_else(|_| root().join(".libra/tools"), PathBuf::from);
        let script = folder.path().join("client.cjs");
        std::fs::write(&script, CLIENT).unwrap();
        let mut command = Command::new(tools.join("node/24/bin/node"));
        command.arg(script).arg(url).env("NODE_EXTRA_CA_CERTS", ca);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[tokio::test]
async fn a_websocket_through_tls_is_echoed_and_told_to_come_again_at_a_stop() {
    let (http_port, tls_port) = (free_port(), free_port());
    let folder = Folder::new();
    let (chain, key) = (folder.path().join("wildcard.pem"), folder.path().join("wildcard.key"));
    let own = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec![format!("*.{BASE}")]).unwrap().self_signed(&own).unwrap();
    std::fs::write(&key, own.serialize_pem()).unwrap();
    std::fs::write(&chain, made.pem()).unwrap();
    let mut settings = at(http_port, tls_port);
    settings.push(("LIBRA__TLS__CERTIFICATES", format!("{}:{}", chain.display(), key.display())));
    let server = folder.serve(&borrowed(&settings));
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("echo").await;
    let origin = Origin::start("origin");
    let put = app.request(Method::PUT, &format!("/api/v1/projects/{project}/upstream"));
    assert_eq!(put.json(&json!({ "origins": [origin.url()] })).send().await.unwrap().status(), 200);

    let url = format!("wss://{worker}.{BASE}:{tls_port}/socket");
    let mut clients = [Node::open(&app.folder, &url, &chain), Node::open(&app.folder, &url, &chain)];
    for client in &mut clients {
        assert_eq!([client.says(), client.says()], ["message first", "message second"]);
    }
    let TestApp { folder, server, .. } = app;
    assert!(server.stop().success());
    for client in &mut clients {
        assert_eq!(client.says(), "close 1012 true");
    }
    drop((clients, folder));
}
