//! The actors: thin owners of what must have one owner. Everything they do, they have other rooms do.
//!
//! An owner keeps a factory per child and builds a *fresh* child when one stops, also after a panic;
//! a child loads its state in `started`, so that a fresh one is a right one. Requests never wait for
//! an actor: they read the last published table.

mod book;
mod certificate_keeper;
mod deployment;
mod domain_checks;
mod domain_resolver;
mod fetches;
mod leases;
mod letter;
mod origins;
mod ringing;
mod strays;
mod supervisor;
mod sweep;
mod watch;
mod worker_registry;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;
use crate::queue::Queue;
use crate::routing::Tables;

pub use book::{ActorStates, AddressBook};
pub use domain_resolver::leads_to;
pub use origins::upstream_of;
pub use supervisor::{Drain, Supervisor};
pub use worker_registry::Refresh;

/// What the actors work with. Made once, in the composition root.
#[derive(Clone)]
pub struct ActorParts {
    pub pipeline: Pipeline,
    pub queue: Queue,
    pub tables: Arc<Tables>,
    /// Versions that are brought to this edge's disk at once.
    pub fetches_at_once: usize,
    /// The address at which this process's edge can be probed.
    pub edge_address: String,
    /// Cancelled when the server stops: no new job is taken.
    pub draining: CancellationToken,
    /// How long a step that runs then may go on before it is cut off.
    pub grace: Duration,
    /// Cancelled when every deployment has been handed over: until then somebody rings for them.
    pub stopping: CancellationToken,
}

/// A child of the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Child {
    DomainResolver,
    DomainChecks,
    WorkerRegistry,
    CertificateKeeper,
    Sweep,
    Deployment(usize),
}

impl std::fmt::Display for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DomainResolver => f.write_str("domain_resolver"),
            Self::DomainChecks => f.write_str("domain_checks"),
            Self::WorkerRegistry => f.write_str("worker_registry"),
            Self::CertificateKeeper => f.write_str("certificate_keeper"),
            Self::Sweep => f.write_str("sweep"),
            Self::Deployment(n) => write!(f, "deployment_{n}"),
        }
    }
}

/// Sent by a child from `stopped`, which also runs while a panic unwinds.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ChildStopped(pub Child);

/// Test-only: panics the actor that receives it. Sent only where `testing.fault_injection` is on,
/// which production refuses.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PanicNow;

/// Gives an actor the test-only panic and the report of its end.
macro_rules! child_actor {
    ($name:ident) => {
        impl actix::Handler<super::PanicNow> for $name {
            type Result = ();

            fn handle(&mut self, _: super::PanicNow, _: &mut Self::Context) {
                panic!("asked to panic by a test");
            }
        }
    };
}
pub(crate) use child_actor;
