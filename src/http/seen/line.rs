//! Owns the text of one line of the access log.
//! Never writes a query, which may hold secrets, and nothing that could end the line or the object early.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;

use super::Bare;
use super::watch::Watch;
use crate::domain::time;

/// Bytes of a path, a host and a method that are written; what is longer ends in `…`.
const PATH_BYTES: usize = 1024;
const HOST_BYTES: usize = 255;
const METHOD_BYTES: usize = 32;

/// The text of the second in hand, so that it is made once a second and not for each line.
#[derive(Debug, Default)]
pub struct Clock {
    second: u64,
    text: String,
}

impl Clock {
    fn write(&mut self, to: &mut Vec<u8>, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != since.as_secs() || self.text.is_empty() {
            self.second = since.as_secs();
            self.text = time::rfc3339(i64::try_from(since.as_secs() * 1000).unwrap_or(0));
            // To the milliseconds, which follow.
            self.text.truncate(self.text.len().saturating_sub(4));
        }
        put(to, format_args!("{}{:03}Z", self.text, since.subsec_millis()));
    }
}

pub fn write(to: &mut Vec<u8>, clock: &mut Clock, watch: &Watch, took_us: u64) {
    to.extend_from_slice(b"{\"time\":\"");
    clock.write(to, watch.at);
    to.extend_from_slice(b"\",\"requestId\":");
    text(to, watch.id.as_ref().map_or(b"", |id| id.as_bytes()), HOST_BYTES);
    match watch.client {
        Some(client) => put(to, format_args!(",\"client\":\"{client}\"")),
        None => to.extend_from_slice(b",\"client\":\"unix\""),
    }
    let protocol = match watch.version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
    put(to, format_args!(",\"protocol\":\"{protocol}\",\"tls\":{},\"method\":", watch.is_tls));
    text(to, watch.method.as_str().as_bytes(), METHOD_BYTES);
    to.extend_from_slice(b",\"host\":");
    let target = watch.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = watch.host.as_ref().map(http::HeaderValue::as_bytes);
    text(to, host.or(target).unwrap_or_default(), HOST_BYTES);
    to.extend_from_slice(b",\"path\":");
    text(to, watch.uri.path().as_bytes(), PATH_BYTES);
    let facts = &watch.facts;
    let strategy = match facts.strategy {
        Some(strategy) => strategy.as_str(),
        None if facts.is_platform => "platform",
        None => "none",
    };
    put(
        to,
        format_args!(
            ",\"status\":{},\"bytes\":{},\"durationUs\":{took_us},\"strategy\":\"{strategy}\"",
            watch.status, watch.sent_bytes
        ),
    );
    if let Some(worker) = &facts.worker {
        to.extend_from_slice(b",\"worker\":");
        text(to, worker.as_bytes(), HOST_BYTES);
    }
    if let Some(version) = &facts.version {
        to.extend_from_slice(b",\"version\":");
        text(to, version.id().as_bytes(), HOST_BYTES);
    }
    if facts.epoch > 0 {
        put(to, format_args!(",\"routeEpoch\":{}", facts.epoch));
    }
    if let Some(upstream) = &facts.upstream {
        if let Some(origin) = facts.trace.origin.and_then(|at| upstream.origin(at)) {
            to.extend_from_slice(b",\"origin\":");
            text(to, origin.as_bytes(), PATH_BYTES);
        }
        put(to, format_args!(",\"upstreamUs\":{}", facts.trace.took_us));
    }
    if let Some(code) = watch.code {
        put(to, format_args!(",\"refusal\":\"{code}\""));
    }
    put(to, format_args!(",\"aborted\":{}}}\n", watch.is_aborted()));
}

/// The same fields, as far as there are any.
pub fn write_bare(to: &mut Vec<u8>, clock: &mut Clock, bare: &Bare, at: SystemTime) {
    let (status, code) = bare.what.told();
    to.extend_from_slice(b"{\"time\":\"");
    clock.write(to, at);
    to.extend_from_slice(b"\",\"requestId\":\"\",\"client\":\"");
    match bare.client {
        Some(client) => put(to, format_args!("{client}")),
        None => to.extend_from_slice(b"unix"),
    }
    put(
        to,
        format_args!(
            "\",\"protocol\":\"\",\"tls\":{},\"method\":\"\",\"host\":\"\",\"path\":\"\",\"status\":{},\"bytes\":0,\"durationUs\":0,\"strategy\":\"none\",\"refusal\":\"{}\",\"aborted\":false}}\n",
            bare.is_tls, status, code
        ),
    );
}

/// A vector of bytes takes whatever is written.
fn put(to: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    let _always_fits = to.write_fmt(what);
}

/// A JSON string. What is no printable ASCII is escaped, byte by byte.
fn text(to: &mut Vec<u8>, bytes: &[u8], most: usize) {
    to.push(b'"');
    for byte in &bytes[..bytes.len().min(most)] {
        match byte {
            b'"' | b'\\' => to.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => to.push(*byte),
            _ => put(to, format_args!("\\u{byte:04x}")),
        }
    }
    if bytes.len() > most {
        to.extend_from_slice(b"\\u2026");
    }
    to.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_string_early() {
        let mut line = Vec::new();
        text(&mut line, b"a\"b\\c\n\xff", 20);
        assert_eq!(String::from_utf8(line).unwrap(), r#""a\"b\\c\u000a\u00ff""#);
        let mut line = Vec::new();
        text(&mut line, b"abcdef", 3);
        assert_eq!(String::from_utf8(line).unwrap(), r#""abc\u2026""#);
    }

    #[test]
    fn the_clock_shows_milliseconds_of_each_second() {
        let (mut clock, mut line) = (Clock::default(), Vec::new());
        for ms in [1_753_180_200_007, 1_753_180_200_999, 1_753_180_201_000] {
            clock.write(&mut line, UNIX_EPOCH + std::time::Duration::from_millis(ms));
            line.push(b' ');
        }
        let expected = "2025-07-22T10:30:00.007Z 2025-07-22T10:30:00.999Z 2025-07-22T10:30:01.000Z ";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }
}
