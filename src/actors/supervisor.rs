//! The supervisor: owns the other actors, each by a factory, and rebuilds what stops.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::certificate_keeper::CertificateKeeper;
use super::deployment::DeploymentActor;
use super::domain_checks::DomainChecks;
use super::domain_resolver::DomainResolver;
use super::sweep::Sweep;
use super::worker_registry::WorkerRegistry;
use super::{ActorParts, AddressBook, Child, ChildStopped};

const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// A child that lived this long starts over with the first backoff.
const PROVEN: Duration = Duration::from_secs(60);

pub struct Supervisor {
    parts: ActorParts,
    book: Arc<AddressBook>,
    pool: usize,
    /// Where the pool runs: builds must not delay the owners of the tables.
    builders: ArbiterHandle,
    started: HashMap<Child, Instant>,
    backoff: HashMap<Child, Duration>,
    running: HashSet<Child>,
    drained: Option<tokio::sync::oneshot::Sender<()>>,
    draining: bool,
}

/// No new job is taken; answers when every running one has handed over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain {
    pub done: tokio::sync::oneshot::Sender<()>,
}

impl Supervisor {
    #[must_use]
    pub fn new(parts: ActorParts, book: Arc<AddressBook>, pool: usize, builders: ArbiterHandle) -> Self {
        Self {
            parts,
            book,
            pool,
            builders,
            started: HashMap::new(),
            backoff: HashMap::new(),
            running: HashSet::new(),
            drained: None,
            draining: false,
        }
    }

    fn start_child(&mut self, child: Child, ctx: &mut Context<Self>) {
        if self.draining {
            return;
        }
        let owner = ctx.address().recipient();
        match child {
            Child::DomainResolver => {
                self.book.enter_resolver(DomainResolver::new(self.parts.clone(), owner).start());
            }
            Child::WorkerRegistry => {
                self.book.enter_registry(WorkerRegistry::new(self.parts.clone(), owner).start());
            }
            Child::DomainChecks => {
                self.book.enter_checks(DomainChecks::new(self.parts.clone(), owner).start());
            }
            Child::CertificateKeeper => {
                self.book.enter_keeper(CertificateKeeper::new(self.parts.clone(), owner).start());
            }
            Child::Sweep => self.book.enter_sweep(Sweep::new(self.parts.clone(), owner).start()),
            Child::Deployment(slot) => {
                let parts = self.parts.clone();
                let addr = DeploymentActor::start_in_arbiter(&self.builders, move |_| {
                    DeploymentActor::new(slot, parts, owner)
                });
                self.book.enter_deployment(slot, addr);
            }
        }
        self.started.insert(child, Instant::now());
        self.running.insert(child);
    }

    fn report_if_drained(&mut self) {
        let busy = self.running.iter().any(|c| matches!(c, Child::Deployment(_)));
        if self.draining
            && !busy
            && let Some(done) = self.drained.take()
        {
            // The asker may have stopped waiting; then nobody needs to know.
            let _nobody_waits = done.send(());
        }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_child(Child::WorkerRegistry, ctx);
        self.start_child(Child::DomainResolver, ctx);
        self.start_child(Child::DomainChecks, ctx);
        self.start_child(Child::CertificateKeeper, ctx);
        self.start_child(Child::Sweep, ctx);
        for slot in 0..self.pool {
            self.start_child(Child::Deployment(slot), ctx);
        }
    }
}

impl Handler<ChildStopped> for Supervisor {
    type Result = ();

    fn handle(&mut self, ChildStopped(child): ChildStopped, ctx: &mut Self::Context) {
        self.running.remove(&child);
        self.book.leave(child);
        if self.draining {
            self.report_if_drained();
            return;
        }
        let lived = self.started.get(&child).map_or(Duration::ZERO, Instant::elapsed);
        let wait = match self.backoff.get(&child) {
            Some(last) if lived < PROVEN => (*last * 2).min(BACKOFF_LIMIT),
            _ => BACKOFF_FIRST,
        };
        self.backoff.insert(child, wait);
        tracing::warn!(actor = %child, backoff_ms = wait.as_millis(), "an actor stopped; a fresh one follows");
        ctx.run_later(wait, move |this, ctx| this.start_child(child, ctx));
    }
}

impl Handler<Drain> for Supervisor {
    type Result = ();

    fn handle(&mut self, order: Drain, _: &mut Self::Context) {
        self.draining = true;
        self.drained = Some(order.done);
        self.parts.draining.cancel();
        self.report_if_drained();
    }
}
