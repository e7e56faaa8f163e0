//! Dead letters: jobs that nobody will try again by themselves, kept with all that a redrive needs.
//!
//! A letter is confirmed before its original is terminated; that order is the caller's, the
//! confirmation is ours. It never decides which class a failure has.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Queue;
use super::error::QueueError;
use super::message::WireId;
use super::publisher::StreamSequence;
use super::streams::DEAD_LETTERS;

const WRITE: &str = "write a dead letter";
/// A longer cause is cut, so that the letter stays within the margin that the queue leaves for it.
const MAX_CAUSE_BYTES: usize = 64 * 1024;

pub use crate::domain::DeadLetterClass;

#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Names the event that made it, for example `<deploymentId>.<redrives>`: written twice, kept once.
    pub id: String,
    pub class: DeadLetterClass,
    /// `None` when the organization isn't known for sure.
    pub org_id: Option<WireId>,
    pub original: Bytes,
    pub cause: Value,
    pub attempts: u32,
    pub failed_step: Option<String>,
    pub first_failed_at: OffsetDateTime,
    pub last_failed_at: OffsetDateTime,
}

impl DeadLetter {
    fn subject(&self) -> String {
        let org = self.org_id.as_ref().map_or("_", WireId::as_str);
        format!("{DEAD_LETTERS}.{}.{org}", self.class)
    }

    fn body(self) -> Value {
        let mut body = Map::new();
        body.insert("version".into(), json!(1));
        body.insert("class".into(), json!(self.class));
        body.insert("orgId".into(), json!(self.org_id));
        // A message that is an object can be read at the desk; anything else is kept byte by byte.
        match serde_json::from_slice::<Map<String, Value>>(&self.original) {
            Ok(original) => body.insert("original".into(), Value::Object(original)),
            Err(_) => body.insert("originalBase64".into(), STANDARD.encode(&self.original).into()),
        };
        body.insert("cause".into(), bounded(self.cause));
        body.insert("attempts".into(), json!(self.attempts));
        body.insert("failedStep".into(), json!(self.failed_step));
        body.insert("firstFailedAt".into(), time_text(self.first_failed_at));
        body.insert("lastFailedAt".into(), time_text(self.last_failed_at));
        Value::Object(body)
    }
}

impl Queue {
    /// Writes a dead letter and waits until the broker has stored it.
    ///
    /// # Errors
    /// `Unavailable`, `Missing`: the original must stay where it is, and this be tried again.
    /// `TooLarge` only where the broker's `max_payload` was lowered after the job came in.
    pub async fn dead_letter(&self, letter: DeadLetter) -> Result<StreamSequence, QueueError> {
        let (subject, id, class) = (letter.subject(), letter.id.clone(), letter.class);
        let body =
            serde_json::to_vec(&letter.body()).map_err(|error| QueueError::unavailable(WRITE, error))?;
        let sequence = self.store(WRITE, subject, &id, body.into()).await?;
        tracing::warn!(dead_letter.class = %class, dead_letter.sequence = sequence.0, "dead letter written");
        Ok(sequence)
    }
}

fn bounded(cause: Value) -> Value {
    let text = cause.to_string();
    if text.len() <= MAX_CAUSE_BYTES {
        return cause;
    }
    // Half, because quoting the text again may double it.
    let mut end = MAX_CAUSE_BYTES / 2;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    json!({ "truncated": true, "sizeBytes": text.len(), "head": &text[..end] })
}

fn time_text(time: OffsetDateTime) -> Value {
    time.format(&Rfc3339).map_or(Value::Null, Value::String)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(original: &'static [u8], cause: Value) -> DeadLetter {
        DeadLetter {
            id: "x.1".into(),
            class: DeadLetterClass::Invalid,
            org_id: None,
            original: Bytes::from_static(original),
            cause,
            attempts: 0,
            failed_step: None,
            first_failed_at: OffsetDateTime::UNIX_EPOCH,
            last_failed_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_original_is_readable_where_it_is_an_object_and_exact_where_not() {
        assert_eq!(letter(b"{\"a\":1}", Value::Null).body()["original"], json!({"a": 1}));
        let raw = letter(b"\xff[", Value::Null);
        assert_eq!(raw.subject(), "deployment.dlq.invalid._");
        let body = raw.body();
        assert_eq!(STANDARD.decode(body["originalBase64"].as_str().unwrap()).unwrap(), b"\xff[");
        assert_eq!(body["firstFailedAt"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_huge_cause_is_cut_and_says_so() {
        let body = letter(b"{}", Value::String("\u{1}ä".repeat(100_000))).body();
        assert_eq!(body["cause"]["truncated"], true);
        assert!(body.to_string().len() < 2 * MAX_CAUSE_BYTES);
    }
}
