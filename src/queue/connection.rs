//! The one connection to the broker: opened again for ever, and ready only when the streams are.
//!
//! Each connection is a fresh client. The library's own endless reconnecting would keep trying an
//! old port with an old credential after the embedded broker moved, also after its last user is gone.
//! It never decides where the broker is: that is the endpoint's sender.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::embedded_files::ServerRecord;
use super::error::{QueueError, chain};
use super::settings::Settings;
use super::state::{BrokerState, Connection};
use super::streams::Streams;

const CONNECT: &str = "connect";
/// Connection events that wait to be looked at; more than these say nothing new.
const WAITING_EVENTS: usize = 16;

/// Where a broker is and how to sign in. Not `Debug`: it holds the password.
#[derive(Clone)]
pub(super) struct Endpoint {
    servers: Vec<ServerAddr>,
    credential: Option<(String, SecretString)>,
    credentials_file: Option<PathBuf>,
    pub(super) generation: u64,
}

impl Endpoint {
    pub(super) fn of_settings(settings: &Settings) -> Self {
        let file = settings.credentials_file.trim();
        let servers = settings.url.servers().unwrap_or_default();
        // The library reads user and password from an address but never sends them.
        let credential = servers.iter().find_map(|server| Some((server.username()?, server.password()?)));
        Self {
            credential: credential.map(|(user, password)| (decoded(user), decoded(password).into())),
            servers,
            credentials_file: (!file.is_empty()).then(|| PathBuf::from(file)),
            generation: 0,
        }
    }

    pub(super) fn of_record(record: &ServerRecord) -> Self {
        let credential = record.credential();
        Self {
            servers: record.url.parse().into_iter().collect(),
            credential: Some((credential.user, credential.password)),
            credentials_file: None,
            generation: record.generation,
        }
    }

    /// Signs in once and leaves again.
    pub(super) async fn probe(&self, settings: &Settings) -> Result<(), QueueError> {
        self.connect(settings).await.map(drop)
    }

    async fn connect(&self, settings: &Settings) -> Result<(Client, mpsc::Receiver<Event>), QueueError> {
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let mut options = ConnectOptions::new();
        if let Some(file) = &self.credentials_file {
            options = options.credentials_file(file).await.map_err(QueueError::file("read", file))?;
        }
        if let Some((user, password)) = &self.credential {
            options = options.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        let wait = Duration::from_millis(settings.connect_timeout_ms);
        let options = options
            .name("libra")
            .connection_timeout(wait)
            .request_timeout(Some(settings.request_timeout()))
            .ping_interval(Duration::from_secs(settings.ping_interval_seconds))
            .subscription_capacity(settings.event_buffer_messages)
            // As few tries as the library allows: going on is the loop below, with the newest endpoint.
            .max_reconnects(self.servers.len().max(1))
            .event_callback(move |event| {
                let sender = sender.clone();
                async move { drop(sender.try_send(event)) }
            });
        // Several addresses of one host may each take the connection timeout.
        let client = timeout(wait.saturating_mul(4), options.connect(self.servers.as_slice()))
            .await
            .map_err(|elapsed| QueueError::unavailable(CONNECT, elapsed))?
            .map_err(|error| QueueError::unavailable(CONNECT, error))?;
        Ok((client, events))
    }
}

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
            // One line per kind of trouble, not one per try.
            if state.problem.as_ref() != Some(&problem) {
                tracing::warn!(error = %problem, "the broker can't be used; trying again");
                state.problem = Some(problem);
            }
        });
    }
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
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
