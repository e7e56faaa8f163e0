//! The one connection to the broker: opened again for ever, and ready only when the streams are.
//!
//! Each connection is a fresh client. The library's own endless reconnecting would keep trying an
//! old port with an old credential after the embedded broker moved, also after its last user is gone.
//! It never decides where the broker is: that is the endpoint's sender.

use std::sync::Arc;

use async_nats::jetstream;
use async_nats::{Client, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::endpoint::Endpoint;
use super::error::QueueError;
use super::settings::Settings;
use super::state::{BrokerState, Connection};
use super::streams::Streams;
use crate::domain::cause::chain;

/// A usable connection. Clones are cheap; a stale one only makes requests fail.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) context: jetstream::Context,
    /// Grows with every connection, so that a reader sees that it has another one.
    pub(super) epoch: u64,
    /// The streams and the consumer were confirmed on this connection.
    pub(super) ready: bool,
}

pub(super) struct Connector {
    pub(super) settings: Arc<Settings>,
    pub(super) streams: Arc<Streams>,
    pub(super) endpoint: watch::Receiver<Option<Endpoint>>,
    pub(super) link: watch::Sender<Option<Link>>,
    /// Counts the times that events were dropped because a reader was slow.
    pub(super) dropped: watch::Sender<u64>,
    pub(super) state: Arc<watch::Sender<BrokerState>>,
    pub(super) shutdown: CancellationToken,
}

impl Connector {
    pub(super) async fn run(mut self) {
        let shutdown = self.shutdown.clone();
        let mut backoff =
            Backoff::new(self.settings.retry_backoff_min_ms, self.settings.retry_backoff_max_ms);
        let mut epoch = 0;
        while let Some(Some(endpoint)) =
            shutdown.run_until_cancelled(wait_for_endpoint(&mut self.endpoint)).await
        {
            epoch += 1;
            match shutdown.run_until_cancelled(endpoint.connect(&self.settings)).await {
                None => break,
                Some(Ok((client, events))) => {
                    let was_ready = self.serve(epoch, client, events).await;
                    if was_ready {
                        backoff.reset();
                    }
                }
                Some(Err(error)) => self.trouble(&error),
            }
            // The endpoint may change meanwhile, and then there is nothing to wait for.
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = self.endpoint.changed() => {}
                () = sleep(backoff.next()) => {}
            }
        }
    }

    /// Uses one connection until it is lost, the broker moved, or we shut down. True if it was ever ready.
    async fn serve(&mut self, epoch: u64, client: Client, mut events: mpsc::Receiver<Event>) -> bool {
        let context = jetstream::context::ContextBuilder::new()
            .timeout(self.settings.publish_timeout())
            .max_ack_inflight(self.settings.publish_pending_max)
            .build(client.clone());
        let mut link = Link { client, context, epoch, ready: false };
        self.link.send_replace(Some(link.clone()));
        self.state.send_modify(|state| state.enter(Connection::Connected));
        let mut moved = self.endpoint.clone();
        let lost = tokio::select! {
            // Each branch says why the connection ends; getting ready is not one of them.
            () = self.shutdown.cancelled() => "shutting down",
            _ = moved.changed() => "the broker moved",
            () = watch_events(&mut events, &self.dropped) => "the connection was lost",
            never = self.get_ready(&mut link) => match never {},
        };
        let was_ready = self.link.borrow().as_ref().is_some_and(|link| link.ready);
        self.link.send_replace(None);
        self.state.send_modify(|state| state.enter(Connection::Disconnected));
        tracing::info!(nats.epoch = epoch, reason = lost, "disconnected from the broker");
        if self.shutdown.is_cancelled() {
            // What was acknowledged or announced last has to leave before the socket closes.
            drop(timeout(self.settings.request_timeout(), link.client.flush()).await);
        }
        was_ready
    }

    /// Confirms the streams, then stays: so the caller's `select!` has one place for every end.
    async fn get_ready(&self, link: &mut Link) -> std::convert::Infallible {
        let mut backoff =
            Backoff::new(self.settings.retry_backoff_min_ms, self.settings.retry_backoff_max_ms);
        while let Err(error) = self.streams.reconcile(link, &self.settings).await {
            self.trouble(&error);
            sleep(backoff.next()).await;
        }
        link.ready = true;
        self.link.send_replace(Some(link.clone()));
        self.state.send_modify(|state| state.enter(Connection::Ready));
        tracing::info!(nats.epoch = link.epoch, "connected to the broker");
        std::future::pending().await
    }

    fn trouble(&self, error: &QueueError) {
        let problem = chain(error);
        self.state.send_modify(|state| {
            state.hopeless = !error.is_outage();
            // One line per kind of trouble, not one per try.
            if state.problem.as_ref() != Some(&problem) {
                tracing::warn!(error = %problem, "the broker can't be used; trying again");
                state.problem = Some(problem);
            }
        });
    }
}

async fn wait_for_endpoint(endpoint: &mut watch::Receiver<Option<Endpoint>>) -> Option<Endpoint> {
    endpoint.wait_for(Option::is_some).await.ok()?.clone()
}

/// Ends when the connection is lost.
async fn watch_events(events: &mut mpsc::Receiver<Event>, dropped: &watch::Sender<u64>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Disconnected | Event::Closed => return,
            Event::SlowConsumer(_) => dropped.send_modify(|count| *count = count.wrapping_add(1)),
            Event::ServerError(error) => tracing::warn!(error = %error, "the broker reports an error"),
            Event::Connected | Event::LameDuckMode | Event::Draining | Event::ClientError(_) => {}
        }
    }
}
