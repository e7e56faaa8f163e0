//! Owns whether a client's copy is still good (RFC 9110 §13): `If-None-Match`, `If-Modified-Since`, `If-Range`.
//! Never compares times where the client sent a tag: tags say exactly what times only suggest.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{self, HeaderMap};

/// Whether the answer is 304. `etag` has its quotes; `created_at_seconds` is Unix time.
pub fn is_unchanged(headers: &HeaderMap, etag: &[u8], created_at_seconds: u64) -> bool {
    if headers.contains_key(header::IF_NONE_MATCH) {
        let mut lines = headers.get_all(header::IF_NONE_MATCH).iter();
        return lines.any(|line| list_contains(line.as_bytes(), etag));
    }
    let since = headers.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
    let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
    since.is_some_and(|since| UNIX_EPOCH + Duration::from_secs(created_at_seconds) <= since)
}

/// Whether a range may be sent: no `If-Range`, or one that names exactly what we have.
pub fn range_applies(headers: &HeaderMap, etag: &[u8], last_modified: &[u8]) -> bool {
    // Strong comparison: a weak tag never equals, and a date must be the very one that we sent.
    headers.get(header::IF_RANGE).is_none_or(|value| {
        let value = value.as_bytes().trim_ascii();
        value == etag || value == last_modified
    })
}

/// Weak comparison with each tag of a list, or `*`.
fn list_contains(list: &[u8], etag: &[u8]) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while !rest.is_empty() {
        rest = rest.strip_prefix(b"W/").unwrap_or(rest);
        let Some(inner) = rest.strip_prefix(b"\"") else { return false };
        let Some(end) = inner.iter().position(|byte| *byte == b'"') else { return false };
        if rest[..end + 2] == *etag {
            return true;
        }
        rest = inner[end + 1..].trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(&[]).trim_ascii_start();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;

    fn unchanged(name: header::HeaderName, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        is_unchanged(&headers, b"\"abc-br\"", 784_111_777)
    }

    #[test]
    fn tags_are_compared_weakly_and_whole() {
        let tag = |value| unchanged(header::IF_NONE_MATCH, value);
        assert!(tag("\"abc-br\""));
        assert!(tag("W/\"abc-br\""));
        assert!(tag("\"x\", W/\"y,z\" ,\"abc-br\""));
        assert!(tag(" * "));
        for other in ["\"abc\"", "abc-br", "\"abc-br", "\"x\" \"abc-br\"", "", "\"abc-br-more\"", "\"*\""] {
            assert!(!tag(other), "{other}");
        }
    }

    #[test]
    fn times_count_only_without_a_tag() {
        let time = |value| unchanged(header::IF_MODIFIED_SINCE, value);
        assert!(time("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(time("Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!time("Sun, 06 Nov 1994 08:49:36 GMT"));
        assert!(!time("yesterday"));
        let mut both = HeaderMap::new();
        both.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"other\""));
        both.insert(header::IF_MODIFIED_SINCE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:38 GMT"));
        assert!(!is_unchanged(&both, b"\"abc\"", 784_111_777));
    }
}
