//! The custom domains of the tables, each with the place of the Worker it leads to. One writer at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use papaya::HashMap;

use super::name::Name;
use super::slots::{Slot, Slots};
use super::{CustomDomain, CustomHost};

#[derive(Debug)]
struct Entry {
    to: Leads,
    /// The last reading of the whole record that named it.
    reading: AtomicU32,
}

#[derive(Debug)]
enum Leads {
    Slot(Arc<Slot>),
    /// Boxed, so that the others are a word shorter: few domains redirect.
    Redirect(Box<Arc<str>>),
    Inactive,
}

impl Leads {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slot(one), Self::Slot(other)) => Arc::ptr_eq(one, other),
            (Self::Redirect(one), Self::Redirect(other)) => one == other,
            (Self::Inactive, Self::Inactive) => true,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Hosts {
    entries: HashMap<Name, Entry>,
    reading: AtomicU32,
}

impl Hosts {
    pub(super) fn get(&self, host: &str) -> Option<CustomDomain> {
        Some(match &self.entries.pin().get(host.as_bytes())?.to {
            Leads::Slot(slot) => slot.route().map_or(CustomDomain::Inactive, CustomDomain::Worker),
            Leads::Redirect(to) => CustomDomain::Redirect(Arc::clone(to)),
            Leads::Inactive => CustomDomain::Inactive,
        })
    }

    pub(super) fn publish(&self, slots: &Slots, host: &str, to: &CustomHost) {
        let to = match to {
            CustomHost::Worker(worker) => Leads::Slot(slots.of(worker)),
            CustomHost::Redirect(target) => Leads::Redirect(Box::new(Arc::clone(target))),
            CustomHost::Inactive => Leads::Inactive,
        };
        let reading = self.reading.load(Ordering::Relaxed);
        let entries = self.entries.pin();
        match entries.get(host.as_bytes()) {
            Some(known) if known.to.is(&to) => known.reading.store(reading, Ordering::Relaxed),
            _ => drop(entries.insert(host.into(), Entry { to, reading: AtomicU32::new(reading) })),
        }
    }

    pub(super) fn remove(&self, host: &str) {
        self.entries.pin().remove(host.as_bytes());
    }

    /// What is published from here on belongs to a reading of the whole record.
    pub(super) fn begin_reading(&self) {
        self.reading.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops what the reading that ends did not name. Answers how many.
    pub(super) fn end_reading(&self) -> usize {
        let (reading, before) = (self.reading.load(Ordering::Relaxed), self.entries.len());
        self.entries.pin().retain(|_, entry| entry.reading.load(Ordering::Relaxed) == reading);
        before.saturating_sub(self.entries.len())
    }

    pub(super) fn each<E>(&self, mut each: impl FnMut(&str, CustomHost) -> Result<(), E>) -> Result<(), E> {
        for (name, entry) in &self.entries.pin() {
            let to = match &entry.to {
                Leads::Slot(slot) => match slot.route() {
                    Some(route) => CustomHost::Worker(Arc::clone(&route.worker)),
                    None => CustomHost::Inactive,
                },
                Leads::Redirect(to) => CustomHost::Redirect(Arc::clone(to)),
                Leads::Inactive => CustomHost::Inactive,
            };
            // It came in as text.
            if let Ok(host) = std::str::from_utf8(name.bytes()) {
                each(host, to)?;
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_where_it_leads_take_one_line_of_memory() {
        assert_eq!(size_of::<(Name, Entry)>(), 64);
    }
}
