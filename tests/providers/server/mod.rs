//! A server that speaks what the official clients of E2B and Daytona speak, and really runs what it is
//! told, in folders of the test. Owns its sandboxes, what was asked of it, and the faults that a test
//! switches on. It isolates nothing.

mod daytona;
mod e2b;
mod multipart;
mod process;
mod shape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use actix_web::http::{StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use process::Process;
pub use shape::Shape;

pub const KEY: &str = "key-of-the-test";

/// Whose protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    E2b,
    Daytona,
}

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answered before anything is done.
    Status { status: u16, retry_after: Option<u64>, body: &'static str },
    /// Never answered, and nothing is done.
    Hang,
    /// Done, and never answered.
    LoseAnswer,
    /// The stream breaks after so many pieces of output.
    Cut { after: usize },
}

struct Armed {
    method: &'static str,
    path: &'static str,
    fault: Fault,
    times: usize,
}

/// One sandbox: a folder, and what runs in it.
pub struct Place {
    pub home: PathBuf,
    pub labels: BTreeMap<String, String>,
    pub token: String,
    pub looks: usize,
    pub processes: Vec<Arc<Process>>,
}

pub struct State {
    pub protocol: Protocol,
    pub url: String,
    root: TempDir,
    node: PathBuf,
    boxes: Mutex<BTreeMap<String, Place>>,
    asked: Mutex<Vec<Shape>>,
    /// Bodies and addresses as they came, for looking for what must not be there.
    raw: Mutex<Vec<String>>,
    armed: Mutex<Vec<Armed>>,
}

/// A running server; dropping it kills what runs in its sandboxes.
pub struct Server {
    pub state: Arc<State>,
    handle: actix_web::dev::ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// `node` is the folder of the Node that its sandboxes have.
    pub fn start(protocol: Protocol, node: &Path) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            protocol,
            url: format!("http://{}", listener.local_addr().unwrap()),
            root: tempfile::Builder::new().prefix("libra-cloud-").tempdir().unwrap(),
            node: node.to_owned(),
            boxes: Mutex::default(),
            asked: Mutex::default(),
            raw: Mutex::default(),
            armed: Mutex::default(),
        });
        let (told, tell) = std::sync::mpsc::channel();
        let data = web::Data::from(Arc::clone(&state));
        // On a thread and runtime of its own: tests run on others.
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new().app_data(data.clone()).default_service(web::to(serve))
                })
                .workers(2)
                .shutdown_timeout(1)
                .disable_signals()
                .listen(listener)
                .unwrap()
                .run();
                told.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self { state, handle: tell.recv().unwrap(), thread: Some(thread) }
    }

    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// The next `times` requests of this method, whose path holds `path`, meet the fault.
    pub fn arm(&self, method: &'static str, path: &'static str, fault: Fault, times: usize) {
        self.state.armed.lock().unwrap().push(Armed { method, path, fault, times });
    }

    pub fn disarm(&self) {
        self.state.armed.lock().unwrap().clear();
    }

    /// The sandboxes that are there: their labels.
    pub fn boxes(&self) -> Vec<BTreeMap<String, String>> {
        self.state.boxes.lock().unwrap().values().map(|b| b.labels.clone()).collect()
    }

    /// Makes a sandbox of somebody else.
    pub fn make_foreign(&self) {
        self.state.make(BTreeMap::from([("libra-installation".to_owned(), "another".to_owned())]));
    }

    /// As when the provider ends them by itself.
    pub fn remove_all(&self) {
        let ids: Vec<String> = self.state.boxes.lock().unwrap().keys().cloned().collect();
        for id in ids {
            self.state.remove(&id);
        }
    }

    pub fn asked(&self) -> Vec<Shape> {
        self.state.asked.lock().unwrap().clone()
    }

    /// How often this was asked.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.asked().iter().filter(|s| s.method == method && s.path == path).count()
    }

    pub fn raw(&self) -> Vec<String> {
        self.state.raw.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            // A server that panicked has said so.
            drop(thread.join());
        }
        self.remove_all();
    }
}

impl State {
    fn make(&self, labels: BTreeMap<String, String>) -> String {
        let id = format!("i{}", uuid::Uuid::new_v4().simple());
        let home = self.root.path().join(&id);
        std::fs::create_dir(&home).unwrap();
        let token = format!("token-{id}");
        let made = Place { home, labels, token, looks: 0, processes: Vec::new() };
        self.boxes.lock().unwrap().insert(id.clone(), made);
        id
    }

    fn remove(&self, id: &str) -> bool {
        let Some(gone) = self.boxes.lock().unwrap().remove(id) else { return false };
        for process in &gone.processes {
            process.kill();
        }
        // What was just killed may still be writing; the folder of the whole server goes later.
        drop(std::fs::remove_dir_all(&gone.home));
        true
    }

    fn home(&self, id: &str) -> Option<PathBuf> {
        self.boxes.lock().unwrap().get(id).map(|b| b.home.clone())
    }

    fn start(
        &self,
        id: &str,
        name: &str,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &Path,
    ) -> std::io::Result<Arc<Process>> {
        let home = self.home(id).ok_or(std::io::ErrorKind::NotFound)?;
        let path = format!("{}/bin:/usr/local/bin:/usr/bin:/bin", self.node.display());
        let process = Process::start(name, argv, env, cwd, &home, &path)?;
        if let Some(sandbox) = self.boxes.lock().unwrap().get_mut(id) {
            sandbox.processes.push(Arc::clone(&process));
        }
        Ok(process)
    }

    fn process(&self, id: &str, name: &str) -> Option<Arc<Process>> {
        let boxes = self.boxes.lock().unwrap();
        boxes.get(id)?.processes.iter().find(|p| p.name == name).cloned()
    }

    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut armed = self.armed.lock().unwrap();
        let hit = armed.iter_mut().find(|a| a.times > 0 && a.method == method && path.contains(a.path))?;
        hit.times -= 1;
        Some(hit.fault.clone())
    }
}

/// The connection's part in an answer.
struct Wire {
    /// Where a stream breaks.
    cut: Option<usize>,
    /// What comes after an upgrade; dropped, the connection would end.
    _upgraded: Option<web::Payload>,
}

async fn serve(request: HttpRequest, payload: web::Payload, state: web::Data<State>) -> HttpResponse {
    let mut wire = Wire { cut: None, _upgraded: None };
    let body = if request.headers().contains_key(header::UPGRADE) {
        wire._upgraded = Some(payload);
        Bytes::new()
    } else {
        payload.to_bytes_limited(256 << 20).await.unwrap().unwrap()
    };
    let (method, path) = (request.method().to_string(), request.path().to_owned());
    state.asked.lock().unwrap().push(Shape::of(&request, &body));
    let raw =
        format!("{method} {} {:?} {}", request.uri(), request.headers(), String::from_utf8_lossy(&body));
    state.raw.lock().unwrap().push(raw);
    let fault = state.fault(&method, &path);
    match &fault {
        Some(Fault::Status { status, retry_after, body }) => {
            let mut answer = HttpResponse::build(StatusCode::from_u16(*status).unwrap());
            if let Some(seconds) = retry_after {
                answer.insert_header((header::RETRY_AFTER, seconds.to_string()));
            }
            return answer.json(json!({ "code": status, "message": body }));
        }
        Some(Fault::Hang) => hang().await,
        Some(Fault::Cut { after }) => wire.cut = Some(*after),
        Some(Fault::LoseAnswer) | None => {}
    }
    let answer = match state.protocol {
        Protocol::E2b => e2b::serve(&state, &request, &method, &path, body, wire),
        Protocol::Daytona => daytona::serve(&state, &request, &method, &path, body, wire),
    };
    if matches!(fault, Some(Fault::LoseAnswer)) {
        hang().await;
    }
    answer
}

/// Until the client gives up or the server goes.
async fn hang() {
    std::future::pending().await
}

fn error(status: u16, code: &str, message: &str) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap();
    HttpResponse::build(status).json(json!({ "code": code, "message": message }))
}

fn labels_of(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

/// A parameter of the address, decoded.
fn parameter(request: &HttpRequest, name: &str) -> Option<String> {
    let query = web::Query::<BTreeMap<String, String>>::from_query(request.query_string()).ok()?;
    query.get(name).cloned()
}
