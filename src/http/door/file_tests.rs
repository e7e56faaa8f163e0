//! Large files of a site over plain HTTP/1, where the system sends them itself: every byte, in its place, and no other.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::test_house::{HOST, House, site_house};
use crate::runtime::test_site;

fn noise(bytes: usize, seed: u32) -> Vec<u8> {
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    };
    std::iter::from_fn({
        let mut state = seed;
        move || next(&mut state)
    })
    .take(bytes)
    .collect()
}

struct Files {
    house: House,
    folder: tempfile::TempDir,
    one: Vec<u8>,
    two: Vec<u8>,
}

async fn files() -> Files {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (noise(3_000_001, 1), noise(700_000, 2));
    let page: &[u8] = b"<title>small</title>";
    let files = [("index.html", page), ("one.bin", &*one), ("two.bin", &*two)];
    let version = test_site::install(folder.path(), "0123456789abcdef", "app", &files).await;
    Files { house: site_house(version), folder, one, two }
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

/// Reads one answer: its head, and a body of the length that it says.
async fn answer(socket: &mut (impl AsyncReadExt + Unpin), is_head: bool) -> (String, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    let mut body = vec![0; if is_head { 0 } else { length.parse().unwrap() }];
    socket.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn answers_behind_each_other_are_each_their_own_file() {
    let files = files().await;
    let mut socket = TcpStream::connect(files.house.address).await.unwrap();
    let asked = [
        get("/one.bin", ""),
        get("/two.bin", "Range: bytes=5-600004\r\n"),
        get("/", ""),
        get("/one.bin", "").replace("GET", "HEAD"),
        get("/two.bin", ""),
        get("/one.bin", "Range: bytes=2000000-\r\n"),
    ];
    socket.write_all(asked.concat().as_bytes()).await.unwrap();
    let (head, body) = answer(&mut socket, false).await;
    assert!(head.starts_with("http/1.1 200") && body == files.one, "{head}");
    let (head, body) = answer(&mut socket, false).await;
    assert!(head.starts_with("http/1.1 206") && body == files.two[5..600_005], "{head}");
    assert_eq!(answer(&mut socket, false).await.1, b"<title>small</title>");
    let (head, _) = answer(&mut socket, true).await;
    assert!(head.contains("content-length: 3000001"), "{head}");
    assert!(answer(&mut socket, false).await.1 == files.two);
    assert!(answer(&mut socket, false).await.1 == files.one[2_000_000..]);
    drop(socket);
    files.house.close().await;
}

#[tokio::test]
async fn many_slow_readers_at_once_get_every_byte() {
    let files = files().await;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = TcpStream::connect(files.house.address).await.unwrap();
        socket.write_all(get("/one.bin", "").as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    // In small pieces and in turn, so that each is left waiting in the middle of a piece.
    let mut got = vec![Vec::new(); sockets.len()];
    let whole = |seen: &[u8]| {
        let head = memchr::memmem::find(seen, b"\r\n\r\n").map(|at| at + 4);
        head.filter(|head| seen.len() == head + files.one.len())
    };
    while got.iter().any(|seen| whole(seen).is_none()) {
        for (socket, seen) in sockets.iter_mut().zip(&mut got) {
            if whole(seen).is_none() {
                let mut piece = vec![0; 100_003];
                let bytes = socket.read(&mut piece).await.unwrap();
                assert_ne!(bytes, 0);
                seen.extend_from_slice(&piece[..bytes]);
            }
        }
    }
    assert!(got.iter().all(|seen| seen[whole(seen).unwrap()..] == files.one));
    drop(sockets);
    files.house.close().await;
}

#[tokio::test]
async fn a_file_that_was_cut_short_on_disk_ends_the_connection_and_is_never_filled_up() {
    let files = files().await;
    let mut packs = Vec::new();
    for entry in std::fs::read_dir(files.folder.path().join("versions")).unwrap() {
        packs.push(entry.unwrap().path().join("pack"));
    }
    std::fs::OpenOptions::new().write(true).open(&packs[0]).unwrap().set_len(1_000_000).unwrap();
    let mut socket = TcpStream::connect(files.house.address).await.unwrap();
    socket.write_all(get("/one.bin", "").as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let _reset_or_closed = socket.read_to_end(&mut got).await;
    let head = memchr::memmem::find(&got, b"\r\n\r\n").map_or(got.len(), |at| at + 4);
    let body = &got[head..];
    assert!(body.len() < files.one.len());
    let pack = std::fs::read(&packs[0]).unwrap();
    assert!(body.is_empty() || memchr::memmem::find(&pack, body).is_some(), "{} bytes", body.len());
    files.house.close().await;
}

/// There answers share the socket, so nothing may stand for anything.
#[tokio::test]
async fn over_http2_files_that_come_at_the_same_time_are_each_themselves() {
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let files = files().await;
    let socket = TcpStream::connect(files.house.address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (sender, connection) = handshake.await.unwrap();
    let connection = tokio::spawn(connection);
    let fetch = |path: &str| {
        let request = http::Request::get(format!("http://{HOST}{path}"));
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let mut sender = sender.clone();
        async move { sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    };
    let (first, second, third) = tokio::join!(fetch("/one.bin"), fetch("/one.bin"), fetch("/two.bin"));
    assert!(first == files.one && second == files.one && third == files.two);
    drop(sender);
    connection.abort();
    files.house.close().await;
}
