//! One folder with its own broker per test, and waiting on conditions.
//!
//! Everything that a `Place` started has ended when the test has; `Place::close` checks it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libra::queue::{
    BrokerState, Connection, DeployJob, JobMetadata, JobParams, JobSource, JobTarget, ProcessIdentity, Queue,
    QueuePaths, Ring, Settings, WireId,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

const SETTINGS: &str = r#"
url = ""
user = ""
password = ""
credentials_file = ""
nkey_file = ""
ca_file = ""
client_certificate_file = ""
client_key_file = ""
allow_plaintext = false
binary = ""
stream = "deployment-queue"
dead_letter_stream = "deployment-dlq"
consumer = "deployers"
replicas = 1
ack_wait_seconds = 1
pull_expires_seconds = 5
max_ack_pending = 1000
duplicate_window_seconds = 120
stream_max_messages = 1000
stream_max_bytes = 67108864
message_max_bytes = 1048576
dead_letter_max_bytes = 67108864
dead_letter_max_age_seconds = 86400
publish_timeout_ms = 2000
publish_pending_max = 64
request_timeout_ms = 3000
connect_timeout_ms = 1000
ping_interval_seconds = 2
event_buffer_messages = 256
retry_backoff_min_ms = 50
retry_backoff_max_ms = 500
max_payload_bytes = 2097152
store_max_bytes = 268435456
log_max_bytes = 1048576
start_timeout_seconds = 30
stop_timeout_seconds = 5
hang_timeout_seconds = 60
owner_poll_ms = 50
"#;

pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.data_dir().join("nats").join(name)
    }

    pub fn record(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.file("server.json")).unwrap()).unwrap()
    }

    pub async fn open(&self) -> Queue {
        self.open_with("").await
    }

    pub async fn open_with(&self, changes: &str) -> Queue {
        let queue = start(&self.data_dir(), changes);
        queue.wait_ready(PATIENCE).await.unwrap();
        queue
    }

    /// A client that is not ours: a publisher, or an operator.
    pub async fn stranger(&self) -> async_nats::Client {
        let record = self.record();
        let word = |key: &str| record[key].as_str().unwrap().to_owned();
        async_nats::ConnectOptions::with_user_and_password(word("user"), word("password"))
            .connect(word("url"))
            .await
            .unwrap()
    }
}

/// Ends the queue and checks that no broker is left.
pub async fn close(queue: Queue) {
    let broker = broker_of(&queue);
    queue.shutdown().await;
    assert!(!broker.is_running(), "the broker outlived its owner");
}

pub fn broker_of(queue: &Queue) -> ProcessIdentity {
    let pid = queue.state().borrow().pid.unwrap();
    ProcessIdentity::of(pid).unwrap()
}

pub fn settings(changes: &str) -> Settings {
    let mut table: toml::Table = SETTINGS.parse().unwrap();
    table.extend(changes.parse::<toml::Table>().unwrap());
    table.try_into().unwrap()
}

pub fn tools_dir() -> PathBuf {
    std::env::var_os("LIBRA__TOOLS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".libra/tools"), PathBuf::from)
}

pub fn nats_server() -> PathBuf {
    let path = tools_dir().join("nats-server/nats-server");
    assert!(path.is_file(), "{} is missing; run make install, or set LIBRA__TOOLS_DIR", path.display());
    path
}

pub fn start(data_dir: &Path, changes: &str) -> Queue {
    let paths = QueuePaths {
        data_dir: data_dir.to_owned(),
        tools_dir: tools_dir(),
        exe: env!("CARGO_BIN_EXE_libra").into(),
    };
    Queue::start(settings(changes), paths, CancellationToken::new()).unwrap()
}

pub fn id(number: u64) -> WireId {
    format!("{number:032x}").parse().unwrap()
}

pub fn job(deployment: u64, ring: u64) -> DeployJob {
    DeployJob {
        version: 1,
        deployment_id: id(deployment),
        params: JobParams {
            project_id: id(1),
            org_id: id(2),
            user_id: id(3),
            target: JobTarget::Production,
            ring,
        },
        metadata: JobMetadata { timestamp: "2026-01-01T00:00:00Z".into(), retry_count: 0, priority: 1 },
    }
}

pub fn ring(deployment: u64, ring: u64) -> Ring {
    Ring::of_job(job(deployment, ring))
}

pub async fn next(source: &mut JobSource) -> libra::queue::Delivery {
    timeout(PATIENCE, source.next(&CancellationToken::new())).await.expect("a delivery in time").unwrap()
}

/// Nothing is delivered for `quiet`: the one thing that only time can show.
pub async fn nothing_comes(source: &mut JobSource, quiet: Duration) {
    let came = timeout(quiet, source.next(&CancellationToken::new())).await;
    assert!(came.is_err(), "delivered: {came:?}");
}

/// Waits until the queue says so of itself.
pub async fn state_is(queue: &Queue, condition: impl FnMut(&BrokerState) -> bool) {
    let mut state = queue.state();
    drop(timeout(PATIENCE, state.wait_for(condition)).await.expect("the state in time").unwrap());
}

/// Ready again, on another broker than `old`.
pub async fn replaced(queue: &Queue, old: ProcessIdentity) {
    state_is(queue, |state| {
        state.connection == Connection::Ready && state.pid.is_some_and(|pid| pid != old.pid)
    })
    .await;
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
