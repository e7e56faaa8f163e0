//! E2B's REST API and its daemon `envd`, as the npm client `e2b` speaks to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::process::{Exit, Process, Stream};
use super::shape::header as header_of;
use super::{KEY, State, Wire, error, labels_of, multipart, parameter};

const VERSION: &str = "0.5.0";

pub fn serve(
    state: &State,
    request: &HttpRequest,
    method: &str,
    path: &str,
    body: Bytes,
    wire: Wire,
) -> HttpResponse {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let is_api = matches!(parts[0], "v2" | "sandboxes");
    if is_api && header_of(request, "x-api-key") != KEY {
        return error(401, "401", "invalid API key");
    }
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (method, parts.as_slice()) {
        ("POST", ["v2", "sandboxes"]) => {
            let id = state.make(labels_of(&json["metadata"]));
            HttpResponse::Created().json(running(state, &id))
        }
        ("GET", ["v2", "sandboxes"]) => list(state, request),
        ("POST", ["v2", "sandboxes", id, "connect"]) if state.home(id).is_some() => {
            HttpResponse::Ok().json(running(state, id))
        }
        ("DELETE", ["sandboxes", id]) if state.remove(id) => HttpResponse::NoContent().finish(),
        _ if is_api => error(404, "404", "no such sandbox"),
        _ => envd(state, request, (method, path), &body, &json, wire.cut),
    }
}

fn running(state: &State, id: &str) -> Value {
    let token = state.boxes.lock().unwrap()[id].token.clone();
    json!({
        "sandboxID": id, "templateID": "t", "clientID": "c", "envdVersion": VERSION,
        "envdAccessToken": token, "domain": null,
    })
}

/// In pages of two, so that paging is used.
fn list(state: &State, request: &HttpRequest) -> HttpResponse {
    let metadata = parameter(request, "metadata").unwrap_or_default();
    let wanted: Vec<(String, String)> = metadata
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let from = parameter(request, "nextToken");
    let boxes = state.boxes.lock().unwrap();
    let mut fitting = boxes
        .iter()
        .filter(|(id, _)| from.as_ref().is_none_or(|from| *id > from))
        .filter(|(_, b)| wanted.iter().all(|(k, v)| b.labels.get(k) == Some(v)));
    let page: Vec<_> = fitting.by_ref().take(2).collect();
    let mut answer = HttpResponse::Ok();
    if let (Some((last, _)), true) = (page.last(), fitting.next().is_some()) {
        answer.insert_header(("x-next-token", last.as_str()));
    }
    let shown: Vec<Value> = page
        .iter()
        .map(|(id, b)| {
            json!({
                "sandboxID": id, "templateID": "t", "clientID": "c", "metadata": b.labels, "state": "running",
                "startedAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-01T01:00:00Z", "cpuCount": 2,
                "memoryMB": 512, "diskSizeMB": 1024, "envdVersion": VERSION,
            })
        })
        .collect();
    answer.json(shown)
}

fn envd(
    state: &State,
    request: &HttpRequest,
    (method, path): (&str, &str),
    body: &Bytes,
    json: &Value,
    cut: Option<usize>,
) -> HttpResponse {
    let id = header_of(request, "e2b-sandbox-id");
    let known = state.boxes.lock().unwrap().get(&id).map(|b| (b.home.clone(), b.token.clone()));
    // As the proxy in front of the sandboxes answers.
    let Some((home, token)) = known else { return error(404, "not_found", "the sandbox was not found") };
    if header_of(request, "x-access-token") != token {
        return error(401, "unauthenticated", "the access token is wrong");
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match (method, path) {
        ("GET", "/health") => HttpResponse::NoContent().finish(),
        ("GET", "/files") => read(&home.join(parameter(request, "path").unwrap_or_default())),
        ("POST", "/files") => write(&home, request, body),
        ("POST", "/filesystem.Filesystem/MakeDir") => {
            let folder = home.join(text(&json["path"]));
            if folder.is_dir() {
                return error(409, "already_exists", "it is there already");
            }
            std::fs::create_dir_all(&folder).unwrap();
            stat(&folder)
        }
        ("POST", "/filesystem.Filesystem/Stat") => stat(&home.join(text(&json["path"]))),
        ("POST", "/process.Process/SendSignal") => {
            let found = state.process(&id, &tag(state, &id, json));
            match found.filter(|process| process.exit().is_none()) {
                Some(process) => {
                    process.kill();
                    HttpResponse::Ok().json(json!({}))
                }
                None => error(404, "not_found", "no such process"),
            }
        }
        ("POST", "/process.Process/List") => {
            let boxes = state.boxes.lock().unwrap();
            let running = boxes[&id].processes.iter().filter(|p| p.exit().is_none());
            let shown: Vec<Value> =
                running.map(|p| json!({ "config": { "cmd": "c" }, "pid": p.pid, "tag": p.name })).collect();
            HttpResponse::Ok().json(json!({ "processes": shown }))
        }
        ("POST", "/process.Process/Start") => start(state, &id, &home, &unframed(body), cut),
        ("POST", "/process.Process/Connect") => {
            let json = unframed(body);
            match state.process(&id, &tag(state, &id, &json)).filter(|p| p.exit().is_none()) {
                Some(process) => {
                    let from = process.pieces();
                    follow(process, from, cut)
                }
                None => failed("not_found", "no such process"),
            }
        }
        _ => error(404, "unimplemented", "unknown to the test server"),
    }
}

fn unframed(body: &Bytes) -> Value {
    serde_json::from_slice(body.get(5..).unwrap_or_default()).unwrap_or_default()
}

/// Selected by tag, or by pid as the official client does.
fn tag(state: &State, id: &str, json: &Value) -> String {
    let process = &json["process"];
    if let Some(pid) = process["pid"].as_u64() {
        let boxes = state.boxes.lock().unwrap();
        let found = boxes[id].processes.iter().find(|p| u64::from(p.pid) == pid);
        return found.map(|p| p.name.clone()).unwrap_or_default();
    }
    process["tag"].as_str().unwrap_or_default().to_owned()
}

fn start(state: &State, id: &str, home: &Path, json: &Value, cut: Option<usize>) -> HttpResponse {
    let process = &json["process"];
    let mut argv = vec![process["cmd"].as_str().unwrap_or_default().to_owned()];
    argv.extend(
        process["args"].as_array().into_iter().flatten().filter_map(|a| a.as_str().map(str::to_owned)),
    );
    let env: BTreeMap<String, String> = serde_json::from_value(process["envs"].clone()).unwrap_or_default();
    let cwd = home.join(process["cwd"].as_str().unwrap_or_default());
    let name = json["tag"].as_str().map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    match state.start(id, &name, &argv, &env, &cwd) {
        Ok(process) => follow(process, 0, cut),
        Err(e) => failed("invalid_argument", &e.to_string()),
    }
}

fn frame(flags: u8, message: &Value) -> Bytes {
    let text = message.to_string();
    let mut framed = vec![flags];
    framed.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(text.as_bytes());
    framed.into()
}

/// A stream that ends at once, as Connect tells of errors.
fn failed(code: &str, message: &str) -> HttpResponse {
    let body = frame(2, &json!({ "error": { "code": code, "message": message } }));
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/connect+json")).body(body)
}

fn follow(process: std::sync::Arc<Process>, from: usize, cut: Option<usize>) -> HttpResponse {
    enum At {
        Start,
        Piece(usize),
        End,
        Over,
    }
    let events = stream::unfold((process, At::Start), move |(process, at)| async move {
        let (event, next) = match at {
            At::Start => {
                (frame(0, &json!({ "event": { "start": { "pid": process.pid } } })), At::Piece(from))
            }
            At::Piece(number) if cut.is_some_and(|after| number - from >= after) => {
                let broken: Result<Bytes, std::io::Error> = Err(std::io::ErrorKind::BrokenPipe.into());
                return Some((broken, (process, At::Over)));
            }
            At::Piece(number) => match process.piece(number).await {
                Some((stream, bytes)) => {
                    let name = if stream == Stream::Out { "stdout" } else { "stderr" };
                    let data = json!({ "event": { "data": { name: STANDARD.encode(bytes) } } });
                    (frame(0, &data), At::Piece(number + 1))
                }
                None => (frame(0, &json!({ "event": { "end": ended(process.exit().unwrap()) } })), At::End),
            },
            At::End => (frame(2, &json!({})), At::Over),
            At::Over => return None,
        };
        Some((Ok(event), (process, next)))
    });
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, "application/connect+json")).streaming(events)
}

/// proto3's JSON: what is zero or false is left out.
fn ended(exit: Exit) -> Value {
    match exit.code {
        Some(0) => json!({ "exited": true, "status": "exit status 0" }),
        Some(code) => {
            let status = format!("exit status {code}");
            json!({ "exitCode": code, "exited": true, "status": status, "error": status })
        }
        None => {
            let status = if exit.signal == Some(15) { "signal: terminated" } else { "signal: killed" };
            json!({ "exitCode": -1, "status": status, "error": status })
        }
    }
}

fn read(path: &Path) -> HttpResponse {
    match std::fs::read(path) {
        Ok(content) => HttpResponse::Ok().content_type("application/octet-stream").body(content),
        Err(_) => error(404, "404", "no such file"),
    }
}

fn write(home: &Path, request: &HttpRequest, body: &Bytes) -> HttpResponse {
    let mut written = Vec::new();
    for part in multipart::parts(&header_of(request, "content-type"), body) {
        let name = parameter(request, "path").or(part.filename).unwrap_or_default();
        let target: PathBuf = home.join(&name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(&target, &part.content).unwrap();
        written.push(
            json!({ "name": target.file_name().unwrap().to_string_lossy(), "type": "file", "path": target }),
        );
    }
    HttpResponse::Ok().json(written)
}

fn stat(path: &Path) -> HttpResponse {
    let Ok(found) = std::fs::symlink_metadata(path) else { return error(404, "not_found", "no such file") };
    let target = std::fs::read_link(path).ok();
    // The type is that of what a link leads to.
    let folder = std::fs::metadata(path).is_ok_and(|m| m.is_dir());
    let kind = if folder { "FILE_TYPE_DIRECTORY" } else { "FILE_TYPE_FILE" };
    let mut entry = json!({
        "name": path.file_name().unwrap_or_default().to_string_lossy(), "type": kind, "path": path,
        "size": found.len().to_string(), "mode": 420, "permissions": "-rw-r--r--", "owner": "user", "group": "user",
    });
    if let Some(target) = target {
        entry["symlinkTarget"] = json!(target);
    }
    HttpResponse::Ok().json(json!({ "entry": entry }))
}
