//! One provider on folders, slots and a server of its own, and short words for running things in it.
//! Cleans up on drop; touches nothing of other tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use libra::sandbox::{
    ExecEnd, ExecOrder, ExecOutcome, Provider, Sandbox, SandboxError, SandboxOrder, SandboxPaths, Settings,
    open_provider,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::server::{KEY, Protocol, Server};

pub const INSTALLATION: &str = "installation-of-the-test";
/// Every name that `sandbox.provider` may have and that isolates.
pub const ALL: [&str; 3] = ["local", "e2b", "daytona"];
pub const REMOTE: [&str; 2] = ["e2b", "daytona"];

/// Each has its own range of slot uids: tests run side by side.
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct Bench {
    pub provider: Arc<dyn Provider>,
    pub settings: Settings,
    paths: SandboxPaths,
    server: Option<Server>,
    home: TempDir,
}

pub struct Ran {
    pub outcome: ExecOutcome,
    pub output: String,
}

/// Where Node for builds lies; `make install` puts it there.
pub fn tools() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("LIBRA__TOOLS_DIR").map_or_else(|| root.join(".libra/tools"), PathBuf::from)
}

pub fn node() -> PathBuf {
    tools().join("node/24")
}

impl Bench {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub fn with(name: &str, change: impl FnOnce(&mut Settings)) -> Self {
        // The first test of the process does it; the others find it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let home = tempfile::tempdir().unwrap();
        let server = match name {
            "e2b" => Some(Server::start(Protocol::E2b, &node())),
            "daytona" => Some(Server::start(Protocol::Daytona, &node())),
            _ => None,
        };
        let mut settings = settings(name, server.as_ref().map_or("http://127.0.0.1:9", Server::url));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        settings.slot_uid_base = 600_000 + (std::process::id() % 20_000) * 1_000 + number * 8;
        settings.lock_directory = home.path().join("locks").display().to_string();
        change(&mut settings);
        let paths = SandboxPaths {
            root: home.path().join("data/sandboxes"),
            tools: tools(),
            mirror: home.path().join("data/mirror"),
            data_dir: home.path().join("data"),
            exe: env!("CARGO_BIN_EXE_libra").into(),
        };
        let provider = open_provider(name, &settings, paths.clone(), INSTALLATION).unwrap();
        Self { provider, settings, paths, server, home }
    }

    /// Another server process on the same provider.
    pub fn second(&self) -> Arc<dyn Provider> {
        open_provider(self.provider.name(), &self.settings, self.paths.clone(), INSTALLATION).unwrap()
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn order(&self, id: &str) -> SandboxOrder {
        SandboxOrder {
            id: id.into(),
            limits: self.settings.limits(),
            node_major: 24,
            egress: Vec::new(),
            tools: libra::sandbox::ToolFolders::default(),
        }
    }

    pub async fn sandbox(&self, id: &str) -> Box<dyn Sandbox> {
        self.provider.create(self.order(id)).await.unwrap()
    }
}

/// The defaults of the program, with shorter waits.
fn settings(name: &str, url: &str) -> Settings {
    let mut all: toml::Table = include_str!("../../config.toml").parse().unwrap();
    let sandbox = all["sandbox"].as_table_mut().unwrap();
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let table = if section.is_empty() { &mut *sandbox } else { sandbox[section].as_table_mut().unwrap() };
        assert!(table.insert(key.into(), value).is_some(), "{section}.{key}");
    };
    set("", "provider", name.into());
    set("", "slots", 2.into());
    set("", "wall_seconds", 60.into());
    set("mirror", "registry_url", "http://127.0.0.1:9/".into());
    for key in ["request_seconds", "rate_wait_seconds"] {
        set("remote", key, 3.into());
    }
    set("remote", "retry_wait_ms", 20.into());
    for section in REMOTE {
        set(section, "api_key", KEY.into());
        set(section, "api_url", url.into());
    }
    set("e2b", "sandbox_url", url.into());
    all["sandbox"].clone().try_into().unwrap()
}

pub fn command(argv: &[&str]) -> ExecOrder {
    ExecOrder {
        argv: argv.iter().map(|&word| word.into()).collect(),
        env: Vec::new(),
        directory: String::new(),
        wall: None,
        network: false,
    }
}

/// A script for the Node that every sandbox has.
pub fn script(text: &str) -> ExecOrder {
    command(&["node", "-e", text])
}

pub async fn run(sandbox: &mut dyn Sandbox, order: ExecOrder) -> Ran {
    try_run(sandbox, order).await.unwrap()
}

pub async fn try_run(sandbox: &mut dyn Sandbox, order: ExecOrder) -> Result<Ran, SandboxError> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(8);
    let reading = async {
        let mut all = Vec::new();
        while let Some(chunk) = receiver.recv().await {
            all.extend_from_slice(&chunk);
        }
        String::from_utf8_lossy(&all).into_owned()
    };
    let (outcome, output) = tokio::join!(sandbox.exec(order, sender, CancellationToken::new()), reading);
    Ok(Ran { outcome: outcome?, output })
}

impl Ran {
    pub fn must_succeed(&self) -> &Self {
        assert_eq!(self.outcome.end, ExecEnd::Exited(0), "{}", self.output);
        self
    }
}

/// Waits until `holds`, for half a minute at most.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
}

/// Command lines of this host that hold `word`.
pub fn command_lines_with(word: &str) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(word))
        .collect()
}

/// A word that nothing else on this host holds.
pub fn unique(word: &str) -> String {
    format!("{word}-{}", uuid::Uuid::new_v4().simple())
}
