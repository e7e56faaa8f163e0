//! The queue: the doorbell between the database's rows and whoever works on them.
//!
//! The only room that knows async-nats. It owns the embedded broker, the two streams, and what
//! travels through them. It never decides anything about a deployment, and nothing is lost with it:
//! the database is the truth, a message only says "look now".

mod settings;

mod broker_process;
mod election;
mod embedded;
mod embedded_files;
mod embedded_launch;

mod api;
mod connection;
mod endpoint;
mod state;
mod streams;

mod consumer;
mod dead_letter;
mod events;
mod inspect;
mod message;
mod publisher;

mod backoff;
mod error;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::connection::{Connector, Link};
use self::embedded::Embedded;
use self::embedded_files::EmbeddedFiles;
use self::endpoint::Endpoint;
use self::streams::Streams;

pub use self::broker_process::ProcessIdentity;
pub use self::consumer::{Delivery, JobSource};
pub use self::dead_letter::{DeadLetter, DeadLetterClass};
pub use self::embedded_launch::child_launch_main;
pub use self::error::QueueError;
pub use self::events::{DEPLOYMENTS_CHANGED, EventStream, QueueEvent, ROUTES_CHANGED};
pub use self::inspect::{QueueStats, StoredMessage};
pub use self::message::{
    BadWireId, DeployJob, JobMetadata, JobParams, JobTarget, MalformedJob, VERSION, WireId,
};
pub use self::publisher::{Ring, StreamSequence};
pub use self::settings::{MAX_DELIVERIES, ServerUrl, SettingProblem, Settings};
pub use self::state::{BrokerState, Connection};
pub use self::streams::Reconciled;

/// Beyond the broker's own stop timeout: connections close and locks are released.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// Where the queue finds things on this machine.
#[derive(Debug, Clone)]
pub struct QueuePaths {
    pub data_dir: PathBuf,
    /// Holds `nats-server/nats-server` when the installer put it there.
    pub tools_dir: PathBuf,
    /// Our own program; it must handle `internal child-launch` with `child_launch_main`.
    pub exe: PathBuf,
}

/// A handle on the queue; clones share everything.
#[derive(Clone)]
pub struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Arc<Settings>,
    streams: Arc<Streams>,
    link: watch::Receiver<Option<Link>>,
    dropped: watch::Receiver<u64>,
    state: watch::Receiver<BrokerState>,
    /// The same state, for what only a caller finds out.
    noted: Arc<watch::Sender<BrokerState>>,
    publishes: Semaphore,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

impl Queue {
    /// Starts connecting, and the embedded broker where `nats.url` is empty. Returns before either is
    /// there; see `wait_ready`. Must be called within a runtime, and `shutdown` be cancelled only after
    /// everything that uses the queue has ended: it ends the broker.
    ///
    /// # Errors
    /// What no waiting mends: `BinaryMissing`, `Setting`, `File`.
    pub fn start(
        settings: Settings,
        paths: QueuePaths,
        shutdown: CancellationToken,
    ) -> Result<Self, QueueError> {
        if let Some(SettingProblem { key, problem }) = settings.problems().into_iter().next() {
            return Err(QueueError::Setting { key, problem });
        }
        let settings = Arc::new(settings);
        let streams = Arc::new(Streams::new());
        let (endpoint, endpoints) = watch::channel(None);
        let (link, links) = watch::channel(None);
        let (dropped, drops) = watch::channel(0);
        let (state, states) = watch::channel(BrokerState::at_start());
        let state = Arc::new(state);
        let noted = Arc::clone(&state);
        let tasks = TaskTracker::new();
        let shutdown = shutdown.child_token();

        // The broker outlives the connection, so that what was said last still arrives.
        let broker_shutdown = CancellationToken::new();
        let connector = Connector {
            settings: Arc::clone(&settings),
            streams: Arc::clone(&streams),
            endpoint: endpoints,
            link,
            dropped,
            state: Arc::clone(&state),
            shutdown: shutdown.clone(),
        };
        // An endpoint that never changes still needs its sender: without one it would count as changed.
        let fixed = if settings.is_embedded() {
            let embedded = Embedded {
                files: EmbeddedFiles::prepare(&paths.data_dir)?,
                binary: find_binary(&settings, &paths.tools_dir)?,
                exe: paths.exe,
                settings: Arc::clone(&settings),
                endpoint,
                state,
                shutdown: broker_shutdown.clone(),
            };
            tasks.spawn(embedded.run());
            None
        } else {
            tracing::info!(nats.url = %settings.url.masked(), "using the broker at nats.url");
            endpoint.send_replace(Some(Endpoint::of_settings(&settings)));
            Some(endpoint)
        };
        tasks.spawn(async move {
            connector.run().await;
            drop(fixed);
            broker_shutdown.cancel();
        });
        tasks.close();

        let publishes = Semaphore::new(settings.publish_pending_max);
        let inner = Inner {
            settings,
            streams,
            link: links,
            dropped: drops,
            state: states,
            noted,
            publishes,
            shutdown,
            tasks,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits until jobs can be rung and pulled.
    ///
    /// # Errors
    /// `NotReady` with the last known problem when that takes longer than `patience`.
    pub async fn wait_ready(&self, patience: Duration) -> Result<(), QueueError> {
        let mut link = self.inner.link.clone();
        let ready = link.wait_for(|link| link.as_ref().is_some_and(|link| link.ready));
        match timeout(patience, ready).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(QueueError::Closed),
            Err(_) => {
                let problem = self.inner.state.borrow().problem.clone();
                let problem = problem.unwrap_or_else(|| "still connecting".into());
                Err(QueueError::NotReady { problem })
            }
        }
    }

    /// Watches the connection and the embedded broker.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.inner.state.clone()
    }

    /// Creates what is missing in the broker, updates what differs, and tells what was done since the
    /// last call, by this or at connecting. Where a stream or consumer was created, ring every due row.
    ///
    /// # Errors
    /// `Conflict` names the key that can't be changed in place; `Unavailable`, `Refused`.
    pub async fn reconcile(&self) -> Result<Reconciled, QueueError> {
        let link = self.link("look after the streams")?;
        self.look_after_streams(&link).await?;
        Ok(self.inner.streams.take())
    }

    /// Disconnects; the owner also ends the broker, and it is gone when this returns.
    pub async fn shutdown(&self) {
        self.inner.shutdown.cancel();
        let patience =
            self.inner.settings.stop_timeout() + self.inner.settings.request_timeout() + STOP_MARGIN;
        if timeout(patience, self.inner.tasks.wait()).await.is_err() {
            tracing::error!("the queue did not end in time");
        }
    }

    async fn look_after_streams(&self, link: &Link) -> Result<(), QueueError> {
        self.inner.streams.reconcile(link, &self.inner.settings).await
    }

    fn link(&self, doing: &'static str) -> Result<Link, QueueError> {
        self.inner.link.borrow().clone().ok_or_else(|| QueueError::not_connected(doing))
    }

    fn ready_link(&self, doing: &'static str) -> Result<Link, QueueError> {
        self.link(doing).and_then(
            |link| {
                if link.ready { Ok(link) } else { Err(QueueError::not_connected(doing)) }
            },
        )
    }
}

/// The broker's program: the setting, else what the installer put into the tools, else the PATH.
///
/// # Errors
/// [`QueueError::BinaryMissing`], with the places that were looked at.
pub fn find_binary(settings: &Settings, tools_dir: &Path) -> Result<PathBuf, QueueError> {
    const NAME: &str = "nats-server";
    let looked_at: Vec<PathBuf> = if settings.binary.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::iter::once(tools_dir.join(NAME).join(NAME))
            .chain(std::env::split_paths(&path).map(|folder| folder.join(NAME)))
            .collect()
    } else {
        vec![PathBuf::from(&settings.binary)]
    };
    match looked_at.iter().find(|path| path.is_file()) {
        // Children start in our working folder today, but nothing promises that.
        Some(path) => std::path::absolute(path).map_err(QueueError::file("find", path)),
        None => Err(QueueError::BinaryMissing { looked_at }),
    }
}
