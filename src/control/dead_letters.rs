//! The dead-letter desk: what is dead and why, driving it anew one by one or as a group with a rate, and burying.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Control, ControlError};
use crate::domain::{Cause, DeadLetterState, Principal, RedriveFrom};
use crate::store::attempts::AttemptRow;
use crate::store::dead_letters::{
    self as stored, Buried, DeadLetterRow, LetterFilter, LetterGroup, LetterScope,
};
use crate::store::deployments::DeploymentRow;
use crate::store::redrives::{NewRedrive, Redriven};

/// Letters that one order drives anew at most.
pub const MOST_AT_ONCE: u64 = 1_000;
/// Attempts shown with a letter.
const HISTORY: u64 = 100;
/// Chunks of the build log that are read for its end, and the characters of it that are shown.
const LOG_CHUNKS: u64 = 8;
const LOG_CHARACTERS: usize = 4_096;

/// A message that was refused before a deployment existed.
#[derive(Debug)]
pub struct RefusedMessage {
    /// The id of the broker's letter.
    pub source_key: String,
    pub subject_org: String,
    pub cause: Cause,
    pub original: Bytes,
    pub sequence: u64,
}

/// A letter with all that is known of it.
#[derive(Debug)]
pub struct LetterDetail {
    pub letter: DeadLetterRow,
    /// Oldest first.
    pub history: Vec<AttemptRow>,
    pub log_tail: String,
}

/// How a letter or a group of them is driven anew.
#[derive(Debug, Clone)]
pub struct RedriveOrder {
    pub from: RedriveFrom,
    /// Settings of the build to be changed.
    pub set: Map<String, Value>,
}

/// What driving a group anew came to.
#[derive(Debug)]
pub struct GroupRedriven {
    pub redriven: u64,
    pub skipped: Vec<Skipped>,
    /// When the last one is due, in ms since 1970.
    pub last_due_at: Option<i64>,
}

/// A letter of a group that was left as it is.
#[derive(Debug)]
pub struct Skipped {
    pub id: String,
    pub why: &'static str,
}

impl Control {
    /// Letters that belong to no organization are operators' alone.
    #[must_use]
    pub fn letter_scope(&self, who: &Principal) -> LetterScope {
        LetterScope { org: who.org_id.to_string(), nobodys: who.admin }
    }

    /// Keeps a refused message at the desk, within bounds; the broker has all of it.
    ///
    /// # Errors
    /// If the database can't take it.
    pub async fn dead_letter_refused(&self, message: &RefusedMessage) -> Result<(), ControlError> {
        let settings = &self.settings.dead_letters;
        let kept = stored::RefusedMessage {
            source_key: message.source_key.clone(),
            subject_org: message.subject_org.clone(),
            cause: message.cause.clone(),
            original: readable(&message.original, settings.original_bytes),
            sequence: message.sequence,
        };
        Ok(self.store.dead_letter_refused(&kept, settings.invalid_per_organization).await?)
    }

    /// # Errors
    /// If the database can't be read.
    pub async fn dead_letter_list(
        &self,
        who: &Principal,
        filter: &LetterFilter,
    ) -> Result<Vec<DeadLetterRow>, ControlError> {
        Ok(self.store.dead_letter_list(&self.letter_scope(who), filter).await?)
    }

    /// # Errors
    /// If the database can't be read.
    pub async fn dead_letter_groups(
        &self,
        who: &Principal,
        filter: &LetterFilter,
    ) -> Result<Vec<LetterGroup>, ControlError> {
        Ok(self.store.dead_letter_groups(&self.letter_scope(who), filter).await?)
    }

    /// # Errors
    /// [`ControlError::DeadLetterNotFound`] also for another organization's.
    pub async fn dead_letter_get(&self, who: &Principal, id: &str) -> Result<LetterDetail, ControlError> {
        let letter = self.store.dead_letter_get(&self.letter_scope(who), id).await?;
        let letter = letter.ok_or(ControlError::DeadLetterNotFound)?;
        let Some(deployment) = &letter.deployment_id else {
            return Ok(LetterDetail { letter, history: Vec::new(), log_tail: String::new() });
        };
        let history = self.store.attempt_list(deployment, HISTORY).await?;
        let last = self.store.log_last_seq(deployment).await?;
        let chunks = self
            .store
            .log_list(deployment, last - i64::try_from(LOG_CHUNKS).unwrap_or(0), LOG_CHUNKS)
            .await?;
        let log: String = chunks.into_iter().map(|chunk| chunk.text).collect();
        Ok(LetterDetail { letter, history, log_tail: tail(&log).to_owned() })
    }

    /// Drives the deployment of a letter anew.
    ///
    /// # Errors
    /// [`ControlError::Conflict`] says why it can't be.
    pub async fn dead_letter_redrive(
        &self,
        who: &Principal,
        id: &str,
        order: RedriveOrder,
    ) -> Result<DeploymentRow, ControlError> {
        let redriven = self.redrive(who, id, order, 0).await?;
        match redriven {
            Redriven::Done(row) => {
                self.doorbell.notify_one();
                Ok(*row)
            }
            Redriven::Unknown => Err(ControlError::DeadLetterNotFound),
            Redriven::QuotaExceeded { limit } => Err(ControlError::QuotaExceeded { limit }),
            refused => Err(ControlError::Conflict(words_for(&refused).1)),
        }
    }

    /// Drives the deployments of all open letters that match anew, the oldest first, `per_second` of them.
    ///
    /// # Errors
    /// If the project is not the organization's, or the database can't take it; what was driven anew until then is.
    pub async fn dead_letter_redrive_group(
        &self,
        who: &Principal,
        filter: LetterFilter,
        per_second: f64,
        from: RedriveFrom,
    ) -> Result<GroupRedriven, ControlError> {
        if let Some(project) = &filter.project {
            self.project_get(&who.scope(), project).await?;
        }
        let filter =
            LetterFilter { state: Some(DeadLetterState::Open), before: None, limit: MOST_AT_ONCE, ..filter };
        let ids = self.store.dead_letter_ids(&self.letter_scope(who), &filter).await?;
        let began = self.store.now().await?;
        let mut group = GroupRedriven { redriven: 0, skipped: Vec::new(), last_due_at: None };
        for id in ids {
            // From one moment, however long each transaction takes.
            let due_at = began + offset_ms(group.redriven, per_second);
            let delay_ms = due_at - self.store.now().await?;
            let order = RedriveOrder { from, set: Map::new() };
            match self.redrive(who, &id, order, delay_ms.max(0)).await? {
                Redriven::Done(row) => {
                    group.redriven += 1;
                    group.last_due_at = Some(row.due_at);
                }
                refused => group.skipped.push(Skipped { id, why: words_for(&refused).0 }),
            }
        }
        self.doorbell.notify_one();
        Ok(group)
    }

    async fn redrive(
        &self,
        who: &Principal,
        letter: &str,
        order: RedriveOrder,
        delay_ms: i64,
    ) -> Result<Redriven, ControlError> {
        let new = NewRedrive {
            from: order.from,
            set: order.set,
            delay_ms,
            by: who.user_id.clone(),
            quota_limit: self.settings.quota.deployments_per_month,
        };
        Ok(self.store.deployment_redrive(&self.letter_scope(who), letter, &new).await?)
    }

    /// Closes a letter for good. Burying it again changes nothing.
    ///
    /// # Errors
    /// [`ControlError::Conflict`] if it was redriven.
    pub async fn dead_letter_bury(&self, who: &Principal, id: &str) -> Result<(), ControlError> {
        match self.store.dead_letter_bury(&self.letter_scope(who), id, &who.user_id).await? {
            Buried::Done => Ok(()),
            Buried::Unknown => Err(ControlError::DeadLetterNotFound),
            Buried::Redriven => {
                Err(ControlError::Conflict("This letter was redriven; it is closed already."))
            }
        }
    }

    /// Forgets the build variables of old failures. Ends early when the server stops.
    ///
    /// # Errors
    /// If the database can't take it.
    pub async fn dead_letters_forget_env(&self, stop: &CancellationToken) -> Result<(), ControlError> {
        let days = self.settings.dead_letters.env_kept_days;
        let kept_ms = i64::try_from(days.saturating_mul(86_400_000)).unwrap_or(i64::MAX);
        let batch = self.settings.sweep.batch;
        while !stop.is_cancelled() && self.store.dead_letter_forget_env(kept_ms, batch).await? >= batch {}
        Ok(())
    }
}

/// How long after the first one the `nth` is due.
fn offset_ms(nth: u64, per_second: f64) -> i64 {
    // At most a thousand, at no less than one in 100 s: far from where a float loses a millisecond.
    (nth as f64 * 1_000.0 / per_second) as i64
}

/// The word for programs, and what to tell people.
fn words_for(refused: &Redriven) -> (&'static str, &'static str) {
    match refused {
        Redriven::Done(_) => ("redriven", "It was redriven."),
        Redriven::Unknown | Redriven::NotOpen => {
            ("not_open", "This letter is closed already: it was redriven or buried.")
        }
        Redriven::NoDeployment => (
            "no_deployment",
            "This message was refused before a deployment existed; mend and publish it again, then bury the letter.",
        ),
        Redriven::NotFailed => ("not_failed", "The deployment has not failed."),
        Redriven::Superseded => {
            ("superseded", "The deployment was superseded by a newer one, which is live; bury the letter.")
        }
        Redriven::BuiltIsLive => (
            "built_is_live",
            "What this deployment built is live already; redrive it from the failed step, without changes.",
        ),
        Redriven::EnvForgotten => (
            "env_forgotten",
            "The deployment's build variables are no longer kept (dead_letters.env_kept_days); deploy again.",
        ),
        Redriven::QuotaExceeded { .. } => {
            ("quota_exceeded", "The plan's deployments of this month are used up; ask for a higher limit.")
        }
    }
}

/// A message as JSON: itself where it is an object that is not too large, else its first bytes.
fn readable(message: &Bytes, most: usize) -> String {
    if message.len() <= most && serde_json::from_slice::<Map<String, Value>>(message).is_ok() {
        // What is JSON is UTF-8, so nothing is lost; NUL stands escaped in it.
        return String::from_utf8_lossy(message).into_owned();
    }
    let head = &message[..message.len().min(most)];
    json!({ "base64": STANDARD.encode(head), "sizeBytes": message.len() }).to_string()
}

/// The last characters of a log, from the beginning of a line on if there is one.
fn tail(log: &str) -> &str {
    let Some((cut, _)) = log.char_indices().rev().nth(LOG_CHARACTERS) else { return log };
    let end = &log[cut..];
    end.split_once('\n').map_or(end, |(_, lines)| lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spreads_a_group() {
        let due = |rate| (0..3).map(|n| offset_ms(n, rate)).collect::<Vec<_>>();
        assert_eq!(due(2.0), [0, 500, 1_000]);
        assert_eq!(due(0.2), [0, 5_000, 10_000]);
    }

    #[test]
    fn a_refused_message_is_kept_readable_and_within_bounds() {
        assert_eq!(readable(&Bytes::from_static(b"{\"a\":1}"), 7), "{\"a\":1}");
        let cut: Value = serde_json::from_str(&readable(&Bytes::from_static(b"{\"a\":1}"), 3)).unwrap();
        assert_eq!(cut, json!({ "base64": STANDARD.encode(b"{\"a"), "sizeBytes": 7 }));
        let raw: Value = serde_json::from_str(&readable(&Bytes::from_static(b"\0\xff"), 9)).unwrap();
        assert_eq!(raw["base64"], STANDARD.encode(b"\0\xff"));
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        assert_eq!(tail("one\ntwo\n"), "one\ntwo\n");
        let long = format!("{}\nlast\n", "ä".repeat(LOG_CHARACTERS));
        assert_eq!(tail(&long), "last\n");
    }
}
