//! Owns taking connections: one thread for all listeners, each connection to the serving thread with the fewest.
//! Never reads from one, and never keeps more than its bounds: who comes when the house is full hears so at once.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::{Accepted, DoorSettings, Listener, thread};
use crate::http::edge::client::bucket;
use crate::http::problem::Unasked;
use crate::http::seen::{self, Bare, Seen};

/// After the system could not give us a socket: it may have one again when some have ended.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two words about that.
const WORDS: Duration = Duration::from_secs(1);
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// One serving thread, as this one sees it.
pub struct Seat {
    pub connections: Arc<AtomicUsize>,
    /// Not bounded by itself: `http.max_connections` bounds what is sent.
    pub sender: UnboundedSender<Accepted>,
}

/// How many connections each client has.
#[derive(Debug, Default)]
pub struct Places(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place in its thread's and its client's count.
pub struct Place {
    connections: Arc<AtomicUsize>,
    client: Option<(Arc<Places>, IpAddr)>,
}

impl Places {
    /// Locked once for each connection, never for a request.
    fn take(self: &Arc<Self>, client: IpAddr, limit: usize) -> bool {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(client).or_default();
        let has_room = *taken < limit;
        if has_room {
            *taken += 1;
        }
        has_room
    }

    fn give_back(&self, client: IpAddr) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&client) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&client);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
        if let Some((places, client)) = &self.client {
            places.give_back(*client);
        }
    }
}

/// Starts the thread.
pub fn start(
    settings: Arc<DoorSettings>,
    listeners: Vec<Listener>,
    seats: Vec<Seat>,
    places: Arc<Places>,
    seen: seen::Seat,
    draining: CancellationToken,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("door-accept".into()).spawn(move || {
        let local = tokio::task::LocalSet::new();
        let seen = Rc::new(Seen::from(seen));
        let house = Rc::new(House::new(settings, seats, places, Rc::clone(&seen)));
        let ending = draining.clone();
        local.spawn_local(async move {
            // What is written later is handed on when the last is dropped.
            ending.run_until_cancelled(thread::flush(seen)).await;
        });
        for Listener { socket, tls } in listeners {
            let (house, draining) = (Rc::clone(&house), draining.clone());
            local.spawn_local(async move {
                if let Err(e) = house.listen(socket, tls, &draining).await {
                    tracing::error!(error = %e, "a listener failed");
                }
            });
        }
        runtime.block_on(local);
    })
}

struct House {
    settings: Arc<DoorSettings>,
    seats: Vec<Seat>,
    places: Arc<Places>,
    seen: Rc<Seen>,
    /// Open for nothing: given up when this process may open no more files, so that who comes then can be told.
    spare: Cell<Option<File>>,
    complained: Cell<Option<Instant>>,
}

impl House {
    fn new(settings: Arc<DoorSettings>, seats: Vec<Seat>, places: Arc<Places>, seen: Rc<Seen>) -> Self {
        Self { settings, seats, places, seen, spare: Cell::new(spare()), complained: Cell::default() }
    }

    async fn listen(
        &self,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        draining: &CancellationToken,
    ) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let taken = tokio::select! {
                taken = listener.accept() => taken,
                () = draining.cancelled() => return Ok(()),
            };
            match taken.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                Ok((socket, peer)) => self.seat(socket, peer, tls.clone()),
                // Gone before it was taken: its own matter.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    self.complain(&e);
                    if !self.shed(&e, &listener, tls.is_some()) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    fn complain(&self, error: &io::Error) {
        if self.complained.get().is_none_or(|at| at.elapsed() >= WORDS) {
            self.complained.set(Some(Instant::now()));
            tracing::warn!(error = %error, "a connection could not be taken");
        }
    }

    /// Whether one that waits could be told that there is no room, where no file was left to take it with.
    fn shed(&self, error: &io::Error, listener: &tokio::net::TcpListener, is_tls: bool) -> bool {
        if !matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) {
            return false;
        }
        drop(self.spare.take());
        let taken = listener.accept().now_or_never().and_then(Result::ok);
        let taken = taken.and_then(|(socket, peer)| Some((socket.into_std().ok()?, peer)));
        let is_told = taken.is_some();
        if let Some((socket, peer)) = taken {
            self.turn_away(socket, peer.ip(), is_tls);
        }
        self.spare.set(spare());
        is_told
    }

    fn seat(
        &self,
        socket: std::net::TcpStream,
        peer: std::net::SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) {
        // A thread that died has no connection, and would be given every one.
        let alive = self.seats.iter().filter(|seat| !seat.sender.is_closed());
        let fewest = alive.min_by_key(|seat| seat.connections.load(Ordering::Acquire));
        let Some(seat) = fewest else { return self.turn_away(socket, peer.ip(), tls.is_some()) };
        let client = bucket(peer.ip().to_canonical());
        let is_counted = !client.is_loopback() && !self.settings.trusted_proxies.contains(client);
        let has_room = seat.connections.load(Ordering::Acquire) < self.settings.connections
            && (!is_counted || self.places.take(client, self.settings.connections_of_one));
        if !has_room {
            return self.turn_away(socket, peer.ip(), tls.is_some());
        }
        seat.connections.fetch_add(1, Ordering::AcqRel);
        let place = Place {
            connections: Arc::clone(&seat.connections),
            client: is_counted.then(|| (Arc::clone(&self.places), client)),
        };
        // A thread that has just died takes none; the socket is closed by being dropped.
        drop(seat.sender.send(Accepted { socket, peer, tls, place }));
    }

    /// As far as the socket takes it at once. Inside TLS nobody could read it.
    fn turn_away(&self, mut socket: std::net::TcpStream, client: IpAddr, is_tls: bool) {
        if !is_tls && socket.set_nonblocking(true).is_ok() {
            drop(socket.write(FULL));
        }
        let client = Some(client.to_canonical());
        self.seen.bare(&Bare { client, is_tls, what: Unasked::NoRoom });
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn a_thread_that_died_gets_no_connection_though_it_has_the_fewest() {
        let (dead, gone) = unbounded_channel();
        let (alive, mut taken) = unbounded_channel();
        drop(gone);
        let seat = |sender| Seat { connections: Arc::default(), sender };
        let seen = Rc::new(Seen::from(seen::Observer::new(1, None).accepting()));
        let seats = vec![seat(dead), seat(alive)];
        let house = House::new(Arc::new(DoorSettings::small()), seats, Arc::default(), seen);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (socket, peer) = listener.accept().unwrap();
            house.seat(socket, peer, None);
        }
        assert_eq!(taken.len(), 3);
        // With nobody left to serve, a client hears so.
        taken.close();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, peer) = listener.accept().unwrap();
        house.seat(socket, peer, None);
        let mut told = String::new();
        std::io::Read::read_to_string(&mut client, &mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
        assert_eq!(house.seen.counters.requests[4][5].get(), 1);
    }
}
