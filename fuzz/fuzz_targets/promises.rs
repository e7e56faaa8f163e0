//! What the front door promises of any bytes as a head, a chunked body, a host and a target.
//! Never knows who makes the bytes up: the fuzzer, or `tests/promises.rs` in CI.

use libra::http::edge::dispatch::{Strategy, find, names_worker};
use libra::routing::{HostClass, HostRules};

use super::chunks::{Chunks, Followed};
use super::head::{Scanned, scan};

pub fn are_kept(bytes: &[u8]) {
    a_head(bytes);
    a_body(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        a_host(text);
        a_target(text);
    }
}

fn a_head(bytes: &[u8]) {
    if let Scanned::Whole { bytes: taken, judged } = scan(bytes) {
        let head = &bytes[..taken];
        assert!(head.ends_with(b"\n"));
        if judged.is_ok() {
            assert!(head.ends_with(b"\r\n\r\n"));
            assert!(
                !head.contains(&0) && !head.windows(3).any(|three| matches!(three, b"\r\n " | b"\r\n\t"))
            );
            for (at, byte) in head.iter().enumerate() {
                assert!(*byte != b'\n' || head[..at].ends_with(b"\r"));
                assert!(*byte != b'\r' || head[at + 1] == b'\n');
            }
        }
    }
}

fn a_body(bytes: &[u8]) {
    let whole = Chunks::new(100).follow(bytes);
    let mut chunks = Chunks::new(100);
    for (at, byte) in bytes.iter().enumerate() {
        match chunks.follow(std::slice::from_ref(byte)) {
            Followed::All => {}
            Followed::End(_) => return assert_eq!(whole, Followed::End(at + 1)),
            Followed::Broken => return assert_eq!(whole, Followed::Broken),
        }
    }
    assert_eq!(whole, Followed::All);
}

fn a_host(host: &str) {
    let rules = HostRules::new("libra.localhost", &[], &[]).expect("a host");
    let upper = host.to_ascii_uppercase();
    let class = rules.classify(host);
    assert_eq!(class, rules.classify(&upper));
    match class {
        Ok(HostClass::Worker(label)) => {
            assert!(
                !label.is_empty() && !label.contains('.') && !label.bytes().any(|b| b.is_ascii_uppercase())
            );
        }
        Ok(HostClass::Custom(name)) => {
            assert!(name.is_ascii() && !name.ends_with('.') && !name.ends_with(".libra.localhost"));
            // What is stored is found again as itself.
            assert_eq!(rules.classify(&name), Ok(HostClass::Custom(name.as_ref().into())));
        }
        Ok(HostClass::Platform) | Err(_) => {}
    }
}

fn a_target(text: &str) {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    let Ok(Some(found)) = find(&http::Method::GET, path, query) else { return };
    assert!(path.starts_with("/dispatch") || path.starts_with("/api/dispatch"));
    assert!(found.path.starts_with('/') && (found.path == "/" || path.ends_with(found.path)));
    match found.strategy {
        Strategy::Query => {
            let left = found.query.unwrap_or_default();
            assert!(!names_worker(&left));
        }
        _ => assert!(!found.worker.contains('/') && found.query.as_deref() == query),
    }
}
