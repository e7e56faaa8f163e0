//! The build log: lines masked, bounded, and written to the record before anybody sees them.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::mask::Masker;
use crate::config;
use crate::domain::time::now_ms;
use crate::store::deployments::DeploymentRow;
use crate::store::journal::Hold;
use crate::store::{Store, StoreError};

/// Newest lines shown as evidence of a failure that nothing else explains.
const EVIDENCE_BYTES: usize = 2_048;
/// Between two tries while the database is away.
const AWAY: Duration = Duration::from_millis(500);
/// A chunk is written when it has grown to this, or when its time has come.
const CHUNK_BYTES: usize = 16 * 1024;

/// The log of one attempt.
pub struct BuildLog<'a> {
    store: &'a Store,
    hold: Hold,
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
    /// The newest masked output of the command that runs, for diagnosis.
    tail: String,
    tail_limit: usize,
    /// Beginnings of a line that somebody waits for, and whether one came.
    watched: &'static [&'static str],
    saw: bool,
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
            hold: Hold::of(row),
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
            tail: String::new(),
            tail_limit: settings.diagnosis_bytes,
            watched: &[],
            saw: false,
        })
    }

    /// From now on, notices a line that begins with one of these, spaces aside.
    pub fn watch_for(&mut self, beginnings: &'static [&'static str]) {
        self.watched = beginnings;
        self.saw = false;
    }

    /// Whether the line that is watched for came.
    pub fn saw(&self) -> bool {
        self.saw
    }

    /// For words about the build that are shown elsewhere than in its log.
    pub fn mask(&self, text: &str) -> String {
        self.masker.mask(text)
    }

    /// Takes a line of our own. It is written with the beginning of the next command, beside it: the first
    /// durable write after an install waits for all that the install wrote.
    pub fn say(&mut self, line: &str) {
        self.end_partial();
        self.take_line(line);
    }

    /// Takes a command's output until the sender is gone; what came last is written like a line of ours.
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
        Ok(())
    }

    /// Another command begins: what earlier ones printed explains nothing of it.
    pub fn begin_command(&mut self) {
        self.end_partial();
        self.tail.clear();
    }

    /// The newest output of the command, masked.
    pub fn tail(&self) -> &str {
        &self.tail
    }

    /// The newest lines, masked.
    pub fn evidence(&self) -> &str {
        let from = self.tail.len().saturating_sub(EVIDENCE_BYTES);
        self.tail[self.tail.ceil_char_boundary(from)..].trim()
    }

    fn take(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            // A secret that straddles the limit must be seen whole to be masked, so the line is cut later.
            let held = self.line_limit.saturating_add(self.masker.longest());
            let room = held.saturating_sub(self.partial.len());
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
        // First plain, then masked: colours within a secret must not hide it.
        let mut masked = self.masker.mask(&plain(line));
        if masked.len() > self.line_limit {
            masked.truncate(masked.floor_char_boundary(self.line_limit));
            masked.push_str(" ... the line is cut here");
        }
        let said = masked.trim_start();
        self.saw |= self.watched.iter().any(|beginning| said.starts_with(beginning));
        masked.push('\n');
        self.tail.push_str(&masked);
        if self.tail.len() > 2 * self.tail_limit {
            let from = self.tail.ceil_char_boundary(self.tail.len() - self.tail_limit);
            self.tail.drain(..from);
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

    /// Writes what is not written yet.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.pending);
        self.written += text.len();
        self.seq += 1;
        let mut again = false;
        loop {
            match self.store.log_append(&self.hold, self.seq, self.attempt, now_ms(), text.clone()).await {
                // The build waits meanwhile; the heartbeat ends it when the lease is lost.
                Err(e) if e.may_pass() => {
                    tracing::warn!(deployment.id = %self.hold.deployment, error = %e, "a piece of the build log waits");
                    tokio::time::sleep(AWAY).await;
                    again = true;
                }
                // The try before was written after all.
                Err(StoreError::Duplicate(_)) if again => return Ok(()),
                other => return other,
            }
        }
    }
}

/// What a terminal would act on has no place in a log that people read in one.
fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            // A control sequence: `ESC [`, parameters, one final letter.
            '\u{1b}' if chars.as_str().starts_with('[') => {
                chars.next();
                chars.by_ref().find(|c| ('\u{40}'..='\u{7e}').contains(c));
            }
            c if c == '\t' || !c.is_control() => plain.push(c),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_finds_nothing_to_act_on() {
        assert_eq!(plain("\u{1b}[1;32mok\u{1b}[0m\tx\r"), "ok\tx");
        assert_eq!(plain("s3\u{1b}[31mcr\u{8}et\u{1b}]0;title\u{7}"), "s3cret]0;title");
        assert_eq!(plain("\u{1b}[31"), "");
    }
}
