//! Requests touch neither the database, the broker, the blobs nor an actor: with all four away,
//! ten thousand of them are answered with the right bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};

use crate::app::{BASE, Folder, TestApp};
use crate::failing::quick;
use crate::parts::Whose;

const REQUESTS: usize = 10_000;
const SITES: usize = 3;
const FILES: usize = 40;
const FILE_BYTES: usize = 16 * 1024;

/// Text that compresses badly, the same for the same name.
fn content(name: &str) -> String {
    let mut text = String::with_capacity(FILE_BYTES);
    let mut block = Sha256::digest(name.as_bytes());
    while text.len() < FILE_BYTES {
        text.push_str(&hex::encode(block));
        block = Sha256::digest(block);
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_are_served_while_database_broker_blobs_and_actors_are_away() {
    // Two megabytes of sites, a quarter of a megabyte of cache.
    let settings = quick(&[
        ("LIBRA__RUNTIME__CACHE_BYTES", "262144"),
        ("LIBRA__RUNTIME__CACHE_WORKER_BYTES", "131072"),
        ("LIBRA__LOG__LEVEL", "info"),
    ]);
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    let mut pages = Vec::new();
    for site in 0..SITES {
        let (project, worker) = app.project(&format!("site {site}")).await;
        let files: Vec<(String, String)> =
            (0..FILES).map(|file| (format!("page-{file}.txt"), content(&format!("{site}/{file}")))).collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        let mut body = app.body(&project, &files);
        body["initFiles"]
            .as_array_mut()
            .unwrap()
            .push(serde_json::json!({ "path": "index.html", "content": "x" }));
        app.deploy_live(&body).await;
        pages.extend(
            files
                .iter()
                .map(|(path, text)| (format!("{worker}.{BASE}"), format!("/{path}"), (*text).to_owned())),
        );
    }
    // All four away: the database locked and moved, the broker stopped, the blobs moved.
    let data = app.folder.data();
    let lock = app.folder.lock_writes();
    let ground = &app.folder.ground;
    ground.signal_broker(&data, Signal::SIGSTOP);
    ground.blobs_are_away(&data, true);
    match ground.cluster() {
        Some(cluster) => cluster.stop(),
        None => std::fs::rename(data.join("database"), data.join("database.away")).unwrap(),
    }
    let actors = ["domain_resolver", "worker_registry", "sweep", "deployment_0", "deployment_4"];
    for name in actors {
        app.panic_actor(name).await;
    }

    let (pages, next) = (Arc::new(pages), Arc::new(AtomicUsize::new(0)));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (pages, next, http) = (Arc::clone(&pages), Arc::clone(&next), app.http.clone());
        let address = app.server.address.clone();
        asking.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= REQUESTS {
                    return;
                }
                // A step that is no divisor of the count: neighbours in time are not neighbours on disk.
                let (host, path, text) = &pages[number * 7 % pages.len()];
                let url = format!("http://{address}{path}");
                let answer = http.get(url).header("host", host).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{host}{path}");
                assert!(answer.text().await.unwrap() == *text, "wrong bytes for {host}{path}");
            }
        });
    }
    for name in actors.into_iter().cycle().take(10) {
        app.wait("it was built anew", async || {
            app.health().await["checks"]["actors"]["actors"][name]["running"] == true
        })
        .await;
        app.panic_actor(name).await;
    }
    while let Some(done) = asking.join_next().await {
        done.unwrap();
    }
    let ready = app.http.get(format!("http://{}/readyz", app.server.operator)).send().await.unwrap();
    assert_eq!(ready.status(), 200);

    // Everything back: the control plane goes on where it was.
    match ground.cluster() {
        Some(cluster) => cluster.keep_running(),
        None => {
            // Whoever looked for it meanwhile may have made an empty one.
            drop(std::fs::remove_dir_all(data.join("database")));
            std::fs::rename(data.join("database.away"), data.join("database")).unwrap();
        }
    }
    ground.blobs_are_away(&data, false);
    ground.signal_broker(&data, Signal::SIGCONT);
    drop(lock);
    let (project, worker) = app.project("afterwards").await;
    app.deploy_live(&app.body(&project, &[("index.html", "back")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "back");
}
