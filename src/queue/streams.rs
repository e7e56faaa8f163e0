//! What has to exist in the broker, and the one function that makes it so.
//!
//! It changes only the keys that it knows, in place. It never deletes or recreates anything: a
//! recreated work-queue consumer delivers again what was given up on (findings 2.1).

use std::sync::{Mutex, PoisonError};

use async_nats::jetstream::{self, ErrorCode};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex as AsyncMutex;

use super::api::{Answer, ask, refused};
use super::connection::Link;
use super::error::QueueError;
use super::settings::{MAX_DELIVERIES, Settings};

pub(super) const JOBS: &str = "deployment.jobs";
pub(super) const DEAD_LETTERS: &str = "deployment.dlq";
const DOING: &str = "look after the streams";

/// Room in a dead letter beside the original message: cause, times, headers.
const DEAD_LETTER_MARGIN_BYTES: u64 = 128 * 1024;

/// Keys that JetStream doesn't change, or that we must not: somebody else's stream has our name.
const FIXED: [&str; 8] = [
    "retention",
    "storage",
    "subjects",
    "ack_policy",
    "deliver_policy",
    "replay_policy",
    "deliver_subject",
    "filter_subject",
];

/// Keys that we never set, and that would lose messages or hold them back. The broker refuses to unset some; that is
/// told as it says it.
const UNSET_IN_STREAMS: [&str; 8] = [
    "max_age",
    "max_msgs_per_subject",
    "max_consumers",
    "no_ack",
    "mirror",
    "sources",
    "sealed",
    "subject_transform",
];
const UNSET_IN_CONSUMERS: [&str; 9] = [
    "headers_only",
    "pause_until",
    "inactive_threshold",
    "backoff",
    "filter_subjects",
    "rate_limit_bps",
    "max_batch",
    "max_expires",
    "max_bytes",
];

/// What `reconcile` had to do. Where something was created, messages may be gone: ring every due row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub created_stream: bool,
    pub created_consumer: bool,
    pub created_dead_letter_stream: bool,
    /// The keys that were changed in place, as `object.key`.
    pub updated: Vec<String>,
}

/// Most changed keys that are remembered until somebody asks.
const REMEMBERED_UPDATES: usize = 32;

pub(super) struct Streams {
    /// One at a time: several tasks may find out at once that something is missing.
    running: AsyncMutex<()>,
    /// What happened since the last `take`, so that a creation at connect is not missed by the sweep.
    untold: Mutex<Reconciled>,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { running: AsyncMutex::new(()), untold: Mutex::new(Reconciled::default()) }
    }

    /// Creates what is missing and updates what differs, or says what can't be reconciled.
    pub(super) async fn reconcile(&self, link: &Link, settings: &Settings) -> Result<(), QueueError> {
        let _alone = self.running.lock().await;
        let jobs = jobs_stream(settings, link.client.max_payload() as u64);
        let stream = Object::stream(&settings.stream);
        let (created, updated) = stream.ensure(link, settings, &jobs).await?;
        self.note(|untold| untold.created_stream |= created, updated);

        let consumer = Object::consumer(&settings.stream, &settings.consumer);
        let (created, updated) = consumer.ensure(link, settings, &consumer_config(settings)).await?;
        self.note(|untold| untold.created_consumer |= created, updated);

        let letters = Object::stream(&settings.dead_letter_stream);
        let (created, updated) = letters.ensure(link, settings, &dead_letter_stream(settings)).await?;
        self.note(|untold| untold.created_dead_letter_stream |= created, updated);
        Ok(())
    }

    /// What was done since the last call.
    pub(super) fn take(&self) -> Reconciled {
        std::mem::take(&mut self.untold.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, creation: impl FnOnce(&mut Reconciled), updated: Vec<String>) {
        let mut untold = self.untold.lock().unwrap_or_else(PoisonError::into_inner);
        creation(&mut untold);
        untold.updated.extend(updated);
        untold.updated.truncate(REMEMBERED_UPDATES);
    }
}

type Config = Map<String, Value>;

/// A stream or a consumer, as the API names it.
struct Object {
    title: String,
    suffix: String,
    stream: String,
    is_consumer: bool,
}

impl Object {
    fn stream(name: &str) -> Self {
        Self {
            title: format!("stream {name}"),
            suffix: name.to_owned(),
            stream: name.to_owned(),
            is_consumer: false,
        }
    }

    fn consumer(stream: &str, name: &str) -> Self {
        Self {
            title: format!("consumer {name}"),
            suffix: format!("{stream}.{name}"),
            stream: stream.to_owned(),
            is_consumer: true,
        }
    }

    fn request(&self, verb: &str, config: &Config) -> (String, Value) {
        if !self.is_consumer {
            return (format!("STREAM.{verb}.{}", self.suffix), Value::Object(config.clone()));
        }
        // Consumers have one subject for both, and the wish in the body.
        let action = verb.to_lowercase();
        let body = json!({ "stream_name": self.stream, "config": config, "action": action });
        (format!("CONSUMER.CREATE.{}", self.suffix), body)
    }

    /// Answers whether it was created, and which keys were changed.
    async fn ensure(
        &self,
        link: &Link,
        settings: &Settings,
        want: &Config,
    ) -> Result<(bool, Vec<String>), QueueError> {
        let Some(have) = self.read(link, settings).await? else {
            return Ok((self.create(link, settings, want).await?, Vec::new()));
        };
        let changed = self.differences(&have, want)?;
        if changed.is_empty() {
            return Ok((false, changed));
        }
        let mut config = have;
        for key in &changed {
            match want.get(key) {
                Some(value) => drop(config.insert(key.clone(), value.clone())),
                None => drop(config.remove(key)),
            }
        }
        if self.is_consumer && changed.iter().any(|key| key == "pause_until") {
            // A pause has a request of its own; one that says no time ends it.
            let subject = format!("CONSUMER.PAUSE.{}", self.suffix);
            let answer: Answer<Value> =
                ask(&link.context, settings.request_timeout(), DOING, subject, &json!({})).await?;
            answer.map_err(|error| refused(DOING, error))?;
        }
        let (subject, body) = self.request("UPDATE", &config);
        let answer: Answer<Value> =
            ask(&link.context, settings.request_timeout(), DOING, subject, &body).await?;
        answer.map_err(|error| refused(DOING, error))?;
        tracing::info!(nats.object = %self.title, nats.changed = ?changed, "updated in place");
        Ok((false, changed.into_iter().map(|key| format!("{}.{key}", self.title)).collect()))
    }

    async fn read(&self, link: &Link, settings: &Settings) -> Result<Option<Config>, QueueError> {
        #[derive(serde::Deserialize)]
        struct Info {
            config: Config,
        }
        let kind = if self.is_consumer { "CONSUMER" } else { "STREAM" };
        let subject = format!("{kind}.INFO.{}", self.suffix);
        let answer: Answer<Info> =
            ask(&link.context, settings.request_timeout(), DOING, subject, &json!({})).await?;
        match answer {
            Ok(info) => Ok(Some(info.config)),
            Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND && !self.is_consumer => Ok(None),
            Err(error) if error.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(None),
            Err(error) => Err(refused(DOING, error)),
        }
    }

    /// True when it was ours to create; another node may have been faster.
    async fn create(&self, link: &Link, settings: &Settings, want: &Config) -> Result<bool, QueueError> {
        let (subject, body) = self.request("CREATE", want);
        let answer: Answer<Value> =
            ask(&link.context, settings.request_timeout(), DOING, subject, &body).await?;
        match answer {
            Ok(_) => {
                tracing::info!(nats.object = %self.title, "created");
                Ok(true)
            }
            Err(error) => self.explain(error).map(|()| false),
        }
    }

    fn explain(&self, error: jetstream::Error) -> Result<(), QueueError> {
        match error.error_code() {
            ErrorCode::STREAM_NAME_EXIST | ErrorCode::CONSUMER_ALREADY_EXISTS => Ok(()),
            ErrorCode::STREAM_SUBJECT_OVERLAP => Err(QueueError::Conflict {
                object: self.title.clone(),
                key: "subjects".into(),
                have: "used by another stream".into(),
                want: "free".into(),
            }),
            _ => Err(refused(DOING, error)),
        }
    }

    fn differences(&self, have: &Config, want: &Config) -> Result<Vec<String>, QueueError> {
        let mut changed = Vec::new();
        for key in FIXED {
            // A key that we don't ask for and that is set all the same makes it another kind of thing.
            let (is, should) = (have.get(key).filter(|value| *value != ""), want.get(key));
            if is != should {
                return Err(QueueError::Conflict {
                    object: self.title.clone(),
                    key: key.into(),
                    have: is.map_or_else(|| "not set".into(), Value::to_string),
                    want: should.map_or_else(|| "not set".into(), Value::to_string),
                });
            }
        }
        for (key, should) in want {
            if have.get(key) != Some(should) {
                changed.push(key.clone());
            }
        }
        // What somebody else has set would hold messages back, or drop them.
        let foreign = if self.is_consumer { &UNSET_IN_CONSUMERS[..] } else { &UNSET_IN_STREAMS[..] };
        for key in foreign {
            if !want.contains_key(*key) && have.get(*key).is_some_and(|value| !is_neutral(value)) {
                changed.push((*key).to_owned());
            }
        }
        Ok(changed)
    }
}

/// The spellings of "not set".
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(is_set) => !is_set,
        Value::Number(number) => number.as_i64().is_some_and(|n| n <= 0),
        Value::String(text) => text.is_empty() || text.starts_with("0001-01-01"),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn jobs_stream(settings: &Settings, broker_max_payload: u64) -> Config {
    // What the queue accepts must fit into a dead letter, where bytes that aren't JSON take 4/3 of their size.
    let fits = broker_max_payload.saturating_sub(DEAD_LETTER_MARGIN_BYTES) / 4 * 3;
    config(json!({
        "name": settings.stream,
        "subjects": [format!("{JOBS}.*")],
        "retention": "workqueue",
        "storage": "file",
        "num_replicas": settings.replicas,
        // A full queue refuses, and the row waits in the database; dropping the oldest would be silent.
        "discard": "new",
        "max_msgs": settings.stream_max_messages,
        "max_bytes": settings.stream_max_bytes,
        "max_msg_size": settings.message_max_bytes.min(fits),
        "duplicate_window": nanoseconds(settings.duplicate_window_seconds),
    }))
}

fn dead_letter_stream(settings: &Settings) -> Config {
    config(json!({
        "name": settings.dead_letter_stream,
        "subjects": [format!("{DEAD_LETTERS}.>")],
        "retention": "limits",
        "storage": "file",
        "num_replicas": settings.replicas,
        "discard": "old",
        "max_bytes": settings.dead_letter_max_bytes,
        "max_age": nanoseconds(settings.dead_letter_max_age_seconds),
        "duplicate_window": nanoseconds(settings.duplicate_window_seconds),
    }))
}

fn consumer_config(settings: &Settings) -> Config {
    config(json!({
        "name": settings.consumer,
        "durable_name": settings.consumer,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "replay_policy": "instant",
        "ack_wait": nanoseconds(settings.ack_wait_seconds),
        "max_deliver": MAX_DELIVERIES,
        "max_ack_pending": settings.max_ack_pending,
    }))
}

fn config(value: Value) -> Config {
    match value {
        Value::Object(config) => config,
        _ => Config::new(),
    }
}

fn nanoseconds(seconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000_000)
}
