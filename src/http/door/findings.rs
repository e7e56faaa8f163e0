//! Owns what a connection's guard and its service tell each other.
//! Never waits, but for the end of a tunnel.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};

use crate::http::edge::file_body::FilePieces;
use crate::http::edge::tunnel::Tunnel;
use crate::routing::BadRequest;

/// What guard and service tell each other about one connection. Atomic only because a connection that is handed over
/// to another protocol has to be `Send`: one thread serves it from its beginning to its end.
#[derive(Debug, Default)]
pub struct Findings {
    /// The number of the first request that must be refused, and why. Those behind it are refused too.
    pub(super) bad: OnceLock<(u64, BadRequest)>,
    /// Requests handed to the service.
    pub(super) asked: AtomicU64,
    pieces: Arc<AtomicU64>,
    files: FilePieces,
    /// Answers not yet given whole.
    open: AtomicUsize,
    /// The connection speaks another protocol from now on, until this tells its end.
    pub(super) upgraded: AtomicBool,
    tunnel: OnceLock<Tunnel>,
    /// It was told that its head came too late.
    pub(super) was_late: AtomicBool,
}

impl Findings {
    /// Called once for each request, in order. What is wrong with it, if anything.
    pub fn next(&self) -> Option<BadRequest> {
        let number = self.asked.fetch_add(1, Relaxed);
        self.bad.get().filter(|(first, _)| number >= *first).map(|(_, what)| *what)
    }

    /// What was found in a request that never reached the service.
    pub fn unasked(&self) -> Option<BadRequest> {
        self.bad.get().filter(|(first, _)| self.asked.load(Relaxed) <= *first).map(|(_, what)| *what)
    }

    pub fn was_late(&self) -> bool {
        self.was_late.load(Relaxed)
    }

    pub fn upgrade(&self, tunnel: Tunnel) {
        self.upgraded.store(true, Relaxed);
        let _the_only_one = self.tunnel.set(tunnel);
    }

    /// Waits for the end of the tunnel, if there is one.
    pub async fn tunnel_ended(&self) {
        if let Some(ending) = self.tunnel.get().and_then(Tunnel::end) {
            // The sender is dropped with the tunnel; nothing is ever sent.
            drop(ending.await);
        }
    }

    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(Arc::clone(self))
    }

    /// Pieces of bodies that have passed, in either direction, and requests.
    pub fn moved(&self) -> u64 {
        self.pieces.load(Relaxed) + self.asked.load(Relaxed)
    }

    /// Counts pieces of bodies.
    pub fn pieces(&self) -> &Arc<AtomicU64> {
        &self.pieces
    }

    /// Parts of files on their way out.
    pub fn files(&self) -> &FilePieces {
        &self.files
    }

    pub fn is_idle(&self) -> bool {
        self.open.load(Relaxed) == 0
    }
}

/// An answer on its way: while one is, silence is not the client's.
#[derive(Debug)]
pub struct Open(Arc<Findings>);

impl Open {
    pub fn piece(&self) {
        self.0.pieces.fetch_add(1, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
