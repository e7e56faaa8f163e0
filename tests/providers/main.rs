//! The same suite for every sandbox provider: the local one, and E2B and Daytona against a server that
//! speaks their protocols, which is itself held to their official clients.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says why and ends")]

mod bench;
mod server;

mod official;
mod remote;
mod suite;
mod sweeping;
