//! Daytona's REST API and the toolbox of its sandboxes, as the npm client `@daytonaio/sdk` speaks to them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::process::{Process, Stream};
use super::shape::header as header_of;
use super::{KEY, State, Wire, error, labels_of, multipart, parameter};

pub fn serve(
    state: &State,
    request: &HttpRequest,
    method: &str,
    path: &str,
    body: Bytes,
    wire: Wire,
) -> HttpResponse {
    if header_of(request, "authorization") != format!("Bearer {KEY}") {
        return error(401, "401", "Unauthorized");
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    match (method, parts.as_slice()) {
        ("POST", ["sandbox"]) => {
            let id = state.make(labels_of(&json["labels"]));
            HttpResponse::Ok().json(described(state, &id))
        }
        ("GET", ["sandbox"]) => list(state, request),
        ("GET", ["sandbox", id]) if state.home(id).is_some() => {
            state.boxes.lock().unwrap().get_mut(*id).unwrap().looks += 1;
            HttpResponse::Ok().json(described(state, id))
        }
        ("DELETE", ["sandbox", id]) if state.home(id).is_some() => {
            let mut last = described(state, id);
            last["state"] = json!("destroyed");
            state.remove(id);
            HttpResponse::Ok().json(last)
        }
        (_, ["toolbox", id, rest @ ..]) => match state.home(id) {
            Some(home) => toolbox(state, request, (method, rest), (id, &home), &body, &json, wire),
            None => error(404, "404", "no such sandbox"),
        },
        _ => error(404, "404", "no such sandbox"),
    }
}

/// It is starting when it is made, and runs when it is looked at.
fn described(state: &State, id: &str) -> Value {
    let boxes = state.boxes.lock().unwrap();
    let sandbox = &boxes[id];
    let sandbox_state = if sandbox.looks == 0 { "creating" } else { "started" };
    json!({
        "id": id, "organizationId": "o", "name": id, "user": "root", "env": {}, "labels": sandbox.labels,
        "public": false, "networkBlockAll": false, "target": "t", "cpu": 1, "gpu": 0, "memory": 1, "disk": 1,
        "state": sandbox_state, "desiredState": "started", "toolboxProxyUrl": format!("{}/toolbox", state.url),
    })
}

/// In pages of two, so that paging is used.
fn list(state: &State, request: &HttpRequest) -> HttpResponse {
    let labels = parameter(request, "labels").unwrap_or_else(|| "{}".into());
    let wanted: BTreeMap<String, String> = serde_json::from_str(&labels).unwrap_or_default();
    let from = parameter(request, "cursor");
    let fitting: Vec<String> = state
        .boxes
        .lock()
        .unwrap()
        .iter()
        .filter(|(id, _)| from.as_ref().is_none_or(|from| *id > from))
        .filter(|(_, b)| wanted.iter().all(|(k, v)| b.labels.get(k) == Some(v)))
        .map(|(id, _)| id.clone())
        .collect();
    let next = (fitting.len() > 2).then(|| fitting[1].clone());
    let items: Vec<Value> = fitting.iter().take(2).map(|id| described(state, id)).collect();
    HttpResponse::Ok().json(json!({ "items": items, "nextCursor": next }))
}

fn toolbox(
    state: &State,
    request: &HttpRequest,
    (method, path): (&str, &[&str]),
    (id, home): (&str, &Path),
    body: &Bytes,
    json: &Value,
    wire: Wire,
) -> HttpResponse {
    let named = || home.join(parameter(request, "path").unwrap_or_default());
    match (method, path) {
        ("GET", ["work-dir"]) => HttpResponse::Ok().json(json!({ "dir": home })),
        ("POST", ["files", "folder"]) => {
            std::fs::create_dir_all(named()).unwrap();
            HttpResponse::Created().finish()
        }
        ("POST", ["files", "bulk-upload"]) => upload(home, request, body),
        ("GET", ["files", "download"]) => match std::fs::read(named()) {
            Ok(content) => HttpResponse::Ok().content_type("application/octet-stream").body(content),
            Err(_) => error(404, "404", "no such file"),
        },
        ("POST", ["files", "bulk-download"]) => {
            let name = json["paths"][0].as_str().unwrap_or_default();
            match std::fs::read(home.join(name)) {
                Ok(content) => {
                    let (kind, body) = multipart::answer(name, &content);
                    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, kind)).body(body)
                }
                Err(_) => error(404, "404", "no such file"),
            }
        }
        ("GET", ["files"]) => list_files(&named()),
        ("POST", ["process", "session"]) => HttpResponse::Created().finish(),
        ("POST", ["process", "session", session, "exec"]) => {
            let line = json["command"].as_str().unwrap_or_default().to_owned();
            let argv = ["sh".to_owned(), "-c".to_owned(), line];
            state.start(id, session, &argv, &BTreeMap::new(), home).unwrap();
            HttpResponse::Accepted().json(json!({ "cmdId": format!("c-{session}") }))
        }
        ("GET", ["process", "session", session, "command", command, "logs"]) => {
            match state.process(id, session) {
                Some(process) if parameter(request, "follow").is_some() => follow(request, process, wire),
                _ => error(404, "404", command),
            }
        }
        ("GET", ["process", "session", session, "command", command]) => match state.process(id, session) {
            Some(process) => {
                let code = process.exit().map(|e| e.code.unwrap_or_else(|| 128 + e.signal.unwrap_or(9)));
                HttpResponse::Ok().json(json!({ "id": command, "command": "c", "exitCode": code }))
            }
            None => error(404, "404", command),
        },
        ("DELETE", ["process", "session", session]) => match state.process(id, session) {
            Some(process) => {
                process.kill();
                HttpResponse::NoContent().finish()
            }
            None => error(404, "404", session),
        },
        _ => error(404, "404", "unknown to the test server"),
    }
}

fn upload(home: &Path, request: &HttpRequest, body: &Bytes) -> HttpResponse {
    let parts = multipart::parts(&header_of(request, "content-type"), body);
    let mut paths: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for part in &parts {
        if let Some(number) = part.name.strip_suffix(".path") {
            paths.insert(number, home.join(String::from_utf8_lossy(&part.content).as_ref()));
        } else if let Some(target) = part.name.strip_suffix(".file").and_then(|number| paths.get(number)) {
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::write(target, &part.content).unwrap();
        }
    }
    HttpResponse::Ok().json(json!([]))
}

fn list_files(folder: &Path) -> HttpResponse {
    let Ok(entries) = std::fs::read_dir(folder) else { return error(404, "404", "no such folder") };
    let shown: Vec<Value> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let found = entry.metadata().ok()?;
            // Go's words for a file's mode.
            let letter = if found.is_symlink() {
                "L"
            } else if found.is_dir() {
                "d"
            } else {
                "-"
            };
            Some(json!({
                "name": entry.file_name().to_string_lossy(), "isDir": found.is_dir(), "size": found.len(),
                "mode": format!("{letter}rwxr-xr-x"), "modTime": "", "modifiedAt": "", "owner": "root",
                "group": "root", "permissions": format!("{:o}", found.permissions().mode() & 0o777),
            }))
        })
        .collect();
    HttpResponse::Ok().json(shown)
}

/// The log from its beginning, over a WebSocket; closed when the command has ended.
fn follow(request: &HttpRequest, process: std::sync::Arc<Process>, wire: Wire) -> HttpResponse {
    let key = header_of(request, "sec-websocket-key");
    let accept = STANDARD.encode(Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11")));
    let frames = stream::unfold((process, wire, Some(0)), move |(process, wire, number)| async move {
        let number = number?;
        if wire.cut.is_some_and(|after| number >= after) {
            let broken: Result<Bytes, std::io::Error> = Err(std::io::ErrorKind::BrokenPipe.into());
            return Some((broken, (process, wire, None)));
        }
        match process.piece(number).await {
            Some((stream, bytes)) => {
                let mark = if stream == Stream::Out { [1; 3] } else { [2; 3] };
                Some((Ok(frame(0x82, &[&mark, &*bytes].concat())), (process, wire, Some(number + 1))))
            }
            None => Some((Ok(frame(0x88, &1000_u16.to_be_bytes())), (process, wire, None))),
        }
    });
    HttpResponse::SwitchingProtocols()
        .upgrade("websocket")
        .insert_header(("sec-websocket-accept", accept))
        .streaming(frames)
}

/// One frame of a server: whole, and not masked.
fn frame(kind: u8, content: &[u8]) -> Bytes {
    let mut framed = vec![kind];
    match content.len() {
        short @ 0..=125 => framed.push(u8::try_from(short).unwrap()),
        middle @ 126..=65_535 => {
            framed.push(126);
            framed.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            framed.push(127);
            framed.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    framed.extend_from_slice(content);
    framed.into()
}
