//! Owns the way from a host to a version: the rules of hosts and the tables, a slot for each Worker. HOT: every request passes here.
//! Never writes a table by itself, never waits, and knows no actor, store, queue, control or HTTP framework.

pub mod explain;
pub mod host;
pub mod probe;
pub mod refusal;
pub mod tables;

pub use host::{HostClass, HostRules};
pub use refusal::{BadRequest, EdgeRefusal};
pub use tables::{
    Counts, CustomDomain, CustomHost, Live, Published, Resolved, Slot, Split, Tables, Target, WorkerRoute,
};
