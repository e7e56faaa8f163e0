//! Any bytes as a head, a chunked body, a host and a target: what the front door makes of them keeps its promises.
//! `tests/promises.rs` asks the same in CI, so that this can't fall behind unseen.

#![no_main]

use libfuzzer_sys::fuzz_target;

/// The door's own files: they are nobody else's to call.
#[path = "../../src/http/door/chunks.rs"]
mod chunks;
#[path = "../../src/http/door/head.rs"]
mod head;
mod promises;
/// What `head` names.
mod routing {
    pub use libra::routing::BadRequest;
}

fuzz_target!(|bytes: &[u8]| promises::are_kept(bytes));
