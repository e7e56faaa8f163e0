//! Takes jobs out of the queue, one at a time, and settles them.
//!
//! One pull asks for one message and ends by itself after `nats.pull_expires_seconds`, so a consumer
//! can't go silent; a lost connection, stream or consumer only makes the next pull wait.
//! It never looks into a job to decide its fate, and never settles what the caller didn't settle.

use std::time::{Duration, Instant, SystemTime};

use async_nats::Client;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Queue;
use super::backoff::Backoff;
use super::connection::Link;
use super::error::QueueError;
use super::message::{DeployJob, MalformedJob};
use super::streams::JOBS;
use crate::domain::cause::chain;

const PULL: &str = "pull a job";
const SETTLE: &str = "settle a delivery";
/// Times that a settlement is sent when its confirmation doesn't come; repeating one changes nothing.
const SETTLE_TRIES: u32 = 3;
/// A pull that ends empty sooner than this didn't wait, so the next one has to.
const TOO_SOON: Duration = Duration::from_millis(100);

impl Queue {
    /// A source of jobs; each DeploymentActor has its own.
    #[must_use]
    pub fn jobs(&self) -> JobSource {
        let settings = &self.inner.settings;
        JobSource {
            link: self.inner.link.clone(),
            backoff: Backoff::new(settings.retry_backoff_min_ms, settings.retry_backoff_max_ms),
            queue: self.clone(),
        }
    }
}

/// Pulls one message at a time.
pub struct JobSource {
    queue: Queue,
    link: watch::Receiver<Option<Link>>,
    backoff: Backoff,
}

impl JobSource {
    /// Waits for the next delivery, through outages of any length.
    ///
    /// # Errors
    /// `Closed`, and only that: `cancel` or the queue's own shutdown.
    pub async fn next(&mut self, cancel: &CancellationToken) -> Result<Delivery, QueueError> {
        let shutdown = self.queue.inner.shutdown.clone();
        tokio::select! {
            () = cancel.cancelled() => Err(QueueError::Closed),
            () = shutdown.cancelled() => Err(QueueError::Closed),
            delivery = self.next_through_outages() => delivery,
        }
    }

    async fn next_through_outages(&mut self) -> Result<Delivery, QueueError> {
        loop {
            let ready = |link: &Option<Link>| link.as_ref().is_some_and(|link| link.ready);
            let link = self.link.wait_for(ready).await.map_err(|_| QueueError::Closed)?.clone();
            let Some(link) = link else { continue };
            let asked = Instant::now();
            let mut lost = self.link.clone();
            let pulled = tokio::select! {
                pulled = pull_one(&link, &self.queue) => pulled,
                _ = lost.wait_for(|now| now.as_ref().map(|now| now.epoch) != Some(link.epoch)) => continue,
            };
            match pulled {
                Ok(Some(delivery)) => {
                    self.backoff.reset();
                    return Ok(delivery);
                }
                Ok(None) if asked.elapsed() > TOO_SOON => self.backoff.reset(),
                Ok(None) => sleep(self.backoff.next()).await,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "no job could be pulled; looking after the streams");
                    // Told to the sweep by the reconcile itself; here only its effect matters.
                    if let Err(error) = self.queue.look_after_streams(&link).await {
                        tracing::warn!(error = %chain(&error), "the streams could not be looked after");
                    }
                    sleep(self.backoff.next()).await;
                }
            }
        }
    }
}

async fn pull_one(link: &Link, queue: &Queue) -> Result<Option<Delivery>, QueueError> {
    let settings = &queue.inner.settings;
    let consumer: PullConsumer = link
        .context
        .get_consumer_from_stream(&settings.consumer, &settings.stream)
        .await
        .map_err(|error| QueueError::unavailable(PULL, error))?;
    // No idle heartbeat: the library's batch forgets its waker on one and would sleep through the message.
    let mut batch = consumer
        .batch()
        .max_messages(1)
        .expires(Duration::from_secs(settings.pull_expires_seconds))
        .messages()
        .await
        .map_err(|error| QueueError::unavailable(PULL, error))?;
    match batch.next().await {
        None => Ok(None),
        Some(Ok(message)) => Delivery::of(message, settings.publish_timeout()).map(Some),
        Some(Err(error)) => Err(QueueError::unavailable(PULL, error)),
    }
}

/// One delivery of one message. Dropped unsettled, it is delivered again after `ack_wait`.
#[derive(Debug)]
pub struct Delivery {
    pub payload: Bytes,
    /// The organization in the subject: authoritative, because the broker checked the right to it.
    pub subject_org: String,
    /// Which delivery of this message this is, from 1 to `MAX_DELIVERIES`.
    pub deliveries: u64,
    pub stream_sequence: u64,
    /// When the broker took it; with its sequence number it names the message, also in a stream made anew.
    pub published_at: SystemTime,
    pub message_id: Option<String>,
    address: async_nats::Subject,
    client: Client,
    wait: Duration,
}

impl Delivery {
    fn of(message: async_nats::jetstream::Message, wait: Duration) -> Result<Self, QueueError> {
        let (deliveries, stream_sequence, published_at) = {
            let info = message.info().map_err(|_| QueueError::NotADelivery)?;
            (u64::try_from(info.delivered).unwrap_or(1), info.stream_sequence, info.published.into())
        };
        let client = message.context.client();
        let message = message.message;
        let header = message.headers.as_ref().and_then(|headers| headers.get(NATS_MESSAGE_ID));
        Ok(Self {
            message_id: header.map(ToString::to_string),
            subject_org: org_of(&message.subject),
            payload: message.payload,
            deliveries,
            stream_sequence,
            published_at,
            address: message.reply.ok_or(QueueError::NotADelivery)?,
            client,
            wait,
        })
    }

    /// Reads the job.
    ///
    /// # Errors
    /// `MalformedJob` says why it is none; such a message belongs into the dead letters.
    pub fn job(&self) -> Result<DeployJob, MalformedJob> {
        DeployJob::read(&self.payload)
    }

    /// Takes the message off the queue, confirmed by the broker.
    ///
    /// # Errors
    /// `Unavailable` or `Missing`: it may be delivered again. Never a reason to redo the work.
    pub async fn ack(self) -> Result<(), QueueError> {
        self.settle(AckKind::Ack.into()).await
    }

    /// Gives the message back, to be delivered again after `delay`, confirmed by the broker.
    ///
    /// # Errors
    /// As `ack`; the message then comes back after `ack_wait`.
    pub async fn nak(self, delay: Duration) -> Result<(), QueueError> {
        // Without a delay the broker redelivers at once and uses up all deliveries within a millisecond.
        let delay = delay.max(Duration::from_millis(1));
        self.settle(AckKind::Nak(Some(delay)).into()).await
    }

    /// Tells the broker that work goes on, so that `ack_wait` starts anew. Not confirmed.
    ///
    /// # Errors
    /// `Unavailable` when it couldn't be sent.
    pub async fn progress(&self) -> Result<(), QueueError> {
        let sent = self.client.publish(self.address.clone(), AckKind::Progress.into());
        tokio::time::timeout(self.wait, sent)
            .await
            .map_err(|elapsed| QueueError::unavailable(SETTLE, elapsed))?
            .map_err(|error| QueueError::unavailable(SETTLE, error))
    }

    /// Takes the message off the queue for good, with a reason for the broker's advisory. Confirm the
    /// dead letter first.
    ///
    /// # Errors
    /// As `ack`.
    pub async fn terminate(self, reason: &str) -> Result<(), QueueError> {
        const MOST_CHARACTERS: usize = 200;
        let reason: String =
            reason.chars().filter(|character| !character.is_control()).take(MOST_CHARACTERS).collect();
        self.settle(format!("+TERM {reason}").into()).await
    }

    /// Sends the settlement as a request: the library's own `double_ack` takes "nobody is there" for a yes.
    async fn settle(self, word: Bytes) -> Result<(), QueueError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let request = Request::new().payload(word.clone()).timeout(Some(self.wait));
            let sent = self.client.send_request(self.address.clone(), request);
            let error = match tokio::time::timeout(self.wait.saturating_mul(2), sent).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                    return Err(QueueError::Missing { doing: SETTLE });
                }
                Ok(Err(error)) => QueueError::unavailable(SETTLE, error),
                Err(elapsed) => QueueError::unavailable(SETTLE, elapsed),
            };
            if tries == SETTLE_TRIES {
                return Err(error);
            }
        }
    }
}

/// The organization that a job's subject names; empty for a subject of another kind.
pub(super) fn org_of(subject: &str) -> String {
    subject.strip_prefix(JOBS).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default().to_owned()
}
