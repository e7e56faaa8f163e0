//! Owns `_headers`: reading its blocks, and what they do to the headers of an answer.
//! Never touches what the platform must be able to rely on: framing, validators, its own names.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::HEADERS_FILE;
use super::pattern::{Names, Pattern, Template};
use super::report::{Problem, ProblemKind, Report};
use super::text;

/// Characters of a line and rules of a file: Cloudflare's figures.
const MAX_LINE_CHARS: usize = 2_000;
const MAX_RULES: usize = 100;
/// Headers of one rule; more than any answer has a use for.
const MAX_CHANGES: usize = 50;
/// Bytes that all rules together add to one answer; what comes after is left out. Clients and the proxies
/// before us refuse header blocks not much larger.
const MAX_ADDED_BYTES: usize = 16 * 1024;
/// Lines that all rules together set in one answer, for the same reason.
const MAX_ADDED_LINES: usize = 100;

/// What the platform decides: how an answer is framed and encoded, how it is validated, and who answered.
const OWNED: [HeaderName; 24] = [
    header::ACCEPT_RANGES,
    header::ALT_SVC,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::FORWARDED,
    HeaderName::from_static("keep-alive"),
    header::LAST_MODIFIED,
    header::LOCATION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::SERVER,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VIA,
    header::WWW_AUTHENTICATE,
    header::X_CONTENT_TYPE_OPTIONS,
    HeaderName::from_static("x-request-id"),
];
const OWNED_PREFIX: &str = "x-libra-";

#[derive(Debug, Default)]
pub(super) struct Headers {
    /// In the file's order.
    rules: Box<[HeaderRule]>,
}

#[derive(Debug)]
struct HeaderRule {
    path: Pattern,
    changes: Box<[Change]>,
}

#[derive(Debug)]
enum Change {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    /// With captures of the path in it.
    SetFrom(HeaderName, Template),
}

/// A rule that is being read.
struct Open {
    line: u32,
    path: Pattern,
    names: Names,
    changes: Vec<Change>,
    /// Whether a line stood beneath the path, usable or not.
    has_lines: bool,
}

impl Headers {
    pub(super) fn parse(bytes: &[u8], report: &mut Report) -> Headers {
        let lines = text::lines(HEADERS_FILE, bytes, MAX_LINE_CHARS, report);
        let mut rules = Vec::new();
        // After a path that can't be used there is none, and its headers go with it.
        let (mut open, mut has_path): (Option<Open>, bool) = (None, false);
        for (line, text) in lines {
            let is_path =
                text.starts_with('/') || text.starts_with("https://") || text.starts_with("http://");
            let read = if is_path {
                close(open.take(), &mut rules, report);
                has_path = true;
                begin(line, text, rules.len()).map(|begun| open = Some(begun))
            } else if let Some(rule) = &mut open {
                rule.has_lines = true;
                change(text, &rule.names, rule.changes.len()).map(|change| rule.changes.push(change))
            } else if has_path {
                Ok(())
            } else {
                Err(ProblemKind::NoPath)
            };
            if let Err(kind) = read {
                report.add(Problem { file: HEADERS_FILE, line, kind });
            }
        }
        close(open, &mut rules, report);
        Headers { rules: rules.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// In the file's order: the first line that sets a name replaces what the answer has, further ones add to it.
    /// `path` in the spelling of [`text::path`].
    pub(super) fn apply(&self, path: &str, headers: &mut HeaderMap) {
        let mut set: Vec<&HeaderName> = Vec::new();
        let (mut left, mut lines) = (MAX_ADDED_BYTES, MAX_ADDED_LINES);
        for rule in &self.rules {
            let Some(captures) = rule.path.captures(path) else { continue };
            for change in &rule.changes {
                let (name, value) = match change {
                    Change::Remove(name) => {
                        headers.remove(name);
                        continue;
                    }
                    Change::Set(name, value) => (name, Some(value.clone())),
                    Change::SetFrom(name, template) => {
                        let filled = template.fill(&captures, left);
                        (name, filled.and_then(|text| HeaderValue::try_from(text).ok()))
                    }
                };
                // Counted with what HTTP/1 writes around a name and a value.
                let cost = |value: &HeaderValue| name.as_str().len() + value.len() + 4;
                let Some(value) = value.filter(|value| lines > 0 && cost(value) <= left) else { continue };
                left -= cost(&value);
                lines -= 1;
                // An answer that varies by encoding must go on saying so.
                if *name == header::VARY || set.contains(&name) {
                    headers.append(name, value);
                } else {
                    headers.insert(name, value);
                    set.push(name);
                }
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let of_change = |change: &Change| match change {
            Change::Remove(name) => name.as_str().len(),
            Change::Set(name, value) => name.as_str().len() + value.len(),
            Change::SetFrom(name, template) => name.as_str().len() + template.heap_bytes(),
        };
        let of_rule = |rule: &HeaderRule| {
            rule.path.heap_bytes()
                + size_of_val(&*rule.changes)
                + rule.changes.iter().map(of_change).sum::<usize>()
        };
        size_of_val(&*self.rules) + self.rules.iter().map(of_rule).sum::<usize>()
    }
}

fn close(open: Option<Open>, rules: &mut Vec<HeaderRule>, report: &mut Report) {
    let Some(Open { line, path, changes, has_lines, .. }) = open else { return };
    if !has_lines {
        report.add(Problem { file: HEADERS_FILE, line, kind: ProblemKind::NoHeaders });
    } else if !changes.is_empty() {
        rules.push(HeaderRule { path, changes: changes.into() });
    }
}

fn begin(line: u32, text: &str, known: usize) -> Result<Open, ProblemKind> {
    if text.contains("://") {
        return Err(ProblemKind::Condition);
    }
    if known == MAX_RULES {
        return Err(ProblemKind::TooManyRules { limit: MAX_RULES });
    }
    let (path, names) = Pattern::parse(text)?;
    Ok(Open { line, path, names, changes: Vec::new(), has_lines: false })
}

fn change(text: &str, names: &Names, known: usize) -> Result<Change, ProblemKind> {
    if known == MAX_CHANGES {
        return Err(ProblemKind::TooManyHeaders { limit: MAX_CHANGES });
    }
    if let Some(name) = text.strip_prefix('!') {
        let name = own(name.trim())?;
        // Caches would mix up what is sent compressed and what is not.
        return if name == header::VARY { Err(owned(&name)) } else { Ok(Change::Remove(name)) };
    }
    let (name, value) = text.split_once(':').ok_or(ProblemKind::HeaderForm)?;
    let (name, value) = (own(name.trim())?, value.trim());
    // The crate lets other bytes pass, of which clients make different texts.
    let fixed = HeaderValue::from_str(value).ok().filter(|_| value.is_ascii() && !value.is_empty());
    let fixed = fixed.ok_or(ProblemKind::HeaderValue)?;
    let template = Template::parse(value, names, |text| text.to_owned());
    Ok(if template.fixed().is_some() { Change::Set(name, fixed) } else { Change::SetFrom(name, template) })
}

fn own(name: &str) -> Result<HeaderName, ProblemKind> {
    let name = HeaderName::try_from(name).map_err(|_| ProblemKind::HeaderName)?;
    let is_owned = OWNED.contains(&name) || name.as_str().starts_with(OWNED_PREFIX);
    if is_owned { Err(owned(&name)) } else { Ok(name) }
}

fn owned(name: &HeaderName) -> ProblemKind {
    // The name is one of ours, so this repeats no text of the file's own making.
    let name = if name.as_str().starts_with(OWNED_PREFIX) { "x-libra-*" } else { name.as_str() };
    ProblemKind::Owned { name: name.to_owned() }
}
