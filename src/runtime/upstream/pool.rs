//! Owns the connections to one origin that have no request: a shelf for each serving thread, open to all.
//! Never waits: a shelf that another thread is at is passed by. Never keeps more than its bound.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, TryLockError};
use std::task::Context;
use std::time::Duration;

use super::link::Link;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The number of this thread among those that forward.
    static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
}

fn this_thread() -> usize {
    THREAD.get().unwrap_or_else(|| {
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        THREAD.set(Some(number));
        number
    })
}

/// Idle connections.
pub struct Pool {
    shelves: Box<[Shelf]>,
    /// The bound of each shelf.
    kept: usize,
}

/// What was put here last is taken first: what it needs of socket and memory is still near the processor, and the
/// others grow old enough to be let go. Held for the moment of one step only.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "a link stays where it is from its first request to its last")]
struct Shelf(Mutex<Vec<Box<Link>>>);

impl Shelf {
    /// `None` while another thread is at it.
    fn at<T>(&self, step: impl FnOnce(&mut Vec<Box<Link>>) -> T) -> Option<T> {
        match self.0.try_lock() {
            Ok(mut links) => Some(step(&mut links)),
            // A list is whole whatever happened to who held it.
            Err(TryLockError::Poisoned(links)) => Some(step(&mut links.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Pool {
    /// `kept` is the bound of each shelf.
    pub fn new(threads: usize, kept: usize) -> Self {
        Self { shelves: (0..threads.max(1)).map(|_| Shelf::default()).collect(), kept: kept.max(1) }
    }

    /// A connection that can be used at once: one of this thread's, else another's, whose socket wakes us through
    /// that thread, which costs less than connecting anew.
    pub fn take(&self, keep_idle: Duration, cx: &mut Context<'_>) -> Option<Box<Link>> {
        let own = this_thread() % self.shelves.len();
        for at in 0..self.shelves.len() {
            let shelf = &self.shelves[(own + at) % self.shelves.len()];
            // Bounded by the shelf: what is not usable is dropped, which closes it.
            while let Some(mut link) = shelf.at(Vec::pop).flatten() {
                if link.idle_since.elapsed() < keep_idle && link.is_usable(cx) {
                    return Some(link);
                }
            }
        }
        None
    }

    /// Lets go of those that their origin has closed, or that are too old. One that is looked at is off its shelf for a
    /// moment only.
    pub fn sweep(&self, keep_idle: Duration, cx: &mut Context<'_>) {
        for shelf in &self.shelves {
            // From the oldest on, as many as there are now: what is put back meanwhile was just used.
            let count = shelf.at(|links| links.len()).unwrap_or(0);
            let mut next = 0;
            for _ in 0..count {
                let taken = shelf.at(|links| (next < links.len()).then(|| links.remove(next))).flatten();
                let Some(mut link) = taken else { break };
                if link.idle_since.elapsed() < keep_idle && link.is_usable(cx) {
                    let place = next;
                    let put_back = shelf.at(|links| links.insert(place.min(links.len()), link));
                    next += usize::from(put_back.is_some());
                }
            }
        }
    }

    /// Keeps a connection whose answer is over; a full shelf lets it go.
    pub fn keep(&self, mut link: Box<Link>, cx: &mut Context<'_>) {
        if !link.is_usable(cx) {
            return;
        }
        link.rest();
        let own = this_thread() % self.shelves.len();
        let mut link = Some(link);
        for at in 0..self.shelves.len() {
            let put = |links: &mut Vec<Box<Link>>| {
                if links.len() < self.kept {
                    links.extend(link.take());
                }
            };
            if self.shelves[(own + at) % self.shelves.len()].at(put).is_some() {
                break;
            }
        }
    }
}
