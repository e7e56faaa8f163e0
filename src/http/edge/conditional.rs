//! Owns whether a client's copy is still good (RFC 9110 §13): `If-Match`, `If-Unmodified-Since`, `If-None-Match`,
//! `If-Modified-Since`, `If-Range`.
//! Never compares times where the client sent a tag: tags say exactly what times only suggest.

use std::time::{Duration, UNIX_EPOCH};

use http::header::{self, HeaderMap};

/// Whether the answer is 412: the client wants to go on only with what it knows, and that is not what we have.
/// `etags` have their quotes; any of them will do.
pub fn is_another(headers: &HeaderMap, etags: &[impl AsRef<[u8]>], created_at_seconds: u64) -> bool {
    if headers.contains_key(header::IF_MATCH) {
        let mut lines = headers.get_all(header::IF_MATCH).iter();
        return !lines.any(|line| {
            let line = line.as_bytes();
            // Strong comparison: ours are never weak, so a weak one names something else.
            etags.iter().any(|etag| list_contains(line, etag.as_ref(), Weak::Differs))
        });
    }
    let since = headers.get(header::IF_UNMODIFIED_SINCE).and_then(|value| value.to_str().ok());
    let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
    since.is_some_and(|since| UNIX_EPOCH + Duration::from_secs(created_at_seconds) > since)
}

/// Whether the answer is 304. `etag` has its quotes; `created_at_seconds` is Unix time.
pub fn is_unchanged(headers: &HeaderMap, etag: &[u8], created_at_seconds: u64) -> bool {
    if headers.contains_key(header::IF_NONE_MATCH) {
        let mut lines = headers.get_all(header::IF_NONE_MATCH).iter();
        return lines.any(|line| list_contains(line.as_bytes(), etag, Weak::Same));
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

/// What a weak tag of the client's is beside the strong one of the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weak {
    Same,
    Differs,
}

/// Comparison with each tag of a list, or `*`.
fn list_contains(list: &[u8], etag: &[u8], weak: Weak) -> bool {
    let mut rest = list.trim_ascii();
    if rest == b"*" {
        return true;
    }
    while !rest.is_empty() {
        let strong = rest.strip_prefix(b"W/").unwrap_or(rest);
        let counts = weak == Weak::Same || strong.len() == rest.len();
        rest = strong;
        let Some(inner) = rest.strip_prefix(b"\"") else { return false };
        let Some(end) = inner.iter().position(|byte| *byte == b'"') else { return false };
        if counts && rest[..end + 2] == *etag {
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
    fn going_on_takes_the_very_tag_or_time() {
        let another = |fields: &[(header::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_static(value));
            }
            is_another(&headers, &[b"\"abc-br\"".as_slice(), b"\"abc\""], 784_111_777)
        };
        for good in ["\"abc\"", "\"x\", \"abc-br\"", "*"] {
            assert!(!another(&[(header::IF_MATCH, good)]), "{good}");
        }
        for other in ["\"x\"", "W/\"abc\"", "", "abc", "W/\"abc\", \"abd\""] {
            assert!(another(&[(header::IF_MATCH, other)]), "{other}");
        }
        let (at, before) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:36 GMT");
        assert!(!another(&[(header::IF_UNMODIFIED_SINCE, at)]));
        assert!(another(&[(header::IF_UNMODIFIED_SINCE, before)]));
        assert!(!another(&[(header::IF_UNMODIFIED_SINCE, "yesterday")]));
        assert!(!another(&[(header::IF_MATCH, "\"abc\""), (header::IF_UNMODIFIED_SINCE, before)]));
        assert!(!another(&[]));
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
