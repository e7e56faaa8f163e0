//! The private broker of this `data_dir`: owned by one process, attached to by the others.
//!
//! The owner starts it, restarts it for ever with a bounded backoff, and ends it. The others read
//! `server.json` and take over when the lock comes free.
//! It never talks NATS: it hands an `Endpoint` to the connection and nothing else.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::broker_process::BrokerProcess;
use super::election::{OwnerLock, try_own};
use super::embedded_files::{Credential, EmbeddedFiles, ServerRecord};
use super::endpoint::Endpoint;
use super::error::QueueError;
use super::settings::Settings;
use super::state::{BrokerState, Connection};
use crate::domain::cause::chain;

/// A broker that ran this long was healthy: the next restart waits the shortest time again.
const STEADY: Duration = Duration::from_secs(30);
/// How often a starting broker is asked for its port.
const START_POLL: Duration = Duration::from_millis(20);

pub(super) struct Embedded {
    pub(super) settings: Arc<Settings>,
    pub(super) files: EmbeddedFiles,
    pub(super) binary: PathBuf,
    /// Our own program, for `internal child-launch`.
    pub(super) exe: PathBuf,
    pub(super) endpoint: watch::Sender<Option<Endpoint>>,
    pub(super) state: Arc<watch::Sender<BrokerState>>,
    pub(super) shutdown: CancellationToken,
}

impl Embedded {
    pub(super) async fn run(self) {
        if let Some(lock) = self.attach_until_owner().await {
            self.own(lock).await;
        }
    }

    /// Follows the owner's record until the lock comes free; `None` when shutting down.
    async fn attach_until_owner(&self) -> Option<OwnerLock> {
        let mut told = false;
        loop {
            match try_own(&self.files.owner_lock()) {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) if !told => {
                    tracing::info!("another server on this data_dir owns the broker; attaching to it");
                    told = true;
                }
                Ok(None) => {}
                Err(error) => self.report(&error),
            }
            self.follow(self.files.read_record().filter(|record| record.identity.is_running()).as_ref());
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = sleep(Duration::from_millis(self.settings.owner_poll_ms)) => {}
            }
        }
    }

    fn follow(&self, record: Option<&ServerRecord>) {
        let generation = record.map(|record| record.generation);
        let pid = record.map(|record| record.identity.pid);
        self.endpoint.send_if_modified(|endpoint| {
            let stale = endpoint.as_ref().map(|endpoint| endpoint.generation) != generation;
            if stale {
                *endpoint = record.map(Endpoint::of_record);
            }
            stale
        });
        self.state.send_if_modified(|state| std::mem::replace(&mut state.pid, pid) != pid);
    }

    /// Keeps a broker running until shutdown. The lock is released only when the broker has ended.
    async fn own(&self, lock: OwnerLock) {
        self.state.send_modify(|state| state.owner = true);
        let mut backoff =
            Backoff::new(self.settings.retry_backoff_min_ms, self.settings.retry_backoff_max_ms);
        let mut leftover = self.leftover().await;
        loop {
            let started = tokio::select! {
                () = self.shutdown.cancelled() => break,
                started = self.adopt_or_start(leftover.take()) => started,
            };
            match started {
                Ok((mut broker, record)) => {
                    let since = Instant::now();
                    self.follow(Some(&record));
                    tokio::select! {
                        () = self.shutdown.cancelled() => {
                            broker.end(self.settings.stop_timeout()).await;
                            break;
                        }
                        status = broker.ended() => {
                            tracing::warn!(broker.pid = broker.identity().pid, broker.status = %status,
                                "the broker ended by itself and is started again");
                        }
                        () = self.hung() => {
                            tracing::warn!(broker.pid = broker.identity().pid,
                                "the broker runs but can't be reached; it is ended and started again");
                            broker.end(self.settings.stop_timeout()).await;
                        }
                    }
                    if since.elapsed() > STEADY {
                        backoff.reset();
                    }
                }
                Err(error) => self.report(&error),
            }
            self.follow(None);
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                () = sleep(backoff.next()) => {}
            }
        }
        self.follow(None);
        self.state.send_modify(|state| state.owner = false);
        drop(lock);
    }

    /// Ends when the broker was of no use for `nats.hang_timeout_seconds` at a stretch: not reached, its
    /// streams not to be had, or no message confirmed. After a full disk a broker answers and stores
    /// nothing any more, however much space there is again: only a fresh one does.
    async fn hung(&self) {
        let mut state = self.state.subscribe();
        let limit = Duration::from_secs(self.settings.hang_timeout_seconds);
        let useless =
            |state: &BrokerState| state.unconfirmed.is_some_and(|unconfirmed| unconfirmed.lasted() >= limit);
        // The waits can't fail: we hold the sender ourselves.
        loop {
            drop(state.wait_for(|state| state.connection != Connection::Ready || useless(state)).await);
            if useless(&state.borrow()) {
                return;
            }
            let back = state.wait_for(|state| state.connection == Connection::Ready);
            if timeout(limit, back).await.is_err() {
                return;
            }
        }
    }

    async fn adopt_or_start(
        &self,
        leftover: Option<(BrokerProcess, ServerRecord)>,
    ) -> Result<(BrokerProcess, ServerRecord), QueueError> {
        match leftover {
            Some(found) => Ok(found),
            None => self.start().await,
        }
    }

    /// The broker of a killed server, if it still runs: reused when it answers, ended when it doesn't.
    async fn leftover(&self) -> Option<(BrokerProcess, ServerRecord)> {
        let record = self.files.read_record()?;
        let broker = match BrokerProcess::adopt(record.identity) {
            Ok(broker) => broker?,
            Err(error) => {
                tracing::warn!(error = %error, "the broker left over by another server can't be watched");
                return None;
            }
        };
        let answered = Endpoint::of_record(&record).probe(&self.settings).await;
        match answered {
            Ok(()) => {
                tracing::info!(
                    broker.pid = record.identity.pid,
                    "reusing the broker left over by another server"
                );
                Some((broker, record))
            }
            Err(error) => {
                tracing::warn!(broker.pid = record.identity.pid, error = %chain(&error),
                    "ending a left-over broker that does not answer");
                broker.end(self.settings.stop_timeout()).await;
                None
            }
        }
    }

    /// Starts a broker, on the port and with the credential of the last one where the port is free.
    async fn start(&self) -> Result<(BrokerProcess, ServerRecord), QueueError> {
        let last = self.files.read_record();
        let generation = last.as_ref().map_or(0, |last| last.generation).wrapping_add(1);
        let (port, credential) = match last.as_ref().and_then(|last| Some((last.port()?, last.credential())))
        {
            Some((port, credential)) if is_free(port).await => (Some(port), credential),
            // Whoever has that port now may have been sent the old password.
            Some(_) | None => (None, Credential::random()?),
        };
        self.files.write_config(&self.settings, port, &credential)?;
        self.files.clear_ports()?;
        let mut broker = self.spawn().await?;
        let pid = broker.identity().pid;
        let port = match timeout(
            Duration::from_secs(self.settings.start_timeout_seconds),
            self.listening(&mut broker),
        )
        .await
        {
            Ok(listening) => listening?,
            Err(_) => {
                broker.end(self.settings.stop_timeout()).await;
                let problem = "it did not listen within nats.start_timeout_seconds".into();
                return Err(QueueError::Start { problem });
            }
        };
        // Between fork and exec the process already has its pid and start time, so they are final.
        let record = ServerRecord {
            identity: broker.identity(),
            url: format!("nats://127.0.0.1:{port}"),
            user: credential.user.clone(),
            password: secrecy::ExposeSecret::expose_secret(&credential.password).to_owned(),
            generation,
        };
        if let Err(error) = self.files.write_record(&record) {
            broker.end(self.settings.stop_timeout()).await;
            return Err(error);
        }
        tracing::info!(
            broker.pid = pid,
            broker.port = port,
            broker.generation = generation,
            "the broker listens"
        );
        Ok((broker, record))
    }

    async fn spawn(&self) -> Result<BrokerProcess, QueueError> {
        let log = self.files.launch_log();
        let said = File::create(&log).map_err(QueueError::file("create", &log))?;
        let mut command = Command::new(&self.exe);
        command
            .args(["internal", "child-launch", "--parent"])
            .arg(std::process::id().to_string())
            .arg("--store-lock")
            .arg(self.files.store_lock())
            .arg("--")
            .arg(&self.binary)
            .arg("--config")
            .arg(self.files.config())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            // A Ctrl-C in the terminal is for us: the broker has to outlive the drain.
            .process_group(0)
            .kill_on_drop(true);
        let child = crate::process::spawn(command).await.map_err(QueueError::file("run", &self.exe))?;
        match BrokerProcess::of_child(child).await.map_err(QueueError::file("watch", &self.exe))? {
            Ok(broker) => Ok(broker),
            Err(status) => Err(self.ended_early(&status)),
        }
    }

    fn ended_early(&self, status: &str) -> QueueError {
        QueueError::Start { problem: format!("it ended with {status}: {}", self.files.last_words()) }
    }

    /// Waits until the broker itself says on which port it listens.
    async fn listening(&self, broker: &mut BrokerProcess) -> Result<u16, QueueError> {
        let pid = broker.identity().pid;
        let port = async {
            loop {
                if let Some(port) = self.files.listening_port(pid) {
                    return port;
                }
                sleep(START_POLL).await;
            }
        };
        tokio::select! {
            port = port => Ok(port),
            status = broker.ended() => Err(self.ended_early(&status)),
        }
    }

    fn report(&self, error: &QueueError) {
        let problem = chain(error);
        tracing::error!(error = %problem, "the embedded broker is not running; trying again");
        self.state.send_modify(|state| state.problem = Some(problem));
    }
}

async fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).await.is_ok()
}
