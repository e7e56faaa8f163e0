//! Pages of a list: an opaque cursor and a bounded length.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::http::fields::Problems;

const DEFAULT_LENGTH: u64 = 20;
const MOST: u64 = 100;

/// `limit` as asked, 1 to 100.
pub fn length(limit: Option<&str>, problems: &mut Problems) -> u64 {
    match limit.map(str::parse::<u64>) {
        None => DEFAULT_LENGTH,
        Some(Ok(n)) if (1..=MOST).contains(&n) => n,
        Some(_) => {
            problems.add("limit", format!("must be a whole number from 1 to {MOST}"));
            DEFAULT_LENGTH
        }
    }
}

pub fn cursor(of: &str) -> String {
    URL_SAFE_NO_PAD.encode(of)
}

/// What a cursor of ours holds.
pub fn read(cursor: &str, problems: &mut Problems) -> Option<String> {
    let read = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if read.is_none() {
        problems.add("cursor", "must be the nextCursor of an earlier page");
    }
    read
}
