//! How many logs and events may be followed at once: a bound for each organization and one for all,
//! so that one organization's followers can't blind the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The places and who has them.
#[derive(Debug)]
pub struct StreamPlaces {
    most: usize,
    most_of_one: usize,
    taken: Mutex<HashMap<String, usize>>,
}

/// A taken place; given back when dropped.
#[derive(Debug)]
pub struct StreamPlace {
    places: Arc<StreamPlaces>,
    org: String,
}

impl StreamPlaces {
    #[must_use]
    pub fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, taken: Mutex::default() })
    }

    /// A place for this organization, if it and all together have one left.
    #[must_use]
    pub fn enter(self: &Arc<Self>, org: &str) -> Option<StreamPlace> {
        let mut taken = self.lock();
        if taken.values().sum::<usize>() >= self.most {
            return None;
        }
        let own = taken.entry(org.to_owned()).or_default();
        if *own >= self.most_of_one {
            return None;
        }
        *own += 1;
        Some(StreamPlace { places: Arc::clone(self), org: org.to_owned() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        // Counts change in one step each, so a panic elsewhere spoils none.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        if let Some(own) = taken.get_mut(&self.org) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.org);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_organization_can_not_take_the_places_of_another() {
        let places = StreamPlaces::new(3, 2);
        let held: Vec<_> = (0..2).map(|_| places.enter("a").unwrap()).collect();
        assert!(places.enter("a").is_none());
        let other = places.enter("b").unwrap();
        assert!(places.enter("c").is_none(), "three in all");
        drop(other);
        assert!(places.enter("c").is_some());
        drop(held);
        assert!(places.enter("a").is_some());
    }
}
