//! A full disk: a clear answer at POST and in every step, nothing lost, live sites served, and
//! everything goes on when there is space again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use async_nats::jetstream;
use serde_json::Value;

use crate::app::{Folder, TestApp};
use crate::failing::{broker, quick};

/// A disk of 48 MiB, mounted as the data folder. Root mounts; anybody else asks sudo.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let me = nix::unistd::geteuid();
        let options = format!("size=48m,mode=0755,uid={me},gid={}", nix::unistd::getegid());
        privileged(&["mount", "-t", "tmpfs", "-o", &options, "libra-test"], folder);
        Self(folder.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler()).unwrap();
        for block in [vec![0; 1 << 20], vec![0; 4096]] {
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server on it is ended right after.
        privileged(&["umount", "--lazy"], &self.0);
    }
}

fn privileged(words: &[&str], folder: &Path) {
    let sudo: &[&str] = if nix::unistd::geteuid().is_root() { &[] } else { &["sudo", "-n"] };
    let words: Vec<&str> = sudo.iter().chain(words).copied().collect();
    let done = Command::new(words[0]).args(&words[1..]).arg(folder).output().unwrap();
    assert!(done.status.success(), "{words:?} needs root or sudo: {}", String::from_utf8_lossy(&done.stderr));
}

const SETTINGS: &[(&str, &str)] = &[
    // Long enough that no lease runs out while the disk is full.
    ("LIBRA__PIPELINE__LEASE_SECONDS", "30"),
    ("LIBRA__NATS__ACK_WAIT_SECONDS", "31"),
    ("LIBRA__PIPELINE__RETRY_FIRST_SECONDS", "3"),
    ("LIBRA__PIPELINE__RETRY_SECOND_SECONDS", "3"),
    ("LIBRA__NATS__HANG_TIMEOUT_SECONDS", "8"),
    ("LIBRA__PIPELINE__CONCURRENCY", "6"),
    ("LIBRA__LOG__LEVEL", "info"),
];

#[tokio::test]
async fn a_full_disk_refuses_a_post_serves_what_is_live_and_loses_nothing() {
    let folder = Folder::new();
    let disk = SmallDisk::mount(&folder.data());
    let server = folder.serve(&quick(SETTINGS));
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("small").await;
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>live</h1>")])).await;
    let mut held = Vec::new();
    for step in ["validate", "sync", "sandbox", "build", "deploy", "cleanup"] {
        let (project, worker) = app.project(step).await;
        let point = format!("{step}.begin@{project}");
        app.hold(&point).await;
        held.push((app.deploy(&app.body(&project, &[("index.html", step)])).await, step, worker, point));
    }
    for (id, step, ..) in &held {
        app.until_held(id, step).await;
    }
    let before = app.rows("SELECT id FROM deployment ORDER BY id");
    disk.fill();

    let large = "x".repeat(2 << 20);
    let (status, answer) = app.post("/deploy", &app.body(&project, &[("index.html", &large)])).await;
    assert_eq!((status.as_u16(), &answer["success"]), (503, &Value::Bool(false)), "{answer}");
    let code = answer["code"].as_str().unwrap();
    assert!(matches!(code, "OVERLOADED" | "DATABASE_ERROR"), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("Nothing was recorded"), "{answer}");
    assert_eq!(app.rows("SELECT id FROM deployment ORDER BY id"), before);

    // The broker meets the full disk too: whatever it does about that, it must come back.
    let context = jetstream::new(broker(&app.folder).await);
    let noise = "n".repeat(512 << 10);
    if let Ok(published) = context.publish("deployment.jobs.noise", noise.into()).await {
        drop(published.await);
    }
    for (.., point) in &held {
        app.release(point).await;
    }
    app.wait("a step met the full disk", async || {
        let log = app.server.log();
        log.contains("attempt failed") || log.contains("holding the step")
    })
    .await;
    for _ in 0..100 {
        let answer = app.worker(&worker, "/").await;
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap()), (200, "<h1>live</h1>".into()));
    }
    disk.free();

    for (id, step, worker, _) in &held {
        let document = app.until_final(id).await;
        assert_eq!(document["status"], "completed", "{step}: {document:#}");
        assert_eq!(app.switches(id), "1");
        assert_eq!(app.worker(worker, "/").await.text().await.unwrap(), *step);
    }
    app.deploy_live(&app.body(&project, &[("index.html", "<h1>after</h1>")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>after</h1>");
    app.quota_balances();
    let ids: Vec<String> = held.into_iter().map(|(id, ..)| id).collect();
    app.nothing_is_left_of(&ids).await;
}
