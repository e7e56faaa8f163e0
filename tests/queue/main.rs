//! The queue against a real nats-server: what is rung, delivered, settled, lost and found again.

#![expect(clippy::unwrap_used, reason = "a test that can't go on stops where it is")]

mod support;

mod delivering;
mod embedded;
mod events;
mod leftovers;
mod several_servers;
mod streams;
