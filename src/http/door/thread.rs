//! Owns one serving thread: a runtime of its own, its connections, and what they share without a lock.
//! Never shares a connection with another thread.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use tokio::sync::OnceCell;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

use super::accept;
use super::control::{ControlSurface, Late};
use super::findings::{Findings, Open};
use super::{Accepted, DoorSettings, connection, stalls};
use crate::http::edge::body::Watcher;
use crate::http::edge::tunnel::Tunnel;
use crate::http::edge::{self, Body, Connection, EdgeState, Outcome, RequestBody, RequestId};
use crate::http::seen::{Seat, Seen, Watch};
use crate::routing::{BadRequest, EdgeRefusal};

/// Between two looks at whether the last connection has ended.
const LOOK: Duration = Duration::from_millis(5);

/// What a thread is made with.
pub struct Parts {
    pub settings: Arc<DoorSettings>,
    pub edge: EdgeState,
    pub control: Late,
    pub draining: CancellationToken,
    pub seat: Seat,
}

/// A serving thread, from outside.
pub struct Worker {
    connections: Arc<AtomicUsize>,
    sender: UnboundedSender<Accepted>,
    thread: std::thread::JoinHandle<()>,
}

/// What all connections of this thread share.
pub struct Shared {
    pub settings: Arc<DoorSettings>,
    pub edge: EdgeState,
    pub draining: CancellationToken,
    pub seen: Rc<Seen>,
    configure: Late,
    control: OnceCell<ControlSurface>,
    requests: Cell<usize>,
}

impl Worker {
    pub fn start(number: usize, parts: Parts, cutting: CancellationToken) -> std::io::Result<Worker> {
        let (sender, mut receiver) = unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name(format!("door-{number}")).spawn(move || {
            let _loud = Loud(number);
            let local = tokio::task::LocalSet::new();
            let serving = local.run_until(async move {
                let shared = Rc::new(Shared::new(parts));
                // Where the routes are there already, so that no request waits for it.
                drop(shared.control().await);
                tokio::task::spawn_local(flush(Rc::clone(&shared.seen)));
                let taking = async {
                    while let Some(accepted) = receiver.recv().await {
                        tokio::task::spawn_local(connection::serve(accepted, Rc::clone(&shared)));
                    }
                };
                tokio::select! {
                    () = taking => {}
                    () = cutting.cancelled() => {}
                }
            });
            runtime.block_on(serving);
            // Connections that are still open end here, with the tasks that serve them.
            drop(local);
            runtime.shutdown_background();
        })?;
        Ok(Worker { connections: Arc::default(), sender, thread })
    }

    pub fn seat(&self) -> accept::Seat {
        accept::Seat { connections: Arc::clone(&self.connections), sender: self.sender.clone() }
    }

    /// Waits until no connection is open.
    pub async fn emptied(&self) {
        while self.connections.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    pub fn into_thread(self) -> std::thread::JoinHandle<()> {
        self.thread
    }
}

impl Shared {
    fn new(parts: Parts) -> Self {
        let Parts { settings, edge, control, draining, seat } = parts;
        Self {
            settings,
            edge,
            draining,
            seen: Rc::new(seat.into()),
            configure: control,
            control: OnceCell::new(),
            requests: Cell::new(0),
        }
    }

    /// This thread's application, made when its routes are there.
    async fn control(&self) -> Result<&ControlSurface, EdgeRefusal> {
        let configure = self.configure.get().ok_or(EdgeRefusal::ControlAway)?;
        let made = self.control.get_or_try_init(|| ControlSurface::make(Arc::clone(configure))).await;
        made.map_err(|()| {
            tracing::error!("this thread has no control surface; it serves Workers only");
            EdgeRefusal::Saturated
        })
    }

    async fn platform(
        &self,
        request: Request<RequestBody>,
        id: &RequestId,
        connection: Connection,
    ) -> http::Response<Body> {
        match self.control().await {
            Ok(control) => control.call(request, id, connection).await,
            Err(refusal) => (self.edge.refuse)(id, false, refusal).map(Body::bytes),
        }
    }

    /// Answers one request.
    pub async fn answer(
        self: Rc<Self>,
        request: Request<Incoming>,
        connection: Connection,
        bad: Option<BadRequest>,
        findings: Arc<Findings>,
    ) -> Result<http::Response<Body>, Infallible> {
        let mut held = Box::new(Held {
            watch: Watch::begin(&self.seen, &request, connection, &self.edge.trusted_proxies, bad),
            open: findings.open(),
            _in_hand: InHand::new(&self),
        });
        let patience = self.settings.patience();
        let request = request.map(|body| {
            let body = RequestBody::from(body).counted(findings.pieces());
            body.patient(patience.stream, patience.slowest())
        });
        let too_many = self.requests.get() > self.settings.requests;
        let response =
            match edge::serve(request, connection, bad, &self.edge, too_many, &mut held.watch.facts).await {
                Outcome::Answered(response) => response,
                // Boxed: its state would make that of every request larger.
                Outcome::Platform(request, id) => Box::pin(self.platform(request, &id, connection)).await,
            };
        if let Some(tunnel) = response.extensions().get::<Tunnel>() {
            findings.upgrade(tunnel.clone());
        }
        held.watch.answered(&response);
        Ok(response.map(|body| {
            // Only where every byte of the body goes to the socket as it is, and one answer after the other.
            let body = if connection.takes_files { body.send_by(findings.files()) } else { body };
            stalls::watched(body.watched(held))
        }))
    }
}

/// Says so when a thread ends by a panic: it gets no connection any more, and those it had are gone.
struct Loud(usize);

impl Drop for Loud {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(thread = self.0, "a serving thread died; the others go on, restart the server");
        }
    }
}

/// What is kept until an answer has been given whole or given up.
struct Held {
    watch: Watch,
    open: Open,
    _in_hand: InHand,
}

impl Watcher for Held {
    fn piece(&self) {
        self.open.piece();
    }

    fn ended(&mut self, given_bytes: u64, is_whole: bool) {
        self.watch.ended(given_bytes, is_whole);
    }
}

/// Hands lines of the access log on while there are too few to fill a buffer.
pub(super) async fn flush(seen: Rc<Seen>) {
    let Some(interval) = seen.flush_interval() else { return };
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        seen.flush();
    }
}

/// Counts a request until its answer has been given.
struct InHand(Rc<Shared>);

impl InHand {
    fn new(shared: &Rc<Shared>) -> Self {
        shared.requests.set(shared.requests.get() + 1);
        shared.seen.counters.taken_in_hand();
        Self(Rc::clone(shared))
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.seen.counters.given();
    }
}
