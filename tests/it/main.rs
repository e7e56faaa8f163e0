//! The whole product, tested from outside: real processes, real broker, real sandbox, real sockets.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on says why and ends")]

mod answers;
mod app;
mod blocked;
mod tenants;
mod wire;

mod api_deploy;
mod api_errors;
mod api_projects;
mod cancel;
mod cli;
mod front_door;
mod idempotency;
mod openapi;
mod secrets;
mod serving;
mod spine;
mod streams;
mod tenancy;
