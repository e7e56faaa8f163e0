//! The Workers' places. A place is made by whoever names the Worker first, its route or a domain that leads to it,
//! and stays one and the same for as long as anybody points at it. Requests never wait here; writers take turns.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use papaya::HashMap;

use super::name::Name;
use super::{Live, Published, WorkerRoute};

/// The place of one Worker; empty where no route is known. Custom domains point at it, so that a switch needs no
/// second change.
#[derive(Debug, Default)]
pub struct Slot(ArcSwapOption<WorkerRoute>);

impl Slot {
    /// What the Worker serves at this moment.
    pub fn route(&self) -> Option<Arc<WorkerRoute>> {
        self.0.load_full()
    }

    /// Puts another route, or none, in place. No new socket goes where the one before led; open ones end in time.
    fn put(&self, next: Option<Arc<WorkerRoute>>) {
        let stays = next.as_deref().and_then(upstream).map(Arc::clone);
        let before = self.0.swap(next);
        if let Some(gone) = before.as_deref().and_then(upstream)
            && !stays.is_some_and(|stays| Arc::ptr_eq(&stays, gone))
        {
            gone.retire();
        }
    }
}

fn upstream(route: &WorkerRoute) -> Option<&Arc<crate::runtime::upstream::Upstream>> {
    match &route.live {
        Live::Upstream(upstream) => Some(upstream),
        _ => None,
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: HashMap<Name, Arc<Slot>>,
    /// A slot that is taken out of the map must not be given out at the same moment.
    turn: Mutex<()>,
}

impl Slots {
    /// Nothing is half done under it, so a writer that died leaves nothing broken.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make(&self, name: &str) -> Arc<Slot> {
        let slots = self.slots.pin();
        match slots.get(name.as_bytes()) {
            Some(slot) => Arc::clone(slot),
            None => Arc::clone(slots.get_or_insert_with(name.into(), Arc::default)),
        }
    }

    /// The Worker's place, to point at.
    pub(super) fn of(&self, name: &str) -> Arc<Slot> {
        let _turn = self.turn();
        self.make(name)
    }

    pub(super) fn route(&self, name: &str) -> Option<Arc<WorkerRoute>> {
        self.slots.pin().get(name.as_bytes())?.route()
    }

    pub(super) fn publish(&self, route: WorkerRoute) -> Published {
        let _turn = self.turn();
        let slot = self.make(&route.worker);
        if slot.route().is_some_and(|current| current.epoch > route.epoch) {
            return Published::Outdated;
        }
        slot.put(Some(Arc::new(route)));
        Published::Current
    }

    /// Empties the places of all other Workers; one stays in the map only while a domain points at it.
    pub(super) fn retain(&self, worker: impl Fn(&str) -> bool) {
        let _turn = self.turn();
        self.slots.pin().retain(|name, slot| {
            if std::str::from_utf8(name.bytes()).is_ok_and(&worker) {
                return true;
            }
            slot.put(None);
            Arc::strong_count(slot) > 1
        });
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}
