//! What one sandbox's connections came to: hosts, verdicts, bytes. Bounded in hosts, whatever a build
//! asks for, and in bytes, which is the build's allowance.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

/// Hosts told of in one build's log; more would only be noise.
const HOSTS: usize = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Connected,
    /// Not in the project's list.
    Unlisted,
    /// Listed, and resolves to an address that no build may reach.
    Private,
    /// Listed, and does not resolve or answer.
    Unreachable,
    /// The allowance of bytes is used up.
    Spent,
}

impl Verdict {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Unlisted => "refused: not in the project's egress list",
            Self::Private => "refused: it resolves to a private or local address",
            Self::Unreachable => "failed: it could not be reached",
            Self::Spent => "refused: the build's allowance of bytes is used up",
        }
    }
}

#[derive(Debug)]
pub(in crate::sandbox) struct Book {
    left: AtomicU64,
    seen: Mutex<BTreeMap<(String, Verdict), u64>>,
}

impl Book {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), seen: Mutex::default() }
    }

    pub(super) fn note(&self, target: &str, verdict: Verdict) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let full = seen.len() >= HOSTS;
        let key = (target.to_owned(), verdict);
        match seen.get_mut(&key) {
            Some(count) => *count += 1,
            None if full => {}
            None => drop(seen.insert(key, 1)),
        }
    }

    /// Takes `bytes` of the allowance; answers whether they were there.
    pub(super) fn spend(&self, bytes: u64) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    pub(super) fn is_spent(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// One line a host and verdict since the last call.
    pub(in crate::sandbox) fn take_lines(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let line = |((target, verdict), count): ((String, Verdict), u64)| {
            let times = if count == 1 { String::new() } else { format!(" ({count} times)") };
            format!("network: {target} {}{times}", verdict.words())
        };
        seen.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_once_with_their_count_and_bounded() {
        let book = Book::new(10);
        book.note("a.test:443", Verdict::Unlisted);
        book.note("a.test:443", Verdict::Unlisted);
        book.note("b.test:443", Verdict::Connected);
        assert_eq!(
            book.take_lines(),
            [
                "network: a.test:443 refused: not in the project's egress list (2 times)",
                "network: b.test:443 connected"
            ]
        );
        assert!(book.take_lines().is_empty());
        (0..1_000).for_each(|n| book.note(&format!("h{n}.test:443"), Verdict::Unlisted));
        assert_eq!(book.take_lines().len(), HOSTS);
    }

    #[test]
    fn an_allowance_is_spent_once() {
        let book = Book::new(10);
        assert!(book.spend(6) && !book.spend(5) && book.spend(4) && book.is_spent());
    }
}
