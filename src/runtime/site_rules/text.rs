//! Owns the one spelling in which paths are compared, and lines before they are read.
//! Never decodes what would change a path's segments: an encoded slash stays encoded.

use std::borrow::Cow;

use super::report::{Problem, ProblemKind, Report};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// What stands for itself in a path (RFC 3986 `pchar`), and the slash.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

/// The path with everything decoded that may stand for itself, and everything else encoded, in capitals.
/// ASCII without spaces and control characters, so it fits into a header.
pub(super) fn path(raw: &str) -> Cow<'_, str> {
    if raw.bytes().all(is_plain) {
        return Cow::Borrowed(raw);
    }
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len() + 16);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match encoded(bytes, at) {
            Some(b'/') => out.push_str("%2F"),
            Some(decoded) if is_plain(decoded) => out.push(char::from(decoded)),
            Some(decoded) => encode(&mut out, decoded),
            None if is_plain(byte) => out.push(char::from(byte)),
            None => encode(&mut out, byte),
        }
        at += if encoded(bytes, at).is_some() { 3 } else { 1 };
    }
    Cow::Owned(out)
}

/// A query or fragment as it may stand in a header: visible ASCII stays, the rest is encoded.
pub(super) fn query(raw: &str) -> Cow<'_, str> {
    if raw.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Cow::Borrowed(raw);
    }
    let mut out = String::with_capacity(raw.len() + 16);
    for byte in raw.bytes() {
        if byte.is_ascii_graphic() { out.push(char::from(byte)) } else { encode(&mut out, byte) }
    }
    Cow::Owned(out)
}

/// The byte that `%XX` at this place stands for.
fn encoded(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => u8::try_from(digit(high)? * 16 + digit(low)?).ok(),
        _ => None,
    }
}

fn encode(out: &mut String, byte: u8) {
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// The lines of a file that can be read at all, trimmed, with their numbers; no comments, no empty ones.
pub(super) fn lines<'f>(
    file: &'static str,
    bytes: &'f [u8],
    line_limit: usize,
    report: &mut Report,
) -> Vec<(u32, &'f str)> {
    let mut problem = |line, kind| report.add(Problem { file, line, kind });
    let whole = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let read = whole.get(..super::MAX_FILE_BYTES).unwrap_or(whole);
    let mut kept = Vec::new();
    let mut number = 0;
    for line in read.split_inclusive(|byte| *byte == b'\n') {
        number += 1;
        if read.len() < whole.len() && !line.ends_with(b"\n") {
            break;
        }
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        match std::str::from_utf8(line) {
            Err(_) => problem(number, ProblemKind::NotUtf8),
            Ok(text) if text.chars().count() > line_limit => {
                problem(number, ProblemKind::LineTooLong { limit: line_limit });
            }
            Ok(text) if text.chars().any(|c| c.is_control() && c != '\t') => {
                problem(number, ProblemKind::ControlCharacter);
            }
            Ok(text) => kept.push((number, text)),
        }
    }
    if read.len() < whole.len() {
        problem(number, ProblemKind::FileTooLarge);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_path_become_one() {
        for (raw, expected) in [
            ("/a/b", "/a/b"),
            ("/%61%2Db", "/a-b"),
            ("/a%2fb", "/a%2Fb"),
            ("/ü", "/%C3%BC"),
            ("/%c3%bc", "/%C3%BC"),
            ("/a b\"", "/a%20b%22"),
            ("/%", "/%25"),
            ("/%zz%4", "/%25zz%254"),
            ("/a%5c\\%00", "/a%5C%5C%00"),
            ("/%2e%2e", "/.."),
            ("/x%40y@", "/x@y@"),
        ] {
            assert_eq!(path(raw), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_settled_after_one_turn_and_fits_into_a_header(raw in "\\PC{0,40}|[%a-f0-9/]{0,40}") {
            let once = path(&raw).into_owned();
            prop_assert_eq!(path(&once), once.as_str());
            prop_assert!(once.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(http::HeaderValue::from_str(&query(&raw)).is_ok());
        }
    }
}
