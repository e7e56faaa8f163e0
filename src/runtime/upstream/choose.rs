//! Owns which origin gets a request: the one with the fewest in hand among those that are well.
//! Never leaves a Worker without an origin because all are in doubt: then all are tried.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{OriginReport, OriginState, Upstream};
use crate::domain::upstream::UpstreamPolicy;

/// A request's place at an origin, given back when its answer is over.
pub struct Turn {
    upstream: Arc<Upstream>,
    pub at: usize,
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Turn").field(&self.at).finish()
    }
}

impl Turn {
    pub(super) fn origin(&self) -> &OriginState {
        &self.upstream.origins[self.at]
    }

    pub(super) fn policy(&self) -> &UpstreamPolicy {
        &self.upstream.policy
    }

    /// Until when an answer may go on that is on its way.
    pub(super) fn stays_until(&self) -> Option<Instant> {
        self.upstream.stays_until().map(Instant::from_std)
    }

    /// And one that only begins when that time is over.
    pub(super) fn late_until(&self) -> Option<Instant> {
        let now = self.stays_until().map(|until| (until, Instant::now()));
        now.filter(|(until, now)| until <= now).map(|(_, now)| now + self.upstream.reuse.drain)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.upstream.origins[self.at].in_hand.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Upstream {
    /// The next origin, none of `tried`. `None` where all have as many requests as they may.
    pub(super) fn choose(self: &Arc<Self>, tried: u64) -> Option<Turn> {
        let is_fresh = |at: usize| tried & (1 << (at % 64)) == 0;
        let count = self.origins.len();
        // Equals take turns. One step a choice: with two, every second origin would have none.
        let first = if count > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % count } else { 0 };
        let best = |wants_well: bool| {
            (0..count)
                .map(|step| (first + step) % count)
                .filter(|at| is_fresh(*at) && (!wants_well || self.is_taken_into_account(*at)))
                .map(|at| (self.origins[at].in_hand.load(Ordering::Relaxed), at))
                .min_by_key(|(in_hand, _)| *in_hand)
        };
        let (_, at) = best(true).or_else(|| best(false))?;
        let before = self.origins[at].in_hand.fetch_add(1, Ordering::AcqRel);
        let turn = Turn { upstream: Arc::clone(self), at };
        (before < self.policy.connections_per_origin as usize).then_some(turn)
    }

    fn is_taken_into_account(&self, at: usize) -> bool {
        let origin = &self.origins[at];
        let ejected_until = origin.ejected_until.load(Ordering::Relaxed);
        // Most were never ejected, and the clock is asked in vain.
        origin.is_well.load(Ordering::Relaxed) && (ejected_until == 0 || ejected_until <= self.now_ms())
    }

    /// An origin that answered is in nobody's doubt any more.
    pub(super) fn succeeded(&self, at: usize) {
        let origin = &self.origins[at];
        if origin.failures.load(Ordering::Relaxed) != 0 {
            origin.failures.store(0, Ordering::Relaxed);
        }
        if origin.ejections.load(Ordering::Relaxed) != 0 {
            origin.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// Leaves an origin out for a while after several failures in a row.
    pub(super) fn failed(&self, at: usize) {
        let origin = &self.origins[at];
        let failures = origin.failures.fetch_add(1, Ordering::AcqRel) + 1;
        let rule = &self.policy.ejection;
        if rule.after == 0 || failures < rule.after {
            return;
        }
        let now = self.now_ms();
        let others = self.origins.iter().filter(|o| o.ejected_until.load(Ordering::Relaxed) > now).count();
        // A fault that all share must not take all away.
        if (others + 1) * 100 > usize::from(rule.max_percent) * self.origins.len() {
            return;
        }
        origin.failures.store(0, Ordering::Relaxed);
        let ejections = origin.ejections.fetch_add(1, Ordering::AcqRel);
        let pause = rule.base.saturating_mul(1 << ejections.min(16)).min(rule.max);
        origin.ejected_until.store(now + millis(pause), Ordering::Relaxed);
        tracing::warn!(origin = %origin.name, pause_ms = millis(pause), "an origin failed again and again; it is left out");
    }

    pub(super) fn now_ms(&self) -> u64 {
        millis(self.made.elapsed())
    }

    pub(super) fn report_of(&self, at: usize) -> OriginReport {
        let origin = &self.origins[at];
        OriginReport {
            origin: origin.name.to_string(),
            healthy: origin.is_well.load(Ordering::Relaxed),
            ejected: origin.ejected_until.load(Ordering::Relaxed) > self.now_ms(),
            in_hand: origin.in_hand.load(Ordering::Relaxed),
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
