//! `multipart/form-data` as the clients send it and as Daytona answers downloads.

use bytes::Bytes;

pub struct Part {
    pub name: String,
    pub filename: Option<String>,
    pub content: Bytes,
}

/// The parts of a body of this content type.
pub fn parts(content_type: &str, body: &Bytes) -> Vec<Part> {
    let Some((_, boundary)) = content_type.split_once("boundary=") else { return Vec::new() };
    let boundary = format!("--{}", boundary.trim_matches('"'));
    let mut found = Vec::new();
    let mut rest = find(body, boundary.as_bytes()).map(|at| body.slice(at + boundary.len()..));
    while let Some(text) = rest {
        // After a boundary: two hyphens end it all, a line end begins a part.
        if text.starts_with(b"--") || text.len() < 2 {
            break;
        }
        let text = text.slice(2..);
        let Some(head_end) = find(&text, b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&text[..head_end]).into_owned();
        let text = text.slice(head_end + 4..);
        let close = format!("\r\n{boundary}");
        let Some(end) = find(&text, close.as_bytes()) else { break };
        let value = |key: &str| {
            let (_, tail) = head.split_once(&format!(" {key}=\""))?;
            let end = tail.match_indices('"').find(|(at, _)| !tail[..*at].ends_with('\\'))?.0;
            Some(tail[..end].replace("\\\"", "\""))
        };
        found.push(Part {
            name: value("name").unwrap_or_default(),
            filename: value("filename"),
            content: text.slice(..end),
        });
        rest = Some(text.slice(end + close.len()..));
    }
    found
}

/// One file as an answer: content type and body.
pub fn answer(filename: &str, content: &[u8]) -> (String, Vec<u8>) {
    let boundary = "test-boundary";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{filename}\"\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        content.len()
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
