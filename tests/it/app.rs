//! A server of a test's own: a real `libra serve` on port 0 with its own data folder. Dropping it
//! kills what it started and checks that nothing is left over.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parts::{Ended, Ground, Whose};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(20);

pub const BASE: &str = "libra.localhost";

/// A running server.
pub struct TestApp {
    /// Before the folder: fields are dropped in this order.
    pub server: Server,
    pub folder: Folder,
    pub http: reqwest::Client,
    pub org: String,
    pub user: String,
    pub token: String,
}

/// A data folder, with what it has of the other parts, that outlives the servers on it.
pub struct Folder {
    data: TempDir,
    pub ground: Ground,
    /// What is run here.
    pub program: PathBuf,
}

/// One `libra serve`.
pub struct Server {
    child: Child,
    pub address: String,
    pub operator: String,
    log: PathBuf,
}

/// Settings of a server, as variables.
pub type Settings<'a> = &'a [(&'a str, &'a str)];

impl Folder {
    pub fn new() -> Self {
        Self::with_parts(Whose::Shared)
    }

    /// On embedded parts whatever the run is about: for what concerns this machine's own tools.
    pub fn embedded() -> Self {
        let data = tempfile::Builder::new().prefix("libra-it-").tempdir().unwrap();
        Self { data, ground: Ground::Embedded, program: libra_exe() }
    }

    /// With parts that only this folder's servers use.
    pub fn with_parts(whose: Whose) -> Self {
        let data = tempfile::Builder::new().prefix("libra-it-").tempdir().unwrap();
        Self { data, ground: Ground::new(whose), program: libra_exe() }
    }

    pub fn path(&self) -> &Path {
        self.data.path()
    }

    /// A command of the program on this folder.
    pub fn libra(&self, settings: Settings<'_>) -> Command {
        let root = root();
        let tools =
            std::env::var("LIBRA__TOOLS_DIR").map_or_else(|_| root.join(".libra/tools"), PathBuf::from);
        let mut command = Command::new(&self.program);
        command
            .current_dir(self.path())
            .env("LIBRA__DATA_DIR", self.path().join("data"))
            .env("LIBRA__TOOLS_DIR", tools)
            // Packages that an earlier run fetched need no network.
            .env("LIBRA__MIRROR_DIR", root.join(".libra/mirror"))
            .env("LIBRA__TOOLCHAIN__FOLDER", root.join(".libra/toolchain"))
            .env("LIBRA__HTTP__LISTEN", "127.0.0.1:0")
            .env("LIBRA__HTTP__OPERATOR_LISTEN", "127.0.0.1:0")
            .env("LIBRA__TESTING__FAULT_INJECTION", "true")
            .env("LIBRA__HTTP__STATUS_REQUESTS_PER_MINUTE", "100000")
            .env("LIBRA__LOG__LEVEL", "debug")
            .envs(self.ground.settings())
            .envs(settings.iter().copied());
        command
    }

    pub fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Another program holds every write lock of the database until this is dropped.
    pub fn lock_writes(&self) -> Ended {
        let mut program = self.ground.sql(&self.data());
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.as_mut().unwrap().write_all(self.ground.lock_orders().as_bytes()).unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        Ended(child)
    }

    /// What every server here has logged.
    pub fn logs(&self) -> String {
        let files = std::fs::read_dir(self.path()).unwrap().flatten().map(|entry| entry.path());
        files
            .filter(|path| path.extension().is_some_and(|e| e == "log"))
            .fold(String::new(), |text, path| text + &std::fs::read_to_string(path).unwrap_or_default())
    }

    /// Starts a server here and waits until it serves.
    pub fn serve(&self, settings: Settings<'_>) -> Server {
        let log = self.path().join(format!("server-{}.log", uuid::Uuid::new_v4().simple()));
        let file = std::fs::File::create(&log).unwrap();
        let mut child = self
            .libra(settings)
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let pid = child.id();
        let path = self.data().join("server.json");
        let started = Instant::now();
        loop {
            let written =
                std::fs::read_to_string(&path).ok().and_then(|t| serde_json::from_str::<Value>(&t).ok());
            if let Some(document) = written.filter(|d| d["pid"] == pid) {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                return Server {
                    child,
                    address: text(&document["listen"][0]),
                    operator: text(&document["operator_listen"]),
                    log,
                };
            }
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", std::fs::read_to_string(&log).unwrap());
            }
            assert!(
                started.elapsed() < PATIENCE,
                "the server is not ready:\n{}",
                std::fs::read_to_string(&log).unwrap()
            );
            std::thread::park_timeout(LOOK);
        }
    }
}

impl Server {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for its own end.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended and waited for: nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6_000);
            let from = (from..log.len()).find(|i| log.is_char_boundary(*i)).unwrap_or(0);
            eprintln!("--- end of the server's log ---\n{}", &log[from..]);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A broker whose server was killed ends by itself, at once; nothing else may be left.
        let marker = self.path().to_string_lossy().into_owned();
        let started = Instant::now();
        loop {
            let left = processes_with(&marker);
            if left.is_empty() {
                return;
            }
            if started.elapsed() > Duration::from_secs(20) {
                if !std::thread::panicking() {
                    panic!("processes are left over: {left:?}");
                }
                return;
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

impl TestApp {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(settings: Settings<'_>) -> Self {
        let folder = Folder::new();
        let server = folder.serve(settings);
        Self::on(folder, server)
    }

    pub fn on(folder: Folder, server: Server) -> Self {
        // The first test of the process does it; the others find it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let text = std::fs::read_to_string(folder.data().join("bootstrap.json")).unwrap();
        let bootstrap: HashMap<String, String> = serde_json::from_str(&text).unwrap();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Self {
            folder,
            server,
            http,
            org: bootstrap["orgId"].clone(),
            user: bootstrap["userId"].clone(),
            token: bootstrap["token"].clone(),
        }
    }

    /// Ends this server the hard way and starts another one on the same folder.
    pub fn restart_after_kill(self, settings: Settings<'_>) -> Self {
        let Self { folder, server, .. } = self;
        server.kill();
        let server = folder.serve(settings);
        Self::on(folder, server)
    }

    /// A request to the control surface, with the credential.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.server.address)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body).send().await.unwrap()).await
    }

    /// A request to a Worker: `host` is its label.
    pub async fn worker(&self, label: &str, path: &str) -> Response {
        self.http
            .get(format!("http://{}{path}", self.server.address))
            .header("host", format!("{label}.{BASE}"))
            .send()
            .await
            .unwrap()
    }

    /// A new project: its id and Worker name.
    pub async fn project(&self, name: &str) -> (String, String) {
        let (status, body) = self.post("/api/v1/projects", &json!({ "name": name, "orgId": self.org })).await;
        assert_eq!(status, 201, "{body}");
        (body["id"].as_str().unwrap().to_owned(), body["workerName"].as_str().unwrap().to_owned())
    }

    /// The body of a deployment of these text files.
    pub fn body(&self, project: &str, files: &[(&str, &str)]) -> Value {
        let files: Vec<Value> =
            files.iter().map(|(path, content)| json!({ "path": path, "content": content })).collect();
        json!({ "projectId": project, "orgId": self.org, "userId": self.user, "initFiles": files })
    }

    /// Posts a deployment and answers its id.
    pub async fn deploy(&self, body: &Value) -> String {
        let (status, answer) = self.post("/deploy", body).await;
        assert_eq!(status, 202, "{answer}");
        answer["deploymentId"].as_str().unwrap().to_owned()
    }

    pub async fn status(&self, id: &str) -> Value {
        let (status, body) = self.get(&format!("/deploy-status?id={id}")).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until the status document satisfies `holds`.
    pub async fn until(&self, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let document = self.status(id).await;
            if holds(&document) {
                return document;
            }
            assert!(started.elapsed() < PATIENCE, "waited in vain: {document:#}");
            tokio::time::timeout(LOOK, std::future::pending::<()>()).await.unwrap_err();
        }
    }

    pub async fn until_final(&self, id: &str) -> Value {
        self.until(id, |d| matches!(d["status"].as_str(), Some("completed" | "failed" | "cancelled"))).await
    }

    /// Deploys and expects it to go live.
    pub async fn deploy_live(&self, body: &Value) -> String {
        let id = self.deploy(body).await;
        let document = self.until_final(&id).await;
        assert_eq!(document["status"], "completed", "{document:#}\n{}", self.log_of(&id).await);
        id
    }

    /// The build log.
    pub async fn log_of(&self, id: &str) -> String {
        let response =
            self.request(Method::GET, &format!("/api/v1/deployments/{id}/logs")).send().await.unwrap();
        response.text().await.unwrap()
    }

    /// Waits until `holds`.
    pub async fn wait(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
            tokio::time::timeout(LOOK, std::future::pending::<()>()).await.unwrap_err();
        }
    }

    /// A command of the program on this server's folder; its standard output.
    pub fn cli(&self, arguments: &[&str]) -> std::process::Output {
        self.folder.libra(&[]).args(arguments).output().unwrap()
    }

    /// Asks the database itself.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        rows(&self.folder, sql)
    }

    /// Changes the database behind the server's back.
    pub fn change(&self, sql: &str) {
        rows(&self.folder, sql);
    }
}

/// Status and JSON of an answer.
pub async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    let value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, value)
}

/// Asks the database itself, with its own program.
pub fn rows(folder: &Folder, sql: &str) -> Vec<Vec<String>> {
    let mut program = folder.ground.sql(&folder.data());
    let server = matches!(folder.ground, Ground::Production { .. });
    if server {
        program.arg("-c");
    }
    let text = crate::parts::run(program.arg(sql));
    // The two programs print truth in words of their own.
    let word = |field: &str| match field {
        "t" if server => "1".to_owned(),
        "f" if server => "0".to_owned(),
        field => field.to_owned(),
    };
    text.lines().map(|l| l.split('\u{1f}').map(word).collect()).collect()
}

/// Processes whose command line or environment names `marker`: pid and command line.
pub fn processes_with(marker: &str) -> Vec<(i32, String)> {
    let own = std::process::id().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else { continue };
        if name == own {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(marker) {
            found.push((pid, line));
        }
    }
    found
}

/// The project's folder, as it is when the test runs.
pub fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap())
}

pub fn libra_exe() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_libra")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_libra")), PathBuf::from)
}
