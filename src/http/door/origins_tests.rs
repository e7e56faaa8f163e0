//! Which origin gets a request and over which connection: health, load, sockets of this machine, other threads, and
//! what becomes of answers when their origin is replaced.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;

use super::test_house::*;
use crate::domain::upstream::{HealthCheck, UpstreamPolicy};

/// An origin that says its name.
struct Named {
    name: String,
    /// Its health check is answered 503.
    is_sick: AtomicBool,
    /// `/hold` is answered when this is true.
    may_answer: watch::Sender<bool>,
    connections: AtomicUsize,
}

impl Named {
    fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            is_sick: AtomicBool::new(false),
            may_answer: watch::channel(false).0,
            connections: AtomicUsize::new(0),
        })
    }

    async fn start(name: &str) -> (Arc<Self>, u16) {
        let (named, listener) = (Self::new(name), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (port, shared) = (listener.local_addr().unwrap().port(), Arc::clone(&named));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).serve(socket));
            }
        });
        (named, port)
    }

    async fn serve(self: Arc<Self>, mut socket: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mut head = Vec::new();
        loop {
            head.clear();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await?);
            }
            let asked = String::from_utf8_lossy(&head).to_ascii_lowercase();
            if asked.starts_with("get /hold") {
                // Ends with the test.
                drop(self.may_answer.subscribe().wait_for(|may| *may).await);
            }
            let is_bad = asked.starts_with("get /health") && self.is_sick.load(Ordering::SeqCst);
            let status = if is_bad { "503 Sick" } else { "200 OK" };
            let (length, name) = (self.name.len(), &self.name);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}");
            socket.write_all(answer.as_bytes()).await?;
            if asked.contains("connection: close") {
                return Ok(());
            }
        }
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE / 2, "waited in vain: {what}");
        tokio::task::yield_now().await;
    }
}

/// Who answered each of so many requests, one after the other.
async fn who(house: &House, count: usize) -> Vec<char> {
    let mut names = Vec::new();
    for _ in 0..count {
        let told = house.get("").await;
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        names.extend(told.chars().last());
    }
    names
}

#[tokio::test]
async fn an_origin_that_is_not_well_is_left_out_until_it_is_and_all_are_tried_where_none_is() {
    let health = HealthCheck {
        path: "/health".into(),
        interval: Duration::from_millis(20),
        timeout: PATIENCE,
        healthy_after: 2,
        unhealthy_after: 2,
    };
    let ((a, at_a), (b, at_b)) = (Named::start("a").await, Named::start("b").await);
    let house = house(&[at_a, at_b], UpstreamPolicy { health, ..policy() });
    let is_well = |at: usize| house.upstream.report()[at].healthy;
    assert!(is_well(0) && is_well(1));
    a.is_sick.store(true, Ordering::SeqCst);
    until("the first is left out", || !is_well(0)).await;
    assert_eq!(who(&house, 6).await, ['b'; 6]);
    b.is_sick.store(true, Ordering::SeqCst);
    until("both are left out", || !is_well(1)).await;
    let answered = who(&house, 6).await;
    assert!(answered.contains(&'a') && answered.contains(&'b'), "{answered:?}");
    a.is_sick.store(false, Ordering::SeqCst);
    until("the first is back", || is_well(0)).await;
    assert_eq!(who(&house, 6).await, ['a'; 6]);
    house.close().await;
}

#[tokio::test]
async fn the_origin_with_the_fewest_in_hand_gets_the_next_request() {
    let ((a, at_a), (b, at_b)) = (Named::start("a").await, Named::start("b").await);
    let patient = UpstreamPolicy { first_byte_timeout: PATIENCE, ..policy() };
    let house = house(&[at_a, at_b], patient);
    let in_hand = |house: &House| {
        let report = house.upstream.report();
        (report[0].in_hand, report[1].in_hand)
    };
    let mut held = Vec::new();
    for count in 1..=6 {
        let mut socket = TcpStream::connect(house.address).await.unwrap();
        socket.write_all(format!("GET /hold HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
        held.push(socket);
        until("it is in hand", || in_hand(&house).0 + in_hand(&house).1 == count).await;
        assert!(in_hand(&house).0.abs_diff(in_hand(&house).1) <= 1, "{:?}", in_hand(&house));
    }
    b.may_answer.send_replace(true);
    until("the second has nothing to do", || in_hand(&house) == (3, 0)).await;
    assert_eq!(who(&house, 6).await, ['b'; 6]);
    a.may_answer.send_replace(true);
    until("neither has", || in_hand(&house) == (0, 0)).await;
    house.close().await;
}

#[tokio::test]
async fn an_origin_on_a_socket_of_this_machine_is_reached_and_its_connections_are_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let (named, listener) = (Named::new("unix"), UnixListener::bind(&path).unwrap());
    let shared = Arc::clone(&named);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(Arc::clone(&shared).serve(socket));
        }
    });
    let house = house_of(&[format!("unix:{}", path.display())], policy(), 1);
    for _ in 0..5 {
        assert!(house.get("").await.ends_with("\r\n\r\nunix"));
    }
    assert_eq!(named.connections.load(Ordering::SeqCst), 1);
    house.close().await;
}

#[tokio::test]
async fn a_connection_that_one_thread_opened_is_used_by_another() {
    let (named, port) = Named::start("a").await;
    let house = house_of(&[format!("http://127.0.0.1:{port}")], policy(), 2);
    // The second is given to the thread that has no connection yet.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(house.address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let told = read(&mut socket, |seen| seen.ends_with("\r\n\r\na")).await;
        assert!(told.starts_with("HTTP/1.1 200 "), "{told}");
        clients.push(socket);
    }
    assert_eq!(named.connections.load(Ordering::SeqCst), 1);
    house.close().await;
}

#[tokio::test]
async fn who_dies_without_a_word_is_passed_over_where_asking_twice_does_no_harm() {
    let dying = origin("", Then::Close).await;
    let (_well, at_well) = Named::start("b").await;
    let unejected = || {
        let mut policy = policy();
        policy.ejection.after = 0;
        policy
    };
    let house = house(&[dying.port, at_well], unejected());
    assert_eq!(who(&house, 6).await, ['b'; 6]);
    let asked_first = dying.asked().len();
    assert!(asked_first >= 3, "it has its turn: {asked_first}");
    let post = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(house.ask(post.as_bytes(), |_| false).await[9..12].to_owned());
    }
    statuses.sort();
    assert_eq!(statuses, ["200", "200", "502", "502"], "what may have been done is not asked again");
    house.close().await;
    // With nobody else to ask, it is asked once.
    let alone = super::test_house::house(&[dying.port], unejected());
    let before = dying.asked().len();
    assert!(alone.get("").await.starts_with("HTTP/1.1 502 "));
    assert_eq!(dying.asked().len(), before + 1);
    alone.close().await;
}

#[tokio::test]
async fn an_answer_that_never_ends_stays_with_a_replaced_origin_until_the_drain_time_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                read(&mut socket, is_whole).await;
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let mut tick = tokio::time::interval(Duration::from_millis(20));
                let mut written = socket.write_all(head).await;
                while written.is_ok() {
                    tick.tick().await;
                    written = socket.write_all(b"4\r\ntick\r\n").await;
                }
            });
        }
    });
    let house = house(&[port], policy());
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    read(&mut socket, |seen| seen.contains("tick")).await;
    let replaced = Instant::now();
    house.upstream.retire();
    let rest = read(&mut socket, |_| false).await;
    assert!(replaced.elapsed() >= DRAIN, "it was cut off after {:?}", replaced.elapsed());
    assert!(rest.contains("tick") && !rest.ends_with("0\r\n\r\n"), "{rest}");
    until("its place is given back", || house.upstream.report()[0].in_hand == 0).await;
    house.close().await;
}
