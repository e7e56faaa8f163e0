//! Budgets: at most so many times within any stretch of so much time.
//! Never remembers what happened: whoever keeps the ledger says so.

/// At most `most` times within any `window_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub most: u64,
    pub window_ms: i64,
}

impl Budget {
    /// When the next time may be, given the newest times until now in any order: `now` if at once.
    /// Times that lie ahead (a clock that was set back) count as now.
    #[must_use]
    pub fn free_at(self, times: &[i64], now: i64) -> i64 {
        let Ok(most) = usize::try_from(self.most) else { return now };
        if most == 0 {
            return now.saturating_add(self.window_ms);
        }
        let mut within: Vec<i64> =
            times.iter().map(|at| (*at).min(now)).filter(|at| *at > now - self.window_ms).collect();
        if within.len() < most {
            return now;
        }
        within.sort_unstable();
        // As soon as this one has left the window, one fewer than allowed is in it.
        within[within.len() - most].saturating_add(self.window_ms)
    }

    /// What is left of it beside `reserved` times that only others may use.
    #[must_use]
    pub fn without(self, reserved: u64) -> Self {
        Self { most: self.most.saturating_sub(reserved), ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_used_up_budget_is_free_when_its_oldest_use_has_left_the_window() {
        let budget = Budget { most: 2, window_ms: 100 };
        assert_eq!(budget.free_at(&[], 1_000), 1_000);
        assert_eq!(budget.free_at(&[950], 1_000), 1_000);
        assert_eq!(budget.free_at(&[950, 920], 1_000), 1_020);
        assert_eq!(budget.free_at(&[950, 920, 900], 1_000), 1_020);
        assert_eq!(budget.free_at(&[5_000, 950], 1_000), 1_050);
        assert_eq!(budget.without(2).free_at(&[], 1_000), 1_100);
    }

    proptest! {
        #[test]
        fn whoever_waits_as_told_never_exceeds_it(
            most in 1_u64..8, window_ms in 1_i64..1_000, pauses in prop::collection::vec(0_i64..500, 1..80),
        ) {
            let budget = Budget { most, window_ms };
            let mut now = 0;
            let mut used: Vec<i64> = Vec::new();
            for pause in pauses {
                now += pause;
                now = budget.free_at(&used, now);
                prop_assert_eq!(budget.free_at(&used, now), now);
                used.push(now);
                let within = used.iter().filter(|at| **at > now - window_ms).count();
                prop_assert!(within as u64 <= most, "{} within {} ms", within, window_ms);
            }
        }

        #[test]
        fn nobody_waits_longer_than_the_window(most in 1_u64..8, times in prop::collection::vec(0_i64..2_000, 0..40)) {
            let budget = Budget { most, window_ms: 500 };
            let free = budget.free_at(&times, 1_000);
            prop_assert!((1_000..=1_500).contains(&free));
        }
    }
}
