//! When what waits may start: guessed from how long deployments took, with how far that may be off.

use std::collections::HashMap;

use super::Target;

/// With fewer samples their spread says little, and the guess is off by a quarter at least.
const FEW: i32 = 3;
/// A deployment that takes longer than expected takes this part of the expected time more.
const OVERDUE: f64 = 0.1;

/// How long a deployment takes, in ms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    pub mean_ms: f64,
    pub variance: f64,
}

impl Pace {
    #[must_use]
    pub fn of_samples(mean_ms: f64, variance: f64, samples: i32) -> Self {
        let least = if samples < FEW { (mean_ms / 4.0).powi(2) } else { 0.0 };
        Self { mean_ms, variance: variance.max(least) }
    }

    /// What is left of it after `elapsed_ms`.
    #[must_use]
    fn left(self, elapsed_ms: f64) -> Moment {
        Moment { ms: (self.mean_ms - elapsed_ms).max(self.mean_ms * OVERDUE), variance: self.variance }
    }
}

/// A time from now on, and the variance of that guess.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Moment {
    ms: f64,
    variance: f64,
}

const NOW: Moment = Moment { ms: 0.0, variance: 0.0 };

/// When a deployment is expected to start, in ms from now on: most probably between the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub in_ms: i64,
    pub earliest_ms: i64,
    pub latest_ms: i64,
}

impl Estimate {
    fn of(moment: Moment) -> Self {
        let off = 2.0 * moment.variance.sqrt();
        Self {
            in_ms: whole(moment.ms),
            earliest_ms: whole((moment.ms - off).max(0.0)),
            latest_ms: whole(moment.ms + off),
        }
    }
}

/// A deployment that holds a slot, or waits for one.
#[derive(Debug, Clone, Copy)]
pub struct Paced<'a> {
    pub project: &'a str,
    pub target: Target,
    pub pace: Pace,
    /// How long it has run already; for one that waits: how long it may not start yet.
    pub ms: i64,
}

/// When each of those that wait, in their order, starts on one of the slots. Empty without slots.
#[must_use]
pub fn start_times(slots: u32, running: &[Paced<'_>], waiting: &[Paced<'_>]) -> Vec<Estimate> {
    let mut free = Vec::new();
    let mut ends: HashMap<(&str, Target), Moment> = HashMap::new();
    for one in running {
        let end = one.pace.left(float(one.ms));
        ends.insert((one.project, one.target), end);
        free.push(end);
    }
    while free.len() < slots as usize {
        free.push(NOW);
    }
    let mut estimates = Vec::with_capacity(waiting.len());
    for one in waiting {
        let earliest = free.iter_mut().min_by(|a, b| a.ms.total_cmp(&b.ms));
        let Some(slot) = earliest else { return Vec::new() };
        let mut start = *slot;
        // What its project or its next attempt makes it wait for longer leaves the slot to others.
        let project = ends.get(&(one.project, one.target)).copied().unwrap_or(NOW);
        let due = Moment { ms: float(one.ms), variance: 0.0 };
        for later in [project, due] {
            if later.ms > start.ms {
                start = later;
            }
        }
        let end = Moment { ms: start.ms + one.pace.mean_ms, variance: start.variance + one.pace.variance };
        if start == *slot {
            *slot = end;
        }
        ends.insert((one.project, one.target), end);
        estimates.push(Estimate::of(start));
    }
    estimates
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a wait are far below 2^52")]
fn float(ms: i64) -> f64 {
    ms as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a cast of a float keeps within the bounds")]
fn whole(ms: f64) -> i64 {
    ms.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paced(project: &str, mean_ms: f64, ms: i64) -> Paced<'_> {
        let pace = Pace { mean_ms, variance: (mean_ms / 10.0).powi(2) };
        Paced { project, target: Target::Production, pace, ms }
    }

    fn starts(slots: u32, running: &[Paced<'_>], waiting: &[Paced<'_>]) -> Vec<i64> {
        start_times(slots, running, waiting).into_iter().map(|e| e.in_ms).collect()
    }

    #[test]
    fn slots_are_taken_in_order_as_they_become_free() {
        let running = [paced("a", 100.0, 40), paced("b", 100.0, 0)];
        let waiting = [paced("c", 50.0, 0), paced("d", 50.0, 0), paced("e", 50.0, 0)];
        assert_eq!(starts(2, &running, &waiting), [60, 100, 110]);
        assert_eq!(starts(3, &running, &waiting), [0, 50, 60]);
        assert!(starts(0, &[], &waiting).is_empty());
    }

    #[test]
    fn a_busy_project_and_a_next_attempt_are_waited_for_and_keep_no_slot() {
        let running = [paced("a", 100.0, 0)];
        let waiting = [paced("a", 50.0, 0), paced("b", 50.0, 70), paced("c", 50.0, 0)];
        assert_eq!(starts(2, &running, &waiting), [100, 70, 0]);
    }

    #[test]
    fn the_further_away_the_less_is_known() {
        let waiting: Vec<Paced<'_>> = (0..9).map(|_| paced("a", 100.0, 0)).collect();
        let spread = |e: &Estimate| e.latest_ms - e.earliest_ms;
        let estimates = start_times(1, &[paced("b", 100.0, 0)], &waiting);
        assert!(estimates.windows(2).all(|two| spread(&two[0]) < spread(&two[1])));
        assert!(estimates.iter().all(|e| e.earliest_ms <= e.in_ms && e.in_ms <= e.latest_ms));
    }

    #[test]
    fn one_sample_is_no_certainty() {
        assert!(Pace::of_samples(100.0, 0.0, 1).variance > 0.0);
        assert!(Pace::of_samples(100.0, 4.0, 9).variance < 5.0);
    }
}
