//! The set-up of one test: a provider of its own on its own folders, slots and uids, and short words
//! for running things in it. Cleans up on drop; touches nothing of other tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use libra::sandbox::{
    ExecEnd, ExecOrder, ExecOutcome, Limits, Provider, Sandbox, SandboxError, SandboxOrder, SandboxPaths,
    Settings, ToolFolders, provider,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Each test has its own range of slot uids and its own locks: tests run side by side, and a slot's
/// uid must run nothing else.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Yard {
    pub provider: Arc<dyn Provider>,
    pub settings: Settings,
    pub paths: SandboxPaths,
    home: TempDir,
}

pub struct Ran {
    pub outcome: ExecOutcome,
    pub output: String,
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// As the suite finds them when it runs: it also runs from a copy, as a user who can't enter the checkout.
fn at_run_time(variable: &str, at_build_time: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| at_build_time.into(), PathBuf::from)
}

/// The program under test.
pub fn libra() -> PathBuf {
    at_run_time("CARGO_BIN_EXE_libra", env!("CARGO_BIN_EXE_libra"))
}

/// The checkout, or the copy of it.
pub fn root() -> PathBuf {
    at_run_time("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"))
}

/// Where Node and npm for builds lie; `make install` puts them there.
pub fn tools() -> PathBuf {
    std::env::var_os("LIBRA__TOOLS_DIR").map_or_else(|| root().join(".libra/tools"), PathBuf::from)
}

impl Yard {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let home = tempfile::tempdir().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut settings = settings();
        settings.slot_uid_base = 700_000 + (std::process::id() % 20_000) * 1000 + number * 8;
        settings.lock_directory = home.path().join("locks").display().to_string();
        change(&mut settings);
        let paths = SandboxPaths {
            // 0700 and the server's: what a slot's uid must not be able to walk through.
            root: home.path().join("data/sandboxes"),
            tools: tools(),
            mirror: home.path().join("data/mirror"),
            data_dir: home.path().join("data"),
            exe: libra(),
        };
        let provider = provider(&settings, paths.clone()).unwrap();
        Self { provider, settings, paths, home }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn work(&self) -> PathBuf {
        self.paths.root.join("work")
    }

    pub fn order(&self, id: &str) -> SandboxOrder {
        SandboxOrder {
            id: id.into(),
            limits: self.settings.limits(),
            node_major: 24,
            egress: Vec::new(),
            tools: ToolFolders::default(),
        }
    }

    pub async fn sandbox(&self, id: &str) -> Box<dyn Sandbox> {
        self.provider.create(self.order(id)).await.unwrap()
    }

    pub async fn limited(&self, id: &str, change: impl FnOnce(&mut Limits)) -> Box<dyn Sandbox> {
        let mut order = self.order(id);
        change(&mut order.limits);
        self.provider.create(order).await.unwrap()
    }
}

pub fn settings() -> Settings {
    toml::from_str(
        r#"
        provider = "local"
        slots = 3
        slot_uid_base = 60001
        slot_wait_seconds = 60
        lock_directory = ""
        cgroup_parent = ""
        bwrap = "bwrap"
        allow_polled_limits = false
        memory_bytes = 1073741824
        processes = 512
        cpu_seconds = 120
        cpu_cores = 2.0
        disk_bytes = 1073741824
        disk_entries = 100000
        disk_reserve_bytes = 104857600
        output_bytes = 16777216
        wall_seconds = 120
        tmp_bytes = 268435456
        file_bytes = 1073741824
        poll_ms = 50
        disk_poll_ms = 100
        [mirror]
        registry_url = "http://127.0.0.1:9/"
        total_bytes = 1073741824
        tarball_bytes = 104857600
        document_bytes = 67108864
        document_fresh_seconds = 300
        upstream_requests = 16
        upstream_connect_seconds = 2
        upstream_read_seconds = 10
        connections = 64
        sandbox_requests = 16
        documents_memory_bytes = 268435456
        [egress]
        hosts_per_project = 50
        connections = 32
        connect_seconds = 5
        total_bytes = 1073741824
        allow_networks = []
        [cache]
        enabled = true
        overlay = true
        total_bytes = 1073741824
        organization_bytes = 536870912
        entries = 100
        snapshot_bytes = 268435456
        snapshot_files = 50000
        framework_bytes = 67108864
        framework_files = 1000
        [remote]
        connect_seconds = 2
        request_seconds = 10
        idle_seconds = 60
        retries = 1
        retry_wait_ms = 10
        rate_wait_seconds = 1
        ready_seconds = 10
        pack_seconds = 10
        sweep_sandboxes = 100
        [e2b]
        api_key = ""
        domain = "e2b.app"
        api_url = ""
        sandbox_url = ""
        template = "t"
        lifetime_seconds = 1800
        [daytona]
        api_key = ""
        api_url = "https://app.daytona.io/api"
        target = ""
        image = "node"
        snapshot = ""
        lifetime_minutes = 30
        "#,
    )
    .unwrap()
}

pub fn command(argv: &[&str]) -> ExecOrder {
    ExecOrder {
        argv: argv.iter().map(|&a| a.into()).collect(),
        env: Vec::new(),
        directory: String::new(),
        wall: None,
        network: false,
    }
}

/// A script for the sandbox's own Node: attacks are written in what every build has.
pub fn node(script: &str) -> ExecOrder {
    command(&["node", "-e", script])
}

pub async fn run(sandbox: &mut dyn Sandbox, order: ExecOrder) -> Ran {
    try_run(sandbox, order, CancellationToken::new()).await.unwrap()
}

pub async fn try_run(
    sandbox: &mut dyn Sandbox,
    order: ExecOrder,
    cancel: CancellationToken,
) -> Result<Ran, SandboxError> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(8);
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let outcome = sandbox.exec(order, sender, cancel).await;
    let output = reader.await.unwrap();
    Ok(Ran { outcome: outcome?, output })
}

impl Ran {
    pub fn must_succeed(&self) -> &Self {
        assert_eq!(self.outcome.end, ExecEnd::Exited(0), "{}", self.output);
        self
    }

    /// How it ended, in the words that people read.
    pub fn end(&self) -> String {
        self.outcome.end.to_string()
    }
}

/// Waits until `holds`, looking every 20 ms, for half a minute at most.
pub async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Host processes whose command line holds `word`.
pub fn processes_with(word: &str) -> Vec<i32> {
    let me = i32::try_from(std::process::id()).unwrap();
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
        })
        .collect()
}
