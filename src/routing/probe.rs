//! Owns the signature by which the platform asks an edge which version answered.
//! Never says so to anybody else: without a valid signature an answer carries no version id, digest or epoch.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The request header that carries the signature.
pub const HEADER: &str = "x-libra-probe";

/// How far the two clocks may differ; also how long a signature that somebody overheard is worth anything.
/// What it would show then is a version id, and nothing can be changed with it.
const TOLERANCE_SECONDS: u64 = 60;
const MAX_NONCE_CHARS: usize = 64;

/// The key that all nodes of one installation share.
#[derive(Clone)]
pub struct ProbeKey(Box<[u8]>);

impl ProbeKey {
    pub fn new(bytes: &[u8]) -> ProbeKey {
        ProbeKey(bytes.into())
    }
}

impl std::fmt::Debug for ProbeKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ProbeKey(secret)")
    }
}

/// The value of [`HEADER`] for one request. `host` is in its stored form (no port), `path` without the query,
/// `nonce` is 1–64 letters and digits chosen at random.
pub fn sign(key: &ProbeKey, now_seconds: u64, nonce: &str, host: &str, path: &str) -> String {
    let tag = mac(key, &now_seconds.to_string(), nonce, host, path).finalize().into_bytes();
    format!("v1.{now_seconds}.{nonce}.{}", hex::encode(tag))
}

/// Whether `value` was made by [`sign`] with this key, for this host and path, within the last minute.
/// Compares in constant time.
pub fn verify(key: &ProbeKey, value: &str, host: &str, path: &str, now_seconds: u64) -> bool {
    let mut parts = value.split('.');
    let (Some("v1"), Some(time), Some(nonce), Some(tag), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let nonce_is_fine = (1..=MAX_NONCE_CHARS).contains(&nonce.len())
        && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let Ok(seconds) = time.parse::<u64>() else { return false };
    let mut given = [0; 32];
    if !nonce_is_fine
        || seconds.abs_diff(now_seconds) > TOLERANCE_SECONDS
        || hex::decode_to_slice(tag, &mut given).is_err()
    {
        return false;
    }
    mac(key, time, nonce, host, path).verify_slice(&given).is_ok()
}

fn mac(key: &ProbeKey, time: &str, nonce: &str, host: &str, path: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes a key of any length");
    for part in ["v1", "\n", time, "\n", nonce, "\n", host, "\n", path] {
        mac.update(part.as_bytes());
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_signed_request_within_a_minute_is_valid() {
        let key = ProbeKey::new(b"a key of thirty-two random bytes");
        let value = sign(&key, 1_000_000, "abc123", "blog.libra.localhost", "/a");
        let valid = |value: &str, host: &str, path: &str, now| verify(&key, value, host, path, now);
        assert!(valid(&value, "blog.libra.localhost", "/a", 1_000_000));
        assert!(valid(&value, "blog.libra.localhost", "/a", 1_000_060));
        assert!(valid(&value, "blog.libra.localhost", "/a", 999_940));
        assert!(!valid(&value, "blog.libra.localhost", "/a", 1_000_061));
        assert!(!valid(&value, "blog.libra.localhost", "/a", 999_939));
        assert!(!valid(&value, "shop.libra.localhost", "/a", 1_000_000));
        assert!(!valid(&value, "blog.libra.localhost", "/b", 1_000_000));
        assert!(!verify(&ProbeKey::new(b"other"), &value, "blog.libra.localhost", "/a", 1_000_000));
        let moved = value.replace(".1000000.", ".1000001.");
        assert!(!valid(&moved, "blog.libra.localhost", "/a", 1_000_000));
        for broken in
            ["", "v1", "v1.1000000.abc123", "v2.1000000.abc123.00", &format!("{value}.x"), &value[..70]]
        {
            assert!(!valid(broken, "blog.libra.localhost", "/a", 1_000_000), "{broken}");
        }
        assert_eq!(format!("{key:?}"), "ProbeKey(secret)");
    }
}
