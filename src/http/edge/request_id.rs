//! Owns the id that joins an answer to its log lines: kept from the client where it is valid, else made here.
//! Never lets a client write anything but a short word into headers and logs.

use std::cell::RefCell;

use http::header::{HeaderMap, HeaderName, HeaderValue};

pub const NAME_TEXT: &str = "x-request-id";
pub const NAME: HeaderName = HeaderName::from_static(NAME_TEXT);

const MAX_CHARS: usize = 128;
/// Random bytes fetched from the kernel at once: one call serves 64 requests.
const POOL_BYTES: usize = 1024;

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES }) };
}

struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
}

/// The id of one request: 1–128 characters of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id that a client sent, if it is a valid one; else a new one.
    pub fn accept(sent: Option<&[u8]>) -> RequestId {
        let kept = sent.filter(|id| is_valid(id)).and_then(|id| HeaderValue::from_bytes(id).ok());
        kept.map_or_else(RequestId::random, RequestId)
    }

    pub fn from_headers(headers: &HeaderMap) -> RequestId {
        match headers.get(NAME) {
            Some(value) if is_valid(value.as_bytes()) => RequestId(value.clone()),
            _ => RequestId::random(),
        }
    }

    /// A UUIDv4 in simple form.
    pub fn random() -> RequestId {
        let mut text = [0; 32];
        let id = uuid::Builder::from_random_bytes(random_bytes()).into_uuid();
        let text = id.simple().encode_lower(&mut text);
        RequestId(HeaderValue::from_str(text).expect("hex digits are a valid header value"))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn into_value(self) -> HeaderValue {
        self.0
    }
}

fn is_valid(id: &[u8]) -> bool {
    (1..=MAX_CHARS).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Different each time; not secret.
pub(super) fn random_bytes() -> [u8; 16] {
    POOL.with_borrow_mut(|pool| {
        if pool.used + 16 > POOL_BYTES {
            // Ids need to differ, not to be secret; without entropy the server could not have started.
            getrandom::fill(&mut pool.bytes).expect("the kernel gives random bytes once it has started");
            pool.used = 0;
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&pool.bytes[pool.used..pool.used + 16]);
        pool.used += 16;
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn kept(value: &str) -> bool {
        RequestId::accept(Some(value.as_bytes())).as_str() == value
    }

    #[test]
    fn valid_ids_are_kept_and_others_replaced() {
        assert!(kept("abc-DEF_1.2"));
        assert!(kept(&"a".repeat(128)));
        assert!(!kept(&"a".repeat(129)));
        assert!(!kept(""));
        assert!(!kept("a b"));
        assert!(!kept("a/b"));
    }

    #[test]
    fn new_ids_are_uuids_that_differ() {
        let ids: HashSet<String> = (0..1000).map(|_| RequestId::random().as_str().to_owned()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() == 32 && id.as_bytes()[12] == b'4'));
    }
}
