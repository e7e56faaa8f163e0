//! The commands that talk to a server as its users do: through the public API, with a credential.
//! Never opens the database, the queue or the blob store.

pub mod cancel;
pub mod deploy;
pub mod logs;
pub mod projects;
pub mod status;

mod client;
mod error;
mod events;
mod follow;
mod render;
mod sources;
mod wire;

pub use client::{Session, SessionArgs};
pub use error::{CliError, Outcome, finish};
