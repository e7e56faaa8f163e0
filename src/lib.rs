//! Libra: from source to a live address, and the front door that serves it.

pub mod process;
