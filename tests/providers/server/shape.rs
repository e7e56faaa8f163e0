//! What a request looks like without its values: what two clients of one protocol must have in common.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::multipart;

/// Headers that the protocols speak of; the others are the HTTP library's.
const HEADERS: &[&str] = &[
    "authorization",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-type",
    "e2b-sandbox-id",
    "e2b-sandbox-port",
    "keepalive-ping-interval",
    "sec-websocket-version",
    "upgrade",
    "x-access-token",
    "x-api-key",
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shape {
    pub method: String,
    /// With `{id}` for ids.
    pub path: String,
    pub query: Vec<String>,
    pub headers: Vec<String>,
    /// Names of fields or parts, nested ones with dots.
    pub body: BTreeMap<String, String>,
}

impl Shape {
    pub fn of(request: &HttpRequest, body: &Bytes) -> Self {
        let mut query: Vec<String> = request
            .query_string()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split('=').next().unwrap_or_default().to_owned())
            .collect();
        query.sort();
        let content_type = header(request, "content-type");
        let kind = content_type.split(';').next().unwrap_or_default().to_owned();
        let headers = HEADERS.iter().filter(|name| request.headers().contains_key(**name)).map(|name| {
            if *name == "content-type" { format!("content-type: {kind}") } else { (*name).to_owned() }
        });
        let mut fields = BTreeMap::new();
        match kind.as_str() {
            "multipart/form-data" => {
                for part in multipart::parts(&content_type, body) {
                    let what = if part.filename.is_some() { "file" } else { "text" };
                    fields.insert(part.name, what.to_owned());
                }
            }
            // Without the envelope's five bytes.
            "application/connect+json" if body.len() > 5 => {
                describe("", &serde_json::from_slice(&body[5..]).unwrap_or_default(), &mut fields);
            }
            "application/json" => {
                describe("", &serde_json::from_slice(body).unwrap_or_default(), &mut fields);
            }
            _ => {}
        }
        let path = request.path().split('/').map(plain).collect::<Vec<_>>().join("/");
        Self { method: request.method().to_string(), path, query, headers: headers.collect(), body: fields }
    }
}

pub fn header(request: &HttpRequest, name: &str) -> String {
    request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
}

/// Ids are what holds a digit.
fn plain(segment: &str) -> &str {
    if segment != "v2" && segment.chars().any(|c| c.is_ascii_digit()) { "{id}" } else { segment }
}

fn describe(at: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    let kind = match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                // What the callers chose themselves.
                if matches!(at.as_str(), "metadata" | "labels" | "env" | "process.envs") {
                    into.insert(at, "map".into());
                } else {
                    describe(&at, value, into);
                }
            }
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
    };
    into.insert(at.to_owned(), kind.to_owned());
}
