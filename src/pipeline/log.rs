//! The build log: lines masked, bounded, and written to the record before anybody sees them.

use std::time::Duration;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::mpsc;

use crate::config;
use crate::domain::time::now_ms;
use crate::store::deployments::DeploymentRow;
use crate::store::{Store, StoreError};

/// Values shorter than this are words, not secrets; masking them would garble the log.
const MIN_SECRET_BYTES: usize = 6;
/// Values that say nothing about anybody.
const PLAIN_WORDS: &[&str] = &["production", "development", "preview", "staging"];
/// What URL encoders leave as it is differs: nothing, RFC 3986, `encodeURIComponent`, HTML forms.
const ESCAPED: [&AsciiSet; 4] = [
    NON_ALPHANUMERIC,
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~'),
    &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'!')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')'),
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*'),
];
/// What stands in the log for a secret.
const MASK: &str = "***";
/// Newest lines kept as evidence of a failure.
const EVIDENCE_BYTES: usize = 2_048;
/// A chunk is written when it has grown to this, or when its time has come.
const CHUNK_BYTES: usize = 16 * 1024;

/// Replaces every known secret, also in base64 and percent-encoded form.
#[derive(Debug)]
pub struct Masker(Option<AhoCorasick>);

impl Masker {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            // Log lines are masked one by one, so a value of several lines is masked line by line.
            for part in std::iter::once(secret).chain(secret.lines()) {
                let part = part.trim();
                if part.len() >= MIN_SECRET_BYTES && !PLAIN_WORDS.contains(&part) {
                    patterns.push(part.to_owned());
                    for engine in [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD] {
                        patterns.push(engine.encode(part));
                    }
                    for set in ESCAPED {
                        let escaped = utf8_percent_encode(part, set).to_string();
                        patterns.push(escaped.replace("%20", "+"));
                        patterns.push(in_lower_case(&escaped));
                        patterns.push(escaped);
                    }
                    // As a string in JSON, without its quotes.
                    let quoted = serde_json::Value::from(part).to_string();
                    patterns.push(quoted.trim_matches('"').to_owned());
                }
            }
        }
        patterns.sort();
        patterns.dedup();
        if patterns.is_empty() {
            return Self(None);
        }
        // Too many patterns to build from can't come: variables are bounded in count and size.
        Self(AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns).ok())
    }

    pub fn mask(&self, text: &str) -> String {
        match &self.0 {
            None => text.to_owned(),
            Some(searcher) => {
                let mut masked = String::with_capacity(text.len());
                searcher.replace_all_with(text, &mut masked, |_, _, out| {
                    out.push_str(MASK);
                    true
                });
                masked
            }
        }
    }
}

/// The same escapes with small hex digits; what is not escaped stays.
fn in_lower_case(escaped: &str) -> String {
    let mut parts = escaped.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // A part begins with the two digits of its escape.
        let (digits, rest) = part.split_at(part.len().min(2));
        text.push('%');
        text.push_str(&digits.to_ascii_lowercase());
        text.push_str(rest);
    }
    text
}

/// The log of one attempt.
pub struct BuildLog<'a> {
    store: &'a Store,
    deployment: &'a str,
    attempt: i32,
    masker: Masker,
    limit: usize,
    line_limit: usize,
    flush_every: Duration,
    seq: i64,
    written: usize,
    cut: bool,
    /// Bytes of a line that has not ended yet.
    partial: Vec<u8>,
    /// Masked lines that are not written yet.
    pending: String,
    evidence: String,
}

impl<'a> BuildLog<'a> {
    pub async fn open(
        store: &'a Store,
        row: &'a DeploymentRow,
        settings: &config::Pipeline,
        masker: Masker,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            store,
            deployment: &row.id,
            attempt: row.attempt,
            masker,
            limit: settings.log_bytes,
            line_limit: settings.log_line_bytes,
            flush_every: Duration::from_millis(settings.log_flush_ms),
            seq: store.log_last_seq(&row.id).await?,
            written: 0,
            cut: false,
            partial: Vec::new(),
            pending: String::new(),
            evidence: String::new(),
        })
    }

    /// Writes a line of our own.
    pub async fn say(&mut self, line: &str) -> Result<(), StoreError> {
        self.end_partial();
        self.take_line(line);
        self.flush().await
    }

    /// Takes a command's output until the sender is gone.
    pub async fn drain(&mut self, mut output: mpsc::Receiver<Bytes>) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(self.flush_every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                chunk = output.recv() => match chunk {
                    Some(chunk) => {
                        self.take(&chunk);
                        if self.pending.len() >= CHUNK_BYTES {
                            self.flush().await?;
                        }
                    }
                    None => break,
                },
                _ = tick.tick() => self.flush().await?,
            }
        }
        self.end_partial();
        self.flush().await
    }

    /// The newest lines, masked.
    pub fn evidence(&self) -> &str {
        self.evidence.trim_end()
    }

    fn take(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            let room = self.line_limit.saturating_sub(self.partial.len());
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.end_partial();
            }
        }
    }

    fn end_partial(&mut self) {
        if !self.partial.is_empty() {
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.partial)).into_owned();
            self.take_line(&line);
        }
    }

    fn take_line(&mut self, line: &str) {
        let mut masked = self.masker.mask(line.trim_end_matches(['\n', '\r']));
        // What a terminal would act on has no place in a log that people read in one.
        masked.retain(|c| c == '\t' || !c.is_control());
        masked.push('\n');
        self.evidence.push_str(&masked);
        if self.evidence.len() > 2 * EVIDENCE_BYTES {
            let mut from = self.evidence.len() - EVIDENCE_BYTES;
            while !self.evidence.is_char_boundary(from) {
                from += 1;
            }
            self.evidence.drain(..from);
        }
        if self.cut {
            return;
        }
        if self.written + self.pending.len() + masked.len() > self.limit {
            self.cut = true;
            self.pending.push_str(&format!("... the log is cut here: limit {} bytes\n", self.limit));
            return;
        }
        self.pending.push_str(&masked);
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.pending);
        self.written += text.len();
        self.seq += 1;
        self.store.log_append(self.deployment, self.seq, self.attempt, now_ms(), text).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_form_and_words_are_left() {
        let masker = Masker::new(["s3cr3t/key+1", "production", "1", "line-one-secret\nline-two-secret"]);
        let shown =
            masker.mask("a s3cr3t/key+1 b czNjcjN0L2tleSsx c s3cr3t%2Fkey%2B1 production 1 line-two-secret");
        assert_eq!(shown, "a *** b *** c *** production 1 ***");
    }

    #[test]
    fn a_secret_is_masked_however_urls_and_json_write_it() {
        let masker = Masker::new(["p-a ss/w'ord\"\\~"]);
        for written in [
            r#"p-a%20ss%2Fw'ord%22%5C~"#,
            "p-a%20ss%2Fw%27ord%22%5C~",
            "p-a+ss%2Fw%27ord%22%5C%7E",
            "p%2Da%20ss%2Fw%27ord%22%5C%7E",
            "p-a%20ss%2fw%27ord%22%5c~",
            r#"p-a ss/w'ord\"\\~"#,
        ] {
            assert_eq!(masker.mask(&format!("<{written}>")), "<***>", "{written}");
        }
    }

    #[test]
    fn a_longer_secret_is_masked_whole_where_a_shorter_one_is_its_beginning() {
        let masker = Masker::new(["abcdef", "abcdefghijkl"]);
        assert_eq!(masker.mask("xabcdefghijklx"), "x***x");
    }
}
