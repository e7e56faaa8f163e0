//! What the failure tests share: holding steps, panicking actors, looking at the broker, and what
//! must be true after every failure.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::{Value, json};

use crate::app::{Folder, PATIENCE, Settings, TestApp, processes_with};

/// Shorter waits than production's; long enough for a busy machine.
pub const QUICK: Settings<'static> = &[
    ("LIBRA__PIPELINE__LEASE_SECONDS", "4"),
    ("LIBRA__PIPELINE__HEARTBEAT_SECONDS", "1"),
    ("LIBRA__PIPELINE__LOOK_MS", "100"),
    ("LIBRA__PIPELINE__RETRY_FIRST_SECONDS", "1"),
    ("LIBRA__PIPELINE__RETRY_SECOND_SECONDS", "1"),
    ("LIBRA__PIPELINE__EDGE_CONFIRM_MS", "500"),
    ("LIBRA__NATS__ACK_WAIT_SECONDS", "5"),
    ("LIBRA__SWEEP__INTERVAL_MS", "200"),
    ("LIBRA__SWEEP__THOROUGH_SECONDS", "1"),
];

/// `QUICK` and more.
pub fn quick<'a>(more: Settings<'a>) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(more).copied().collect()
}

/// A dead letter: its subject and its body.
pub type Letter = (String, Value);

impl TestApp {
    async fn order(&self, path: &str) {
        let url = format!("http://{}/testing/{path}", self.server.operator);
        let answer = self.http.post(url).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{path}");
    }

    /// Walks wait at this point from now on.
    pub async fn hold(&self, point: &str) {
        self.order(&format!("hold/{point}")).await;
    }

    /// Walks fail at this point from now on.
    pub async fn fail(&self, point: &str) {
        self.order(&format!("fail/{point}")).await;
    }

    pub async fn release(&self, point: &str) {
        self.order(&format!("release/{point}")).await;
    }

    pub async fn panic_actor(&self, name: &str) {
        self.order(&format!("panic/{name}")).await;
    }

    /// Waits until this deployment is held in this step.
    pub async fn until_held(&self, id: &str, step: &str) {
        let url = format!("http://{}/testing/held", self.server.operator);
        self.wait(&format!("{id} held in {step}"), async || {
            let held: Value = self.http.get(&url).send().await.unwrap().json().await.unwrap();
            held[id] == step
        })
        .await;
    }

    /// A server that died and is not yet missed: its slots are granted, and the rings wait in the queue.
    pub fn add_dead_builder(&self, slots: u32) {
        self.change(&format!("INSERT INTO builder_node VALUES ('dead', {slots}, 9000000000000)"));
    }

    /// `/health/detailed` of the operator's listener.
    pub async fn health(&self) -> Value {
        let url = format!("http://{}/health/detailed", self.server.operator);
        self.http.get(url).send().await.unwrap().json().await.unwrap()
    }

    /// A single value of the database.
    pub fn one(&self, sql: &str) -> String {
        self.rows(sql).into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_default()
    }

    /// Reserved = settled + released + still open, in sums and entry by entry.
    pub fn quota_balances(&self) {
        let open = self.one("SELECT count(*) FROM deployment WHERE finished_at IS NULL");
        let entries = "SELECT count(*) FROM quota_entry WHERE state =";
        assert_eq!(self.one(&format!("{entries} 'reserved'")), open, "open reservations");
        for state in ["reserved", "settled", "released"] {
            let sum = self.one(&format!("SELECT coalesce(sum({state}), 0) FROM quota_period"));
            assert_eq!(sum, self.one(&format!("{entries} '{state}'")), "{state}");
        }
        let deployments = self.one("SELECT count(*) FROM deployment");
        assert_eq!(self.one("SELECT count(*) FROM quota_entry"), deployments);
    }

    /// How often this deployment went live.
    pub fn switches(&self, id: &str) -> String {
        self.one(&format!(
            "SELECT count(*) FROM deployment_event WHERE kind = 'switched' AND deployment_id = '{id}'"
        ))
    }

    /// No folder, process or mount of a finished deployment outlives it by more than a sweep.
    pub async fn nothing_is_left_of(&self, ids: &[String]) {
        let scratch = self.folder.data().join("scratch");
        let sandboxes = self.folder.data().join("sandbox/work");
        self.wait("nothing is left of the finished deployments", async || {
            ids.iter().all(|id| {
                let in_folder = |path: &std::path::Path| names_beneath(path).any(|name| name.contains(id));
                let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
                !in_folder(&scratch)
                    && !in_folder(&sandboxes)
                    && processes_with(id).is_empty()
                    && !mounts.contains(id.as_str())
            })
        })
        .await;
    }

    pub async fn letters(&self) -> Vec<Letter> {
        letters(&self.folder).await
    }
}

fn names_beneath(path: &std::path::Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// The record of the embedded broker.
pub fn broker_record(data: &std::path::Path) -> Option<Value> {
    let text = std::fs::read_to_string(data.join("nats/server.json")).ok()?;
    serde_json::from_str(&text).ok()
}

pub fn broker_pid(data: &std::path::Path) -> i32 {
    i32::try_from(broker_record(data).unwrap()["pid"].as_i64().unwrap()).unwrap()
}

pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Who the broker of a folder is now: another answer means that it was replaced. A cluster's own servers
/// come back where they were.
pub fn broker_mark(folder: &Folder) -> Option<i32> {
    folder.ground.account().is_none().then(|| broker_pid(&folder.data()))
}

/// A client of the broker that is not ours: a publisher, or an operator.
pub async fn broker(folder: &Folder) -> async_nats::Client {
    let started = Instant::now();
    loop {
        if let Some(account) = folder.ground.account() {
            if let Some(client) = account.client().await {
                return client;
            }
        } else if let Some(record) = broker_record(&folder.data()) {
            let word = |key: &str| record[key].as_str().unwrap().to_owned();
            let options = async_nats::ConnectOptions::with_user_and_password(word("user"), word("password"));
            if let Ok(client) = options.connect(word("url")).await {
                return client;
            }
        }
        assert!(started.elapsed() < PATIENCE, "the broker can't be reached");
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
}

/// Every dead letter there is.
pub async fn letters(folder: &Folder) -> Vec<Letter> {
    let context = jetstream::new(broker(folder).await);
    let Ok(stream) = context.get_stream("deployment-dlq").await else { return Vec::new() };
    let last = stream.cached_info().state.last_sequence;
    let mut found = Vec::new();
    for sequence in 1..=last {
        if let Ok(message) = stream.get_raw_message(sequence).await {
            let body = serde_json::from_slice(&message.payload).unwrap();
            found.push((message.subject.to_string(), body));
        }
    }
    found
}

/// A project that is built by a program of ours: no packages, one page.
pub fn built_site(app: &TestApp, project: &str, script: &str, page: &str) -> Value {
    let manifest = json!({ "name": "site", "private": true, "scripts": { "build": "node build.mjs" } });
    app.body(project, &[("package.json", &manifest.to_string()), ("build.mjs", script), ("page.html", page)])
}

/// Copies the page to where it is looked for.
pub const BUILD: &str = "import fs from 'node:fs';\nfs.mkdirSync('dist');\nfs.copyFileSync('page.html', 'dist/index.html');\nconsole.log('built');\n";
