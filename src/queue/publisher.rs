//! Puts messages into streams and waits until the broker says that they are stored.
//!
//! A message without its confirmation counts as not sent; the id makes sending it again harmless.
//! It never retries: a lost ring is rung again by the sweep.

use async_nats::client::{Request, RequestErrorKind};
use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use tokio::time::timeout;

use super::Queue;
use super::api::refused;
use super::connection::Link;
use super::error::QueueError;
use super::message::{DeployJob, WireId};
use super::state::Unconfirmed;
use super::streams::JOBS;

const RING: &str = "ring a deployment";

/// The place of a message in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamSequence(pub u64);

/// One doorbell message. The ring number is stored in the row before it is rung.
#[derive(Debug, Clone)]
pub struct Ring {
    pub deployment_id: WireId,
    pub org_id: WireId,
    pub ring: u64,
    pub job: DeployJob,
}

impl Ring {
    /// The ring that `job` itself names.
    #[must_use]
    pub fn of_job(job: DeployJob) -> Self {
        Self {
            deployment_id: job.deployment_id.clone(),
            org_id: job.params.org_id.clone(),
            ring: job.params.ring,
            job,
        }
    }

    fn check(&self) -> Result<(), QueueError> {
        let field = if self.deployment_id != self.job.deployment_id {
            "deploymentId"
        } else if self.org_id != self.job.params.org_id {
            "orgId"
        } else if self.ring != self.job.params.ring {
            "ring"
        } else {
            return Ok(());
        };
        Err(QueueError::RingMismatch { field })
    }
}

impl Queue {
    /// Rings: stores the job in the queue, once per deployment and ring number.
    ///
    /// Answers the sequence number, of the first message when this ring was already rung within
    /// `nats.duplicate_window_seconds`, whether or not that one is still there.
    ///
    /// # Errors
    /// `Unavailable` (also when the outcome is unknown) and `Missing`: ring again later.
    /// `Refused`: the queue is full. `RingMismatch`, `TooLarge`: a mistake of the caller.
    pub async fn ring(&self, ring: Ring) -> Result<StreamSequence, QueueError> {
        ring.check()?;
        let subject = format!("{JOBS}.{}", ring.org_id);
        let id = format!("{}.{}", ring.deployment_id, ring.ring);
        let body = serde_json::to_vec(&ring.job).map_err(|error| QueueError::unavailable(RING, error))?;
        self.store(RING, subject, &id, body.into()).await
    }

    /// Stores one message and waits for the broker's word, both within `nats.publish_timeout_ms`.
    pub(super) async fn store(
        &self,
        doing: &'static str,
        subject: String,
        id: &str,
        body: Bytes,
    ) -> Result<StreamSequence, QueueError> {
        let link = self.ready_link(doing)?;
        let limit_bytes = link.client.max_payload();
        if body.len() > limit_bytes {
            return Err(QueueError::TooLarge { size_bytes: body.len(), limit_bytes });
        }
        let wait = self.inner.settings.publish_timeout();
        let stored = timeout(wait, async {
            // Bounds what piles up in memory while the broker is slow.
            let _slot = self.inner.publishes.acquire().await.map_err(|_| QueueError::Closed)?;
            publish(&link, doing, subject, id, body).await
        })
        .await
        .map_err(|elapsed| QueueError::unavailable(doing, elapsed))
        .flatten();
        self.note(&stored);
        stored
    }

    /// Whoever owns the broker replaces one that confirms nothing any more.
    fn note(&self, stored: &Result<StreamSequence, QueueError>) {
        match stored {
            Ok(_) => {
                self.inner.noted.send_if_modified(|state| state.unconfirmed.take().is_some());
            }
            Err(QueueError::Unavailable { .. } | QueueError::Missing { .. }) => {
                self.inner.noted.send_modify(|state| {
                    state.unconfirmed = Some(Unconfirmed::again(state.unconfirmed));
                });
            }
            // A refusal is an answer.
            Err(_) => {}
        }
    }
}

async fn publish(
    link: &Link,
    doing: &'static str,
    subject: String,
    id: &str,
    body: Bytes,
) -> Result<StreamSequence, QueueError> {
    let id: HeaderValue = id.parse().map_err(|error| QueueError::unavailable(doing, error))?;
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    let request = Request::new().headers(headers).payload(body);
    let answer = link.client.send_request(subject, request).await.map_err(|error| match error.kind() {
        // Nobody takes messages on this subject: the stream is not there.
        RequestErrorKind::NoResponders => QueueError::Missing { doing },
        RequestErrorKind::TimedOut
        | RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => QueueError::unavailable(doing, error),
    })?;
    let answer: Response<PublishAck> =
        serde_json::from_slice(&answer.payload).map_err(|error| QueueError::unavailable(doing, error))?;
    match answer {
        Response::Ok(stored) => Ok(StreamSequence(stored.sequence)),
        Response::Err { error } => Err(refused(doing, error)),
    }
}
