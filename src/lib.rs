//! Libra: one binary that takes a web project from source to a live address, and serves it.
//!
//! In reading order: the words ([`domain`]), the record ([`store`]), the doorbell ([`queue`]), the
//! files ([`blobs`]), the walk of a deployment ([`pipeline`] in a [`sandbox`] with
//! the tools of [`toolchain`]), what is served
//! ([`runtime`], [`routing`]), the front door ([`http`]), who owns what ([`actors`]), the use cases
//! ([`control`]), and how all of it is put together ([`app`]). `ARCHITECTURE.md` has the map.

pub mod domain;

pub mod config;
pub mod telemetry;

pub mod blobs;
pub mod dns;
pub mod queue;
pub mod store;

pub mod control;
pub mod pipeline;
pub mod sandbox;
pub mod tls;
pub mod toolchain;

pub mod http;
pub mod routing;
pub mod runtime;

pub mod actors;
pub mod app;
pub mod cli;
pub mod process;
