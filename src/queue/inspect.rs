//! Looks into the streams: for the health document, the sweep and the desk.
//!
//! Every answer is a real round trip, nothing is remembered. It never changes a message except to
//! delete the one that it is told to.

use std::time::SystemTime;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::consumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{self, RawMessage};
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Queue;
use super::api::{Answer, ask, refused};
use super::consumer::org_of;
use super::error::QueueError;

const INSPECT: &str = "inspect the queue";
const READ: &str = "read a message";
const DELETE: &str = "delete a message";

/// What lies in the queue now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    pub messages: u64,
    pub bytes: u64,
    pub first_seq: u64,
    pub last_seq: u64,
    /// The last message that was delivered at least once.
    pub delivered_seq: u64,
    /// Delivered and not settled yet.
    pub ack_pending: u64,
    /// Not delivered yet.
    pub undelivered: u64,
    /// Pulls that wait for a message, over all servers.
    pub waiting_pulls: u64,
    pub consumers: u64,
    pub dead_letters: u64,
    /// When the stream was made. Another time than before means that the old messages are gone.
    pub stream_created_at: SystemTime,
}

/// A message as it lies in a stream.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    pub sequence: u64,
    pub subject: String,
    /// The organization in the subject of a job; empty for a dead letter.
    pub subject_org: String,
    pub message_id: Option<String>,
    pub payload: Bytes,
    pub published_at: SystemTime,
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

impl Queue {
    /// Asks the broker for the state of both streams and the consumer.
    ///
    /// # Errors
    /// `Unavailable`, `Missing`.
    pub async fn inspect(&self) -> Result<QueueStats, QueueError> {
        let link = self.link(INSPECT)?;
        let settings = &self.inner.settings;
        let info = async |name: &str| -> Result<stream::Info, QueueError> {
            let subject = format!("STREAM.INFO.{name}");
            ask(&link.context, settings.request_timeout(), INSPECT, subject, &json!({}))
                .await?
                .map_err(|error| refused(INSPECT, error))
        };
        let consumer = async {
            let subject = format!("CONSUMER.INFO.{}.{}", settings.stream, settings.consumer);
            let answer: Answer<consumer::Info> =
                ask(&link.context, settings.request_timeout(), INSPECT, subject, &json!({})).await?;
            answer.map_err(|error| refused(INSPECT, error))
        };
        let (jobs, letters, consumer) =
            tokio::try_join!(info(&settings.stream), info(&settings.dead_letter_stream), consumer)?;
        Ok(QueueStats {
            messages: jobs.state.messages,
            bytes: jobs.state.bytes,
            first_seq: jobs.state.first_sequence,
            last_seq: jobs.state.last_sequence,
            delivered_seq: consumer.delivered.stream_sequence,
            ack_pending: consumer.num_ack_pending as u64,
            undelivered: consumer.num_pending,
            waiting_pulls: consumer.num_waiting as u64,
            consumers: jobs.state.consumer_count as u64,
            dead_letters: letters.state.messages,
            stream_created_at: jobs.created.into(),
        })
    }

    /// Whether the message is still in the queue.
    ///
    /// # Errors
    /// As `read_message`.
    pub async fn message_exists(&self, sequence: u64) -> Result<bool, QueueError> {
        Ok(self.read_message(sequence).await?.is_some())
    }

    /// Reads one message of the queue, delivered or not.
    ///
    /// # Errors
    /// `Unavailable`, `Missing`, `Refused`.
    pub async fn read_message(&self, sequence: u64) -> Result<Option<StoredMessage>, QueueError> {
        self.read(&self.inner.settings.stream, json!({ "seq": sequence })).await
    }

    /// Reads the first message of the queue at or after `sequence`: how the sweep walks it.
    ///
    /// # Errors
    /// As `read_message`.
    pub async fn next_message(&self, sequence: u64) -> Result<Option<StoredMessage>, QueueError> {
        self.read(&self.inner.settings.stream, json!({ "seq": sequence, "next_by_subj": ">" })).await
    }

    /// Reads the first dead letter at or after `sequence`: how the desk browses.
    ///
    /// # Errors
    /// As `read_message`.
    pub async fn next_dead_letter(&self, sequence: u64) -> Result<Option<StoredMessage>, QueueError> {
        let letters = &self.inner.settings.dead_letter_stream;
        self.read(letters, json!({ "seq": sequence, "next_by_subj": ">" })).await
    }

    /// Deletes one message of the queue. False when it was gone already.
    ///
    /// # Errors
    /// As `read_message`.
    pub async fn delete_message(&self, sequence: u64) -> Result<bool, QueueError> {
        self.delete(&self.inner.settings.stream, sequence).await
    }

    /// Deletes one dead letter. False when it was gone already.
    ///
    /// # Errors
    /// As `read_message`.
    pub async fn delete_dead_letter(&self, sequence: u64) -> Result<bool, QueueError> {
        self.delete(&self.inner.settings.dead_letter_stream, sequence).await
    }

    async fn read(&self, stream: &str, which: Value) -> Result<Option<StoredMessage>, QueueError> {
        let link = self.link(READ)?;
        let subject = format!("STREAM.MSG.GET.{stream}");
        let answer: Answer<Found> =
            ask(&link.context, self.inner.settings.request_timeout(), READ, subject, &which).await?;
        match answer {
            Ok(found) => {
                let message = StreamMessage::try_from(found.message)
                    .map_err(|error| QueueError::unavailable(READ, error))?;
                Ok(Some(StoredMessage {
                    sequence: message.sequence,
                    subject_org: org_of(&message.subject),
                    subject: message.subject.to_string(),
                    message_id: message.headers.get(NATS_MESSAGE_ID).map(ToString::to_string),
                    payload: message.payload,
                    published_at: message.time.into(),
                }))
            }
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(refused(READ, error)),
        }
    }

    async fn delete(&self, stream: &str, sequence: u64) -> Result<bool, QueueError> {
        let link = self.link(DELETE)?;
        let subject = format!("STREAM.MSG.DELETE.{stream}");
        let body = json!({ "seq": sequence });
        let answer: Answer<Value> =
            ask(&link.context, self.inner.settings.request_timeout(), DELETE, subject, &body).await?;
        match answer {
            Ok(_) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            // The broker has one code for every failed deletion, so look whether there was anything.
            Err(error) => match self.read(stream, body).await? {
                None => Ok(false),
                Some(_) => Err(refused(DELETE, error)),
            },
        }
    }
}

fn is_gone(error: &jetstream::Error) -> bool {
    matches!(error.error_code(), ErrorCode::NO_MESSAGE_FOUND | ErrorCode::SEQUENCE_NOT_FOUND)
}
