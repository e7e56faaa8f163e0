//! Owns the connections to one origin that have no request: a shelf for each serving thread, open to all.
//! Never locks, never waits, and never keeps more than its bound.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

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
    shelves: Box<[ArrayQueue<Box<Link>>]>,
}

impl Pool {
    /// `kept` is the bound of each shelf.
    pub fn new(threads: usize, kept: usize) -> Self {
        Self { shelves: (0..threads.max(1)).map(|_| ArrayQueue::new(kept.max(1))).collect() }
    }

    /// A connection that can be used at once: one of this thread's, else another's, whose socket wakes us through
    /// that thread, which costs less than connecting anew.
    pub fn take(&self, keep_idle: Duration, cx: &mut Context<'_>) -> Option<Box<Link>> {
        let own = this_thread() % self.shelves.len();
        for at in 0..self.shelves.len() {
            let shelf = &self.shelves[(own + at) % self.shelves.len()];
            // Bounded by the shelf: what is not usable is dropped, which closes it.
            while let Some(mut link) = shelf.pop() {
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
            // As many as there are now: what is put back meanwhile was just used.
            for _ in 0..shelf.len() {
                let Some(mut link) = shelf.pop() else { break };
                if link.idle_since.elapsed() < keep_idle && link.is_usable(cx) {
                    drop(shelf.push(link));
                }
            }
        }
    }

    /// Keeps a connection whose answer is over; a full shelf lets it go.
    pub fn keep(&self, mut link: Box<Link>, cx: &mut Context<'_>) {
        if link.is_usable(cx) {
            link.rest();
            drop(self.shelves[this_thread() % self.shelves.len()].push(link));
        }
    }
}
