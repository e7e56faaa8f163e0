//! A certificate's states and when it is tried next: the rules, without a clock or an issuer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::status::words;

words! {
    /// How far a host name's certificate has come. `none`: nobody has asked for one yet. A `valid` one that is
    /// being renewed stays `valid` where that fails.
    CertificateState {
        None = "none",
        Queued = "queued",
        Issuing = "issuing",
        Valid = "valid",
        Failed = "failed",
    }
}

words! {
    /// How an issuer looks whether a host name leads here.
    ChallengeKind {
        Http01 = "http-01",
        TlsAlpn01 = "tls-alpn-01",
    }
}

impl CertificateState {
    /// Where it stands after an order failed or had to wait; `not_after` is the end of what is there.
    #[must_use]
    pub fn after_failure(not_after: Option<i64>, now: i64, waits: Waits) -> Self {
        match (not_after, waits) {
            (Some(end), _) if end > now => Self::Valid,
            (_, Waits::ForBudget) => Self::Queued,
            (_, Waits::AfterFailure) => Self::Failed,
        }
    }
}

/// Why nothing happens until the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    ForBudget,
    AfterFailure,
}

/// The pauses after failures.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first_ms: i64,
    pub longest_ms: i64,
}

impl Backoff {
    /// After the `failures`th failure in a row (from 1): doubled each time.
    #[must_use]
    pub fn after(self, failures: i64) -> i64 {
        let doublings = u32::try_from(failures.saturating_sub(1).clamp(0, 40)).unwrap_or(40);
        self.first_ms.saturating_mul(1_i64 << doublings).min(self.longest_ms)
    }
}

/// When a certificate is renewed: when so many percent of its life are over, up to a twentieth of it
/// earlier by its name, so that those issued together aren't renewed together.
#[must_use]
pub fn renew_at(hostname: &str, not_before: i64, not_after: i64, percent: u8) -> i64 {
    let life = not_after.saturating_sub(not_before).max(0);
    let seed = hostname.bytes().fold(0_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000);
    let share = life / 100 * i64::from(percent.min(100));
    not_before.saturating_add(share).saturating_sub(life / 20 * seed / 1_000)
}

/// When it is renewed if its issuer suggests a time from `start` to `end`: then, each name at a moment of its own; but
/// never so late that a tenth of its life would be left for what goes wrong, and not before it is a day old (a
/// twentieth of its life, if that is less), so that an issuer that says "now" again and again gets no order each time.
/// Nothing: the suggestion makes no sense.
#[must_use]
pub fn renew_within(
    hostname: &str,
    (start, end): (i64, i64),
    not_before: i64,
    not_after: i64,
) -> Option<i64> {
    let life = not_after.saturating_sub(not_before);
    if end <= start || life <= 0 {
        return None;
    }
    let seed = hostname.bytes().fold(0_i64, |sum, byte| (sum * 31 + i64::from(byte)) % 1_000);
    let at = start.saturating_add(end.saturating_sub(start) / 1_000 * seed);
    let first = not_before.saturating_add((life / 20).min(24 * 3_600_000));
    Some(at.clamp(first, not_after.saturating_sub(life / 10)))
}

/// Which of `issuers` is asked after so many failures in a row: each gets `tries`, then the next one.
#[must_use]
pub fn issuer_of(failures: i64, tries: u32, issuers: usize) -> usize {
    let turn = usize::try_from(failures.max(0) / i64::from(tries.max(1))).unwrap_or(0);
    turn.checked_rem(issuers).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_still_good_survives_a_failed_renewal() {
        let after = CertificateState::after_failure;
        assert_eq!(after(Some(10), 5, Waits::AfterFailure), CertificateState::Valid);
        assert_eq!(after(Some(10), 5, Waits::ForBudget), CertificateState::Valid);
        assert_eq!(after(Some(10), 10, Waits::AfterFailure), CertificateState::Failed);
        assert_eq!(after(None, 5, Waits::AfterFailure), CertificateState::Failed);
        assert_eq!(after(None, 5, Waits::ForBudget), CertificateState::Queued);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let backoff = Backoff { first_ms: 60_000, longest_ms: 300_000 };
        let pauses: Vec<i64> = [0, 1, 2, 3, 4, 400].into_iter().map(|n| backoff.after(n)).collect();
        assert_eq!(pauses, [60_000, 60_000, 120_000, 240_000, 300_000, 300_000]);
    }

    #[test]
    fn renewal_falls_within_the_twentieth_before_its_share_of_life() {
        for name in ["a.example", "b.example", "shop.example.com"] {
            let at = renew_at(name, 0, 90_000, 66);
            assert!((54_900..=59_400).contains(&at), "{name}: {at}");
            assert_eq!(at, renew_at(name, 0, 90_000, 66));
        }
        assert_eq!(renew_at("x", 5, 5, 66), 5);
    }

    #[test]
    fn an_issuer_may_hurry_or_wait_within_bounds() {
        const DAY: i64 = 24 * 3_600_000;
        let (from, to) = (0, 90 * DAY);
        let within = |start, end| renew_within("shop.example.com", (start, end), from, to);
        let at = within(30 * DAY, 31 * DAY).unwrap();
        assert!((30 * DAY..31 * DAY).contains(&at));
        assert_ne!(Some(at), renew_within("a.example", (30 * DAY, 31 * DAY), from, to));
        // At once, unless it is new; never so late that nothing is left to mend a failure.
        assert_eq!(within(-9 * DAY, -8 * DAY), Some(DAY));
        assert_eq!(within(200 * DAY, 201 * DAY), Some(81 * DAY));
        assert_eq!(within(5, 5), None);
        assert_eq!(renew_within("x", (1, 2), 5, 5), None);
        assert_eq!(renew_within("x", (i64::MIN, i64::MAX), from, to), Some(DAY));
    }

    #[test]
    fn issuers_take_turns_after_repeated_failures() {
        let asked: Vec<usize> = (0..6).map(|failures| issuer_of(failures, 2, 2)).collect();
        assert_eq!(asked, [0, 0, 1, 1, 0, 0]);
        assert_eq!(issuer_of(9, 2, 1), 0);
    }
}
