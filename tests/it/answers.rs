//! Reading answers: the error document, ids, times, streams of events.

use reqwest::Response;
use serde_json::Value;

/// The names of an object's fields, sorted.
pub fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// UUIDv4 in simple form.
pub fn is_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        && text.as_bytes()[12] == b'4'
        && matches!(text.as_bytes()[16], b'8' | b'9' | b'a' | b'b')
}

/// `2025-07-22T10:30:00.000Z`.
pub fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}

/// Checks the whole error document and answers it.
pub async fn assert_problem(response: Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status(), status, "{code}");
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let document: Value = response.json().await.unwrap();
    let known = ["code", "details", "error", "message", "requestId", "success", "timestamp"];
    let fields = keys(&document);
    let expected: Vec<&str> = known.into_iter().filter(|k| *k != "details" || fields.contains(k)).collect();
    assert_eq!(fields, expected, "{document}");
    assert_eq!(document["code"], code, "{document}");
    assert_eq!(document["success"], false);
    assert_eq!(document["requestId"], id.as_str());
    assert!(is_time(&document["timestamp"]), "{document}");
    let words = |field: &str| document[field].as_str().unwrap().len();
    assert!(words("error") > 3 && words("message") > 10, "{document}");
    document
}

/// The problems of an answer as `field: message`.
pub fn details(document: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = document["details"].as_array().cloned().unwrap_or_default();
    list.iter().map(|d| (text(&d["field"]), text(&d["message"]))).collect()
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: i64,
    pub kind: String,
    pub data: Value,
}

/// The whole events of a stream; one that broke off in the middle is not there.
pub fn events(text: &str) -> Vec<Event> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
    let blocks = whole.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
    blocks
        .map(|block| {
            let field = |name: &str| {
                let line = block.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
                line.unwrap_or_else(|| panic!("{name} is missing: {block}"))
            };
            Event {
                id: field("id").parse().unwrap(),
                kind: field("event").to_owned(),
                data: serde_json::from_str(field("data")).unwrap(),
            }
        })
        .collect()
}
