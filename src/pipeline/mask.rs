//! Hides secrets in text, in every form in which tools usually print them. Knows values only, never
//! the names of variables, and keeps no text.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Values shorter than this are words, not secrets; masking them would garble the log.
const MIN_SECRET_BYTES: usize = 6;
/// Values that say nothing about anybody.
const PLAIN_WORDS: &[&str] = &["production", "development", "preview", "staging"];
/// What stands in the text for a secret.
const MASK: &str = "***";
/// What JavaScript's `encodeURIComponent` leaves as it is.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');
/// What RFC 3986 calls unreserved, and what HTML forms leave as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');
/// Where `base64` programs break their lines; log lines are masked one by one.
const BASE64_COLUMNS: [usize; 2] = [64, 76];

/// Replaces every known secret.
#[derive(Debug)]
pub struct Masker {
    /// `None` without secrets. Within it `None` where they are too many to search for, which bounded
    /// variables can't be: then nothing is shown.
    searcher: Option<Option<AhoCorasick>>,
    longest: usize,
}

impl Masker {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            // A value of several lines is shown line by line, and encoded as a whole.
            for part in std::iter::once(secret).chain(secret.lines()) {
                let part = part.trim();
                if part.len() >= MIN_SECRET_BYTES && !PLAIN_WORDS.contains(&part) {
                    forms(part, &mut patterns);
                }
            }
        }
        patterns.retain(|p| p.len() >= MIN_SECRET_BYTES);
        patterns.sort();
        patterns.dedup();
        let longest = patterns.iter().map(String::len).max().unwrap_or(0);
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
        let searcher = (!patterns.is_empty()).then(build);
        Self { searcher: searcher.map(Result::ok), longest }
    }

    /// Bytes of the longest form of a secret.
    pub fn longest(&self) -> usize {
        self.longest
    }

    pub fn mask(&self, text: &str) -> String {
        let searcher = match &self.searcher {
            None => return text.to_owned(),
            Some(None) => return MASK.to_owned(),
            Some(Some(searcher)) => searcher,
        };
        let mut masked = String::with_capacity(text.len());
        searcher.replace_all_with(text, &mut masked, |_, _, out| {
            out.push_str(MASK);
            true
        });
        masked
    }
}

fn forms(secret: &str, patterns: &mut Vec<String>) {
    patterns.push(secret.to_owned());
    patterns.push(quoted(secret));
    // JSON within JSON, as tools print a request's body.
    patterns.push(quoted(&quoted(secret)));
    patterns
        .push(secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;"));
    patterns.push(hex::encode(secret));
    patterns.push(hex::encode_upper(secret));
    for set in [NON_ALPHANUMERIC, COMPONENT, UNRESERVED, FORM] {
        let escaped = utf8_percent_encode(secret, set).to_string();
        patterns.push(lower_escapes(&escaped));
        // As forms are sent.
        patterns.push(escaped.replace("%20", "+"));
        patterns.push(escaped);
    }
    base64_forms(secret, patterns);
}

/// As a JSON string, without its quotes.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json[1..json.len() - 1].to_owned()
}

/// `%2F` as `%2f`; letters outside of an escape keep their case.
fn lower_escapes(escaped: &str) -> String {
    let mut left = 0_u8;
    let lower = |c: char| {
        let shown = if left > 0 { c.to_ascii_lowercase() } else { c };
        left = if c == '%' { 2 } else { left.saturating_sub(1) };
        shown
    };
    escaped.chars().map(lower).collect()
}

/// Alone, and as a part of something longer such as `user:secret`: three bytes are four letters, so
/// there are three ways in which a secret can lie in them. Letters that also carry a neighbour's bits
/// are left out.
fn base64_forms(secret: &str, patterns: &mut Vec<String>) {
    for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
        for before in 0..3 {
            let padded = [&vec![0; before], secret.as_bytes()].concat();
            let encoded = engine.encode(&padded);
            let from = [0, 2, 3][before];
            let to = encoded.len() - usize::from(padded.len() % 3 != 0);
            patterns.extend(encoded.get(from..to).map(ToOwned::to_owned));
        }
        let alone = engine.encode(secret);
        for columns in BASE64_COLUMNS {
            let mut rest = alone.as_str();
            while rest.len() > columns {
                let (line, next) = rest.split_at(columns);
                patterns.push(line.to_owned());
                rest = next;
            }
            patterns.push(rest.to_owned());
        }
        // With its padding, so that no remainder stands behind the mask.
        let padding = "=".repeat((4 - alone.len() % 4) % 4);
        patterns.push(format!("{alone}{padding}"));
        patterns.push(alone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    #[test]
    fn a_secret_is_masked_however_urls_and_json_write_it() {
        let masker = Masker::new(["p-a ss/w'ord\"\\~"]);
        for written in [
            r#"p-a%20ss%2Fw'ord%22%5C~"#,
            "p-a%20ss%2Fw%27ord%22%5C~",
            "p-a+ss%2Fw%27ord%22%5C%7E",
            "p%2Da%20ss%2Fw%27ord%22%5C%7E",
            "p-a%20ss%2fw'ord%22%5c~",
            r#"p-a ss/w'ord\"\\~"#,
        ] {
            assert_eq!(masker.mask(&format!("<{written}>")), "<***>", "{written}");
        }
    }

    #[test]
    fn secrets_are_masked_in_every_form_and_words_are_left() {
        let masker = Masker::new(["s3cr3t/key+1", "production", "1", "line-one-secret\nline-two-secret"]);
        let shown =
            masker.mask("a s3cr3t/key+1 b czNjcjN0L2tleSsx c s3cr3t%2Fkey%2B1 production 1 line-two-secret");
        assert_eq!(shown, "a *** b *** c *** production 1 ***");
    }

    #[test]
    fn a_longer_secret_is_masked_whole_where_a_shorter_one_is_its_beginning() {
        let masker = Masker::new(["abcdef", "abcdefghijkl"]);
        assert_eq!(masker.mask("xabcdefghijklx"), "x***x");
    }

    #[test]
    fn what_languages_and_tools_make_of_a_secret_is_masked() {
        let secret = "p@ss-w0rd/\"Q\"+ü <1>";
        let masker = Masker::new([secret]);
        for form in [
            quoted(secret),
            quoted(&quoted(secret)),
            "p%40ss-w0rd%2F%22Q%22%2B%C3%BC%20%3C1%3E".into(),
            "p%40ss-w0rd%2f%22Q%22%2b%c3%bc%20%3c1%3e".into(),
            "p%40ss-w0rd%2F%22Q%22%2B%C3%BC+%3C1%3E".into(),
            "p@ss-w0rd/&quot;Q&quot;+ü &lt;1&gt;".into(),
            hex::encode(secret),
            hex::encode_upper(secret),
            STANDARD.encode(secret),
            URL_SAFE.encode(secret),
        ] {
            assert_eq!(masker.mask(&format!("<{form}>")), "<***>", "{form}");
        }
    }

    #[test]
    fn a_secret_within_longer_base64_is_masked_wherever_it_lies() {
        let secret = "correct-horse-battery";
        let masker = Masker::new([secret]);
        for before in ["", "u", "us", "use", "user:"] {
            for after in ["", "x", "xy", "xyz"] {
                let shown = masker.mask(&STANDARD.encode(format!("{before}{secret}{after}")));
                // At most the letters that it shares with its neighbours are left of it.
                assert!(shown.contains(MASK), "{before} {after}: {shown}");
                assert!(shown.len() <= before.len() * 2 + after.len() * 2 + MASK.len() + 8, "{shown}");
            }
        }
    }

    #[test]
    fn broken_lines_of_base64_are_masked_too() {
        let secret = "0123456789abcdef".repeat(9);
        let masker = Masker::new([secret.as_str()]);
        let encoded = STANDARD.encode(&secret);
        for columns in BASE64_COLUMNS {
            let mut rest = encoded.as_str();
            while !rest.is_empty() {
                let (line, next) = rest.split_at(columns.min(rest.len()));
                assert_eq!(masker.mask(line), MASK, "{line}");
                rest = next;
            }
        }
    }

    #[test]
    fn the_largest_set_of_variables_is_masked_with_little_memory_and_time() {
        // 100 values, 64 KiB in all: what a request may send.
        let secrets: Vec<String> = (0..100_u64)
            .map(|i| {
                (0..40_u64)
                    .map(|j| format!("{:016x}", (i * 41 + j).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
                    .collect()
            })
            .collect();
        let masker = Masker::new(secrets.iter().map(String::as_str));
        assert_eq!(masker.mask(&secrets[99]), MASK);
        let memory = masker.searcher.flatten().map_or(0, |s| s.memory_usage());
        assert!(memory < 64 << 20, "{memory}");
    }
}
