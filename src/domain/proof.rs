//! The proof that a domain is somebody's: the record that holds it, and what follows from having
//! seen it or not. Asks no name server and writes nothing.

use super::DomainStatus;
use super::time::rfc3339;

/// The label before the domain at which the proof stands.
const LABEL: &str = "_libra";
/// What the record's value begins with; the token follows.
const PREFIX: &str = "libra-domain-verification=";
/// With the label before it, a longer name would be no name any more (253 characters).
pub const MAX_PROVABLE_BYTES: usize = 253 - (LABEL.len() + 1);

/// The name of the TXT record that proves `hostname`.
#[must_use]
pub fn record_name(hostname: &str) -> String {
    format!("{LABEL}.{hostname}")
}

/// The value of that record.
#[must_use]
pub fn record_value(token: &str) -> String {
    format!("{PREFIX}{token}")
}

/// The values that a TXT record may stand for: its strings joined, as most programs read them, and each
/// by itself. Spaces around them, and quotes that a form took literally, do not count.
pub fn values_of(record: &[Vec<u8>]) -> impl Iterator<Item = Vec<u8>> {
    let single = if record.len() > 1 { record } else { &[] };
    std::iter::once(record.concat()).chain(single.iter().cloned()).map(|value| {
        let trimmed = value.trim_ascii();
        let bare = trimmed.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(trimmed);
        bare.to_vec()
    })
}

/// Whether a value is one of ours, whoever's.
#[must_use]
pub fn is_ours(value: &[u8]) -> bool {
    value.starts_with(PREFIX.as_bytes())
}

/// What a look at the name servers came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The record with this claim's token.
    Proof,
    /// The servers answered, and it is not there: what is there instead, for people.
    Gone(String),
    /// Nobody answered, or not to the point: nothing follows from it.
    NoAnswer(String),
}

/// When to look again, and what it takes to lose a domain. All in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A claim that waits for its proof: first and longest pause. In between the pause is the claim's age.
    pub pending_first: i64,
    pub pending_longest: i64,
    /// A proved domain, and one in quarantine.
    pub proved: i64,
    /// The longest pause of those after nobody answered.
    pub unanswered: i64,
    /// The proof must be seen gone so often in a row, and for so long.
    pub lost_checks: i32,
    pub lost: i64,
    /// A name in quarantine is held for its last owner for so long.
    pub held: i64,
}

/// Where a claim stands before a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub status: DomainStatus,
    pub created_at: i64,
    pub lost_since: Option<i64>,
    pub lost_checks: i32,
    pub unanswered: i32,
}

/// Where it stands after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// `verified` where the proof was seen.
    pub status: DomainStatus,
    pub is_proved: bool,
    pub lost_since: Option<i64>,
    pub lost_checks: i32,
    pub unanswered: i32,
    /// For people.
    pub message: String,
    /// Until the next look, in milliseconds.
    pub pause: i64,
    /// Where it goes into quarantine: for how long, in milliseconds.
    pub held_for: Option<i64>,
}

/// What follows from `seen` at `now`.
#[must_use]
pub fn judge(standing: Standing, seen: &Seen, now: i64, rules: &Rules) -> Judgement {
    let Standing { status, created_at, lost_since, lost_checks, unanswered } = standing;
    let regular = match status {
        DomainStatus::Pending | DomainStatus::Failed => {
            (now - created_at).clamp(rules.pending_first, rules.pending_longest)
        }
        DomainStatus::Verified | DomainStatus::Active | DomainStatus::Quarantined => rules.proved,
    };
    // Who claims names of servers that never answer is not to be looked at more often for it.
    let soon = match status {
        DomainStatus::Pending | DomainStatus::Failed => regular,
        DomainStatus::Verified | DomainStatus::Active | DomainStatus::Quarantined => {
            regular.min(rules.unanswered)
        }
    };
    match seen {
        Seen::Proof => Judgement {
            status: DomainStatus::Verified,
            is_proved: true,
            lost_since: None,
            lost_checks: 0,
            unanswered: 0,
            message: "The TXT record was found.".to_owned(),
            pause: rules.proved,
            held_for: None,
        },
        Seen::NoAnswer(why) => Judgement {
            status,
            is_proved: false,
            lost_since,
            lost_checks,
            unanswered: unanswered.saturating_add(1),
            message: format!("The name servers gave no answer ({why}), so nothing was decided."),
            pause: soon,
            held_for: None,
        },
        Seen::Gone(what) if status.is_served() => {
            let since = lost_since.unwrap_or(now);
            let checks = lost_checks.saturating_add(1);
            let over = checks >= rules.lost_checks && now - since >= rules.lost;
            let message = if over {
                format!(
                    "{what} It was seen so {checks} times since {}, so the domain is not served any more. \
                     Set the TXT record again to have it back.",
                    rfc3339(since)
                )
            } else {
                let until = rfc3339(since + rules.lost);
                format!("{what} The domain is served no longer than {until} or so unless the record is back.")
            };
            let status = if over { DomainStatus::Quarantined } else { status };
            Judgement {
                status,
                is_proved: false,
                lost_since: Some(since),
                lost_checks: checks,
                unanswered: 0,
                message,
                pause: regular,
                held_for: over.then_some(rules.held),
            }
        }
        Seen::Gone(what) => Judgement {
            status,
            is_proved: false,
            lost_since,
            lost_checks,
            unanswered: 0,
            message: what.clone(),
            pause: regular,
            held_for: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        pending_first: 30,
        pending_longest: 3_600,
        proved: 3_600,
        unanswered: 300,
        lost_checks: 3,
        lost: 10_000,
        held: 100_000,
    };

    fn standing(status: DomainStatus) -> Standing {
        Standing { status, created_at: 0, lost_since: None, lost_checks: 0, unanswered: 0 }
    }

    fn next(before: Standing, seen: &Seen, now: i64) -> Standing {
        let after = judge(before, seen, now, &RULES);
        Standing {
            status: after.status,
            created_at: 0,
            lost_since: after.lost_since,
            lost_checks: after.lost_checks,
            unanswered: after.unanswered,
        }
    }

    fn gone() -> Seen {
        Seen::Gone("There is no such record.".to_owned())
    }

    #[test]
    fn a_proof_is_lost_after_so_many_looks_and_so_long_a_time_and_not_before() {
        let mut held = standing(DomainStatus::Active);
        for now in [0, 5_000, 9_999] {
            held = next(held, &gone(), now);
            assert_eq!(held.status, DomainStatus::Active, "{now}");
        }
        assert_eq!(next(held, &gone(), 10_000).status, DomainStatus::Quarantined);
        let early = next(next(standing(DomainStatus::Active), &gone(), 0), &gone(), 20_000);
        assert_eq!(early.status, DomainStatus::Active, "twice is not enough however long");
        // Having been there once in between starts all over.
        let back = next(held, &Seen::Proof, 10_000);
        assert_eq!((back.lost_since, back.lost_checks), (None, 0));
    }

    #[test]
    fn silence_decides_nothing_however_long_it_lasts() {
        for status in [DomainStatus::Pending, DomainStatus::Active, DomainStatus::Quarantined] {
            let mut now = standing(status);
            for at in 0..100 {
                now = next(now, &Seen::NoAnswer("SERVFAIL".to_owned()), at * 1_000_000);
            }
            assert_eq!((now.status, now.lost_since, now.unanswered), (status, None, 100));
        }
        // Nor does it take back what was seen.
        let lost = next(standing(DomainStatus::Active), &gone(), 5);
        let silent = next(lost, &Seen::NoAnswer("timeout".to_owned()), 6);
        assert_eq!((silent.lost_since, silent.lost_checks), (Some(5), 1));
    }

    #[test]
    fn a_proof_brings_every_claim_back() {
        for &status in DomainStatus::ALL {
            assert_eq!(next(standing(status), &Seen::Proof, 1).status, DomainStatus::Verified);
        }
    }

    #[test]
    fn a_waiting_claim_is_looked_at_often_first_and_seldom_later() {
        let pause = |now| judge(standing(DomainStatus::Pending), &gone(), now, &RULES).pause;
        assert_eq!([pause(0), pause(100), pause(1_000_000)], [30, 100, 3_600]);
        let silent = |status| judge(standing(status), &Seen::NoAnswer("x".into()), 3_600, &RULES).pause;
        assert_eq!([silent(DomainStatus::Active), silent(DomainStatus::Pending)], [300, 3_600]);
    }

    #[test]
    fn values_are_read_whole_and_string_by_string() {
        let values = |record: &[&str]| {
            let record: Vec<Vec<u8>> = record.iter().map(|s| s.as_bytes().to_vec()).collect();
            values_of(&record).map(|v| String::from_utf8(v).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(values(&["a", "b"]), ["ab", "a", "b"]);
        assert_eq!(values(&[" \"a\" "]), ["a"]);
        assert_eq!(values(&[]), [""]);
    }

    #[test]
    fn the_longest_provable_name_has_a_record_name() {
        assert_eq!(record_name(&"a".repeat(MAX_PROVABLE_BYTES)).len(), 253);
    }
}
