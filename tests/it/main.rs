//! The whole product, tested from outside: real processes, real broker, real sandbox, real sockets.

mod app;

mod host;

mod browser;
mod build_env;
mod builds;
mod doctor;
mod spine;
