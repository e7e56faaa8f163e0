//! Owns telling a slow client from one that trickles: how much has passed while somebody was waited for.
//! Never counts the time in which nobody waits for the client: who has to wait for us is not slow.

use std::time::{Duration, Instant};

/// How slowly a client may be.
#[derive(Debug, Clone, Copy)]
pub struct Slowest {
    /// Waited for so long, it must have moved what the rate says; and anew from there.
    pub span: Duration,
    /// 0: not bounded.
    pub bytes_per_second: u64,
}

/// How fast it was, in the span that runs.
#[derive(Debug, Default)]
pub struct Pace {
    since: Option<Instant>,
    owed: Duration,
    bytes: u64,
}

impl Pace {
    /// From now on the client is waited for, if it is not already.
    pub fn wait(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Since when it is waited for without a byte.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.since
    }

    /// Something came, or was taken.
    pub fn moved(&mut self, bytes: u64) {
        if let Some(since) = self.since.take() {
            self.owed += since.elapsed();
        }
        self.bytes += bytes;
    }

    /// Whether a span has passed with less than it should have moved.
    pub fn is_too_slow(&mut self, slowest: Slowest) -> bool {
        if self.owed < slowest.span {
            return false;
        }
        let least = self.owed.as_secs_f64() * slowest.bytes_per_second as f64;
        let is_too_slow = (self.bytes as f64) < least;
        (self.owed, self.bytes) = (Duration::ZERO, 0);
        is_too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOWEST: Slowest = Slowest { span: Duration::from_secs(10), bytes_per_second: 100 };

    fn after(owed: u64, bytes: u64) -> Pace {
        Pace { since: None, owed: Duration::from_secs(owed), bytes }
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_slow_client_is_not() {
        assert!(!after(9, 1).is_too_slow(SLOWEST), "its time is not over");
        assert!(after(10, 999).is_too_slow(SLOWEST));
        assert!(!after(10, 1000).is_too_slow(SLOWEST));
        assert!(!after(10, 0).is_too_slow(Slowest { bytes_per_second: 0, ..SLOWEST }));
    }

    #[test]
    fn what_was_fast_once_is_no_credit_for_ever() {
        let mut pace = after(10, 1 << 30);
        assert!(!pace.is_too_slow(SLOWEST));
        pace.owed = Duration::from_secs(10);
        assert!(pace.is_too_slow(SLOWEST));
    }

    #[test]
    fn only_the_time_in_which_it_is_waited_for_counts() {
        let mut pace = Pace::default();
        pace.moved(10);
        assert!(pace.owed.is_zero() && pace.waiting_since().is_none());
        pace.wait();
        let since = pace.waiting_since();
        pace.wait();
        assert_eq!(pace.waiting_since(), since, "twice asked is waited once");
        pace.moved(0);
        assert!(pace.waiting_since().is_none());
    }
}
