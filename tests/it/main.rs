//! The whole product, tested from outside: real processes, real broker, real sandbox, real sockets.

mod app;

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
