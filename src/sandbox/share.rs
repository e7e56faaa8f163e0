//! Who of this server's sandboxes uses how much of the disk, so that when the host runs short one of them
//! ends and not all. Measures nothing itself and kills nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(super) struct DiskShares(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    uses: HashMap<u64, Use>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Use {
    bytes: u64,
    /// A command runs: only then can something be ended.
    running: bool,
    /// Ended for the host's sake; its files are not gone yet.
    ending: bool,
}

/// One sandbox's line in the table; stands until its files are removed.
#[derive(Debug)]
pub(super) struct DiskShare {
    shares: Arc<DiskShares>,
    key: u64,
}

/// What one sandbox does when the host is short of space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// Another one uses more, or is being removed already.
    GoOn,
    /// This one uses most, and more than its share.
    EndAsGreedy { share_bytes: u64 },
    /// This one uses most, and still no more than its share: the host is too small.
    EndAsVictim,
}

impl DiskShares {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(self: &Arc<Self>) -> DiskShare {
        let mut table = self.table();
        table.next += 1;
        let key = table.next;
        table.uses.insert(key, Use::default());
        DiskShare { shares: Arc::clone(self), key }
    }
}

impl DiskShare {
    pub(super) fn used(&self, bytes: u64) {
        if let Some(own) = self.shares.table().uses.get_mut(&self.key) {
            *own = Use { bytes, running: true, ..*own };
        }
    }

    pub(super) fn stopped(&self) {
        if let Some(own) = self.shares.table().uses.get_mut(&self.key) {
            own.running = false;
        }
    }

    /// The share is an equal part of what all builds hold, since the host has no more to give, and never
    /// less than an equal part of what one of them was promised.
    pub(super) fn shortage(&self, limit_bytes: u64, slots: u32) -> Shortage {
        let mut table = self.shares.table();
        if table.uses.values().any(|other| other.ending) {
            return Shortage::GoOn;
        }
        let most = table.uses.iter().filter(|(_, other)| other.running);
        if most.max_by_key(|(key, other)| (other.bytes, **key)).map(|(key, _)| *key) != Some(self.key) {
            return Shortage::GoOn;
        }
        let all = table.uses.values().fold(0_u64, |sum, other| sum.saturating_add(other.bytes));
        let share_bytes = all.max(limit_bytes) / u64::from(slots.max(1));
        match table.uses.get_mut(&self.key) {
            Some(own) => {
                own.ending = true;
                if own.bytes > share_bytes {
                    Shortage::EndAsGreedy { share_bytes }
                } else {
                    Shortage::EndAsVictim
                }
            }
            None => Shortage::GoOn,
        }
    }
}

impl Drop for DiskShare {
    fn drop(&mut self) {
        self.shares.table().uses.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_that_uses_most_is_ended_and_the_next_one_after_it_is_gone() {
        let shares = Arc::new(DiskShares::default());
        let (small, large, idle) = (shares.enter(), shares.enter(), shares.enter());
        small.used(10);
        large.used(60);
        idle.used(90);
        idle.stopped();
        assert_eq!(small.shortage(100, 3), Shortage::GoOn);
        assert_eq!(large.shortage(100, 3), Shortage::EndAsGreedy { share_bytes: 53 });
        assert_eq!(small.shortage(100, 3), Shortage::GoOn);
        drop((large, idle));
        assert_eq!(small.shortage(100, 3), Shortage::EndAsVictim);
    }
}
