//! Owns what operators see of requests: the access log and the numbers. Each serving thread has counters and a buffer
//! of its own.
//! Never locks, waits or asks the system on a request's way.

mod counters;
mod line;
pub mod metrics;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

pub use counters::{Counters, Protocol};
pub use watch::Watch;
pub use writer::{AccessLog, AccessLogSettings, Writing};

/// What all serving threads are seen with.
#[derive(Debug, Clone)]
pub struct Observer {
    pub threads: Vec<Arc<Counters>>,
    /// `None`: no access log is written.
    pub log: Option<AccessLog>,
}

impl Observer {
    pub fn new(threads: usize, log: Option<AccessLog>) -> Self {
        Self { threads: (0..threads).map(|_| Arc::default()).collect(), log }
    }

    /// For the thread of this number.
    pub fn seat(&self, number: usize) -> Seat {
        let counters = self.threads.get(number).cloned().unwrap_or_default();
        Seat { counters, log: self.log.clone() }
    }
}

/// What one thread is seen with, before it runs.
#[derive(Debug)]
pub struct Seat {
    counters: Arc<Counters>,
    log: Option<AccessLog>,
}

/// The same, on its thread.
#[derive(Debug)]
pub struct Seen {
    pub counters: Arc<Counters>,
    log: Option<AccessLog>,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    clock: RefCell<line::Clock>,
}

impl From<Seat> for Seen {
    fn from(seat: Seat) -> Self {
        let Seat { counters, log } = seat;
        let (buffer, lines) = (RefCell::default(), Cell::new(0));
        Self { counters, log, buffer, lines, clock: RefCell::default() }
    }
}

impl Seen {
    /// How often [`Seen::flush`] wants to be called; `None` where nothing is written.
    pub fn flush_interval(&self) -> Option<std::time::Duration> {
        self.log.as_ref().map(AccessLog::flush_interval)
    }

    /// Hands on the lines that wait.
    pub fn flush(&self) {
        let Some(log) = &self.log else { return };
        let mut buffer = self.buffer.borrow_mut();
        if !buffer.is_empty() {
            log.hand_on(std::mem::replace(&mut *buffer, log.empty_buffer()), self.lines.take());
        }
    }

    fn write(&self, watch: &Watch, took_us: u64) {
        let Some(log) = &self.log else { return };
        let is_full = {
            let mut buffer = self.buffer.borrow_mut();
            line::write(&mut buffer, &mut self.clock.borrow_mut(), watch, took_us);
            self.lines.set(self.lines.get() + 1);
            buffer.len() >= log.buffer_bytes()
        };
        if is_full {
            self.flush();
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.flush();
    }
}
