//! The fuzz target's promises, on bytes that look like what they are about: CI has no fuzzer, but builds and keeps them.

use proptest::prelude::{Just, Strategy, any, prop, prop_oneof, proptest};

/// The door's own files: they are nobody else's to call.
#[path = "../src/http/door/chunks.rs"]
mod chunks;
#[path = "../src/http/door/head.rs"]
mod head;
#[path = "../fuzz/fuzz_targets/promises.rs"]
mod promises;
/// What `head` names.
mod routing {
    pub use libra::routing::BadRequest;
}

/// Of heads, chunks, hosts and targets.
const WORDS: [&str; 24] = [
    "GET ",
    "/",
    " HTTP/1.1",
    "\r\n",
    "\n",
    "\r",
    "Host",
    ": ",
    " ",
    "\t",
    "a",
    "5",
    "f;x=y",
    "0\r\n\r\n",
    "Transfer-Encoding",
    "chunked",
    "/dispatch",
    "/api",
    "?",
    "worker=",
    "%77orker",
    "&",
    ".libra.localhost",
    "XN--",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(&WORDS[..]).prop_map(|word| word.as_bytes().to_vec());
    let piece =
        prop_oneof![6 => word, 1 => prop::collection::vec(any::<u8>(), 0..4), 1 => Just("\u{e9}".into())];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_bytes_come_the_front_doors_promises_are_kept(bytes in pieces()) {
        promises::are_kept(&bytes);
    }

    #[test]
    fn heads_that_are_whole_keep_them_too(name in "[a-zA-Z_-]{1,6}", value in "[ -~\u{e9}\t]{0,9}", body in pieces()) {
        let head = format!("GET / HTTP/1.1\r\n{name}: {value}\r\n\r\n");
        promises::are_kept(&[head.as_bytes(), &body].concat());
    }
}
