//! The only room that knows sea-orm: noun-first functions over the tables.
//!
//! Every tenant's query takes an [`OrgScope`](crate::domain::OrgScope); every write of a running
//! deployment names its fence, and a write with an old fence changes no row.
//! Never decides what should happen; only whether the recorded state allows it.

pub mod claims;
mod clock;
mod connect;
mod error;
mod history;
#[cfg(test)]
mod lifecycle_tests;
#[cfg(test)]
mod line_tests;
mod link;
pub mod schema;
mod settings;

pub mod admission;
pub mod attempts;
pub mod bench;
pub mod builders;
pub mod certificates;
pub mod dead_letters;
pub mod deployments;
pub mod domain_checks;
pub mod domains;
pub mod edges;
pub mod events;
pub mod hosts;
pub mod idempotency;
pub mod issuing;
pub mod journal;
pub mod leases;
pub mod line;
pub mod logs;
pub mod outcome;
pub mod paces;
pub mod projects;
pub mod quota;
pub mod redrives;
pub mod renewals;
pub mod rings;
pub mod routes;
pub mod shares;
pub mod tenants;
pub mod upstreams;
pub mod versions;

pub use connect::{Answer, Store};
pub use error::StoreError;
pub use settings::{Kind, Settings};
