//! The whole product, tested from outside: real processes, real broker, real sandbox, real sockets.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on says why and ends")]

mod app;

mod host;

mod browser;
mod build_env;
mod builds;
mod doctor;
mod spine;

mod failing;

mod actors;
mod broker;
mod database;
mod dead_letters;
mod disk;
mod kills;
mod serving_alone;
mod stopping;
mod switching;
mod two_servers;
