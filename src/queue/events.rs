//! News between servers over plain NATS: best effort, unstored, and honest about what was missed.
//!
//! A reader gets `Gap` whenever something may have been lost, and then reloads from the database.
//! It never carries a decision: an event only says that looking is worth while.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Queue;
use super::connection::Link;
use super::error::QueueError;
use crate::domain::cause::chain;

/// The route table has a new epoch; the body holds it.
pub const ROUTES_CHANGED: &str = "routes.changed";
/// A deployment changed; the body holds its id.
pub const DEPLOYMENTS_CHANGED: &str = "deployments.changed";

const PUBLISH: &str = "publish an event";
const SUBSCRIBE: &str = "subscribe to events";

/// What a reader of events sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueEvent {
    /// The first after subscribing and after each outage or overflow: reload, events may be missing.
    Gap,
    Message(Bytes),
}

impl Queue {
    /// Sends an event to whoever listens now. Not stored, not confirmed.
    ///
    /// # Errors
    /// `Unavailable` without a connection: nothing is kept for later, readers see a gap instead.
    pub async fn publish_event(&self, subject: &str, body: Bytes) -> Result<(), QueueError> {
        check_subject(subject)?;
        let link = self.link(PUBLISH)?;
        timeout(self.inner.settings.publish_timeout(), link.client.publish(subject.to_owned(), body))
            .await
            .map_err(|elapsed| QueueError::unavailable(PUBLISH, elapsed))?
            .map_err(|error| QueueError::unavailable(PUBLISH, error))
    }

    /// Listens to one subject, through outages.
    ///
    /// # Errors
    /// `BadSubject` when the subject belongs to a stream or is no plain subject.
    pub fn subscribe_events(&self, subject: &str) -> Result<EventStream, QueueError> {
        check_subject(subject)?;
        Ok(EventStream {
            queue: self.clone(),
            subject: subject.to_owned(),
            link: self.inner.link.clone(),
            dropped: self.inner.dropped.clone(),
            current: None,
        })
    }
}

/// Events of one subject, in the order in which they came.
pub struct EventStream {
    queue: Queue,
    subject: String,
    link: watch::Receiver<Option<Link>>,
    dropped: watch::Receiver<u64>,
    current: Option<(u64, Subscriber)>,
}

impl EventStream {
    /// The next event; `None` after `cancel` or the queue's shutdown.
    pub async fn next(&mut self, cancel: &CancellationToken) -> Option<QueueEvent> {
        let shutdown = self.queue.inner.shutdown.clone();
        tokio::select! {
            () = cancel.cancelled() => None,
            () = shutdown.cancelled() => None,
            event = self.next_through_outages() => event,
        }
    }

    async fn next_through_outages(&mut self) -> Option<QueueEvent> {
        loop {
            if self.current.is_none() && self.subscribe().await? {
                return Some(QueueEvent::Gap);
            }
            let Some((epoch, subscriber)) = &mut self.current else { continue };
            let epoch = *epoch;
            let mut ending = self.link.clone();
            let ended = ending.wait_for(|link| link.as_ref().map(|link| link.epoch) != Some(epoch));
            tokio::pin!(ended);
            tokio::select! {
                message = subscriber.next() => {
                    if let Some(message) = message {
                        return Some(QueueEvent::Message(message.payload));
                    }
                    // The connection is ending; waiting for that keeps this from spinning.
                    drop(ended.await.ok()?);
                }
                dropped = self.dropped.changed() => {
                    dropped.ok()?;
                    return Some(QueueEvent::Gap);
                }
                over = &mut ended => drop(over.ok()?),
            }
            self.current = None;
        }
    }

    /// Subscribes on the next usable connection; true when the broker knows about it.
    async fn subscribe(&mut self) -> Option<bool> {
        let link = self.link.wait_for(Option::is_some).await.ok()?.clone()?;
        let wait = self.queue.inner.settings.request_timeout();
        self.dropped.mark_unchanged();
        let subscribed = timeout(wait, async {
            let subscriber = link
                .client
                .subscribe(self.subject.clone())
                .await
                .map_err(|error| QueueError::unavailable(SUBSCRIBE, error))?;
            round_trip(&link).await.map_err(|error| QueueError::unavailable(SUBSCRIBE, error))?;
            Ok(subscriber)
        })
        .await
        .unwrap_or_else(|elapsed| Err(QueueError::unavailable(SUBSCRIBE, elapsed)));
        match subscribed {
            Ok(subscriber) => {
                self.current = Some((link.epoch, subscriber));
                Some(true)
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), events.subject = %self.subject, "not subscribed yet");
                // Another connection, or the same one after a while: never a tight loop.
                let other = |now: &Option<Link>| now.as_ref().map(|now| now.epoch) != Some(link.epoch);
                drop(timeout(wait, self.link.wait_for(other)).await);
                Some(false)
            }
        }
    }
}

/// Ends when the broker has done what this connection asked before: it works in order. The library's
/// own flush only empties the send buffer, and events sent before the subscription took hold were lost.
async fn round_trip(link: &Link) -> Result<(), async_nats::Error> {
    let inbox = link.client.new_inbox();
    let mut echo = link.client.subscribe(inbox.clone()).await?;
    link.client.publish(inbox, Bytes::new()).await?;
    echo.next().await.map(drop).ok_or_else(|| "the connection ended".into())
}

fn check_subject(subject: &str) -> Result<(), QueueError> {
    let plain = subject.split('.').all(|token| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    });
    // `deployment.jobs` and `deployment.dlq` belong to the streams: an event there would become a job.
    if plain && !subject.starts_with("deployment.") {
        Ok(())
    } else {
        Err(QueueError::BadSubject { what: subject.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_stay_off_the_subjects_of_the_streams() {
        assert!(check_subject(ROUTES_CHANGED).is_ok());
        assert!(check_subject(DEPLOYMENTS_CHANGED).is_ok());
        for subject in ["deployment.jobs.x", "a..b", "", "a b", "routes.>", "$JS.API.INFO"] {
            assert!(check_subject(subject).is_err(), "{subject}");
        }
    }
}
