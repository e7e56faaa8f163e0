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
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::http::problem::Unasked;
use counters::Kind;
pub use counters::{Counters, Protocol};
pub use watch::Watch;
pub use writer::{AccessLog, AccessLogSettings, Writing};

/// What all serving threads are seen with.
#[derive(Debug, Clone)]
pub struct Observer {
    pub threads: Vec<Arc<Counters>>,
    /// Of the thread that takes connections and has none.
    pub accepting: Arc<Counters>,
    /// `None`: no access log is written.
    pub log: Option<AccessLog>,
}

impl Observer {
    pub fn new(threads: usize, log: Option<AccessLog>) -> Self {
        Self { threads: (0..threads).map(|_| Arc::default()).collect(), accepting: Arc::default(), log }
    }

    /// For the thread of this number.
    pub fn seat(&self, number: usize) -> Seat {
        let counters = self.threads.get(number).cloned().unwrap_or_default();
        Seat { counters, log: self.log.clone() }
    }

    /// For the thread that takes connections.
    pub fn accepting(&self) -> Seat {
        Seat { counters: Arc::clone(&self.accepting), log: self.log.clone() }
    }
}

/// What was answered to bytes that were no request, or to a connection that there was no room for.
#[derive(Debug, Clone, Copy)]
pub struct Bare {
    pub client: Option<IpAddr>,
    pub is_tls: bool,
    pub what: Unasked,
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
    /// The second in hand, and lines about what was no request in it.
    bare: Cell<(u64, u32)>,
}

impl From<Seat> for Seen {
    fn from(seat: Seat) -> Self {
        let Seat { counters, log } = seat;
        let (buffer, lines) = (RefCell::default(), Cell::new(0));
        Self { counters, log, buffer, lines, clock: RefCell::default(), bare: Cell::default() }
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
        self.write_line(|buffer, clock| line::write(buffer, clock, watch, took_us));
    }

    /// Counts it, and writes a line unless there were too many in this second already.
    pub fn bare(&self, bare: &Bare) {
        let (status, code) = bare.what.told();
        self.counters.request(Kind::Refused, status, 0, 0);
        self.counters.refused(code);
        let Some(log) = &self.log else { return };
        let at = SystemTime::now();
        let second = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (last, lines) = self.bare.get();
        let lines = if last == second { lines } else { 0 };
        if lines >= log.bare_per_second() {
            return self.counters.omitted.add(1);
        }
        self.bare.set((second, lines + 1));
        self.write_line(|buffer, clock| line::write_bare(buffer, clock, bare, at));
    }

    fn write_line(&self, write: impl FnOnce(&mut Vec<u8>, &mut line::Clock)) {
        let Some(log) = &self.log else { return };
        let is_full = {
            let mut buffer = self.buffer.borrow_mut();
            write(&mut buffer, &mut self.clock.borrow_mut());
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
