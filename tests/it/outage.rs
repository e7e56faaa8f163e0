//! Database and broker away while traffic runs: who is served notices nothing, and what is changed afterwards is
//! seen again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::app::{BASE, Folder, TestApp};
use crate::failing::quick;
use crate::origin::Origin;
use crate::parts::Whose;
use crate::sockets::Socket;

/// Requests that must be answered while the parts are away.
const MANY: u64 = 2_000;

/// Requests on connections that are kept, until it is told to stop.
struct Load {
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: &str, pages: &[(String, &'static str)]) -> Self {
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let clients = (0..4).map(|_| {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let (url, pages) = (format!("http://{address}/"), pages.to_vec());
            tokio::spawn(async move {
                let http = reqwest::Client::builder().no_proxy().build().unwrap();
                let mut failed = Vec::new();
                for (host, words) in pages.iter().cycle() {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    match http.get(&url).header("host", host).send().await {
                        Ok(answer) => {
                            let status = answer.status();
                            let text = answer.text().await.unwrap_or_else(|e| e.to_string());
                            if status != 200 || text != *words {
                                failed.push(format!("{host}: {status} {text}"));
                            }
                        }
                        Err(e) => failed.push(format!("{host}: {e:?}")),
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                }
                failed
            })
        });
        let clients = clients.collect();
        Self { done, stop, clients }
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// What failed.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.unwrap());
        }
        failed
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_served_notices_nothing_while_database_and_broker_are_away() {
    let settings = quick(&[("LIBRA__DATABASE__BUSY_TIMEOUT_MS", "300")]);
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let (fixed, fixed_worker) = app.project("fixed").await;
    app.deploy_live(&app.body(&fixed, &[("index.html", "static")])).await;
    let (behind, behind_worker) = app.project("behind").await;
    let origin = Origin::start("origin");
    let register = async |origin: &Origin| {
        let path = format!("/api/v1/projects/{behind}/upstream");
        let body = json!({ "origins": [origin.url()] });
        app.request(Method::PUT, &path).json(&body).send().await.unwrap().status().as_u16()
    };
    assert_eq!(register(&origin).await, 200);
    let host = |worker: &str| format!("{worker}.{BASE}");
    let pages = [(host(&fixed_worker), "static"), (host(&behind_worker), "origin")];
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(Socket::open(&app.server.address, &host(&behind_worker)).await);
    }
    let load = Load::start(&app.server.address, &pages);

    // A file on this disk can't be stopped: then it is whoever writes that waits in vain.
    let lock = match app.folder.ground.cluster() {
        Some(cluster) => {
            cluster.stop();
            None
        }
        None => Some(app.folder.lock_writes()),
    };
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGSTOP);
    app.wait("it is noticed", async || {
        let health = app.health().await;
        let is = |part: &str, word: &str| health["checks"][part]["status"] == word;
        is("queue", "unhealthy") && (lock.is_some() || is("hyperdrive", "unavailable"))
    })
    .await;
    let refused =
        app.request(Method::POST, "/api/v1/projects").json(&json!({ "name": "x", "orgId": app.org }));
    assert_eq!(refused.send().await.unwrap().status(), 503);
    let before = load.done();
    app.wait("many are served meanwhile", async || load.done() > before + MANY).await;
    for socket in &mut sockets {
        socket.echoes("nothing happened").await;
    }
    // New clients too.
    let mut late = Socket::open(&app.server.address, &host(&behind_worker)).await;
    late.echoes("neither to me").await;

    match app.folder.ground.cluster() {
        Some(cluster) => cluster.keep_running(),
        None => drop(lock),
    }
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGCONT);
    app.wait("they are there again", async || app.health().await["status"] == "healthy").await;
    let (fresh, fresh_worker) = app.project("fresh").await;
    app.deploy_live(&app.body(&fresh, &[("index.html", "fresh")])).await;
    assert_eq!(app.worker(&fresh_worker, "/").await.text().await.unwrap(), "fresh");
    for socket in &mut sockets {
        socket.echoes("still nothing").await;
    }
    assert_eq!(load.end().await, Vec::<String>::new());
    let another = Origin::start("another");
    assert_eq!(register(&another).await, 200);
    assert_eq!(app.worker(&behind_worker, "/").await.text().await.unwrap(), "another");
    app.deploy_live(&app.body(&fixed, &[("index.html", "newer")])).await;
    assert_eq!(app.worker(&fixed_worker, "/").await.text().await.unwrap(), "newer");
}
