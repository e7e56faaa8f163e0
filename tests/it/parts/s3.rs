//! An S3 server of the tests: s3s-fs in this process, with credentials, behind a wire that can be slow,
//! cut bodies off, reset connections, or answer 503.

use std::sync::OnceLock;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::keep::KeptFolder;

pub const ACCESS_KEY: &str = "libra-tests";
const BUCKET: &str = "libra";
/// What one read of the wire takes at most.
const CHUNK: usize = 16 * 1024;

/// What the wire does to a connection. A change closes the connections that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Well,
    /// Each piece of an answer comes this much later.
    Slow(Duration),
    /// Every request is answered so, and none reaches the server.
    Unavailable,
    /// Answers end after this many bytes of their body.
    CutOff(usize),
    /// Connections are reset as soon as they are made.
    Gone,
    /// Connections are taken, and nothing comes back.
    Silent,
    /// Requests whose first line holds these words are answered with 503, and none of them is done.
    Refusing(&'static str),
}

pub struct S3 {
    /// Where the wire listens, as an endpoint.
    pub endpoint: String,
    secret: String,
    wire: watch::Sender<Wire>,
    folder: KeptFolder,
}

impl S3 {
    /// The server that all tests of this process share; nobody may spoil its wire.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<S3> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own. It ends with the process; its folder with this value.
    pub fn start() -> Self {
        let folder = KeptFolder::new("libra-s3-");
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let secret = uuid::Uuid::new_v4().simple().to_string();
        let (wire, wires) = watch::channel(Wire::Well);
        let (ready, address) = std::sync::mpsc::channel();
        let (root, key) = (folder.path().to_owned(), secret.clone());
        // A thread and runtime of its own: it outlives the test that asked first.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(front.local_addr().unwrap()).unwrap();
                let behind = server.local_addr().unwrap();
                tokio::join!(serve(server, &root, key), wiring(front, behind, wires));
            });
        });
        let endpoint = format!("http://{}", address.recv().unwrap());
        Self { endpoint, secret, wire, folder }
    }

    /// Settings of a server whose blobs lie here, in a place of their own beneath `prefix`.
    pub fn settings(&self, prefix: &str) -> Vec<(&'static str, String)> {
        vec![
            ("LIBRA__BLOBS__URL", format!("s3://{BUCKET}/{prefix}")),
            ("LIBRA__BLOBS__ENDPOINT", self.endpoint.clone()),
            ("LIBRA__BLOBS__ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("LIBRA__BLOBS__SECRET_ACCESS_KEY", self.secret.clone()),
        ]
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// From now on, for new connections; open ones are closed.
    pub fn wire(&self, wire: Wire) {
        self.wire.send_replace(wire);
    }

    /// What lies here of uploads that were begun and neither completed nor taken back.
    pub fn open_uploads(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name());
        names.filter_map(|n| n.into_string().ok()).filter(|n| n.starts_with(".upload")).collect()
    }

    /// The file that holds an object.
    pub fn object(&self, key: &str) -> std::path::PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }
}

async fn serve(listener: TcpListener, root: &std::path::Path, secret: String) {
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    service.set_auth(SimpleAuth::from_single(ACCESS_KEY, secret));
    let service = service.build();
    let http = Builder::new(TokioExecutor::new());
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let connection = http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn wiring(listener: TcpListener, behind: std::net::SocketAddr, wires: watch::Receiver<Wire>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mut wires = wires.clone();
        tokio::spawn(async move {
            let wire = *wires.borrow_and_update();
            tokio::select! {
                () = carry(client, behind, wire) => {}
                // Dropped, so closed.
                _ = wires.changed() => {}
            }
        });
    }
}

async fn carry(mut client: TcpStream, behind: std::net::SocketAddr, wire: Wire) {
    if wire == Wire::Gone {
        // Closed with data unread or to come, which is a reset.
        client.set_zero_linger().unwrap();
        return;
    }
    let mut first = vec![0; CHUNK];
    let Ok(read @ 1..) = client.read(&mut first).await else { return };
    match wire {
        Wire::Silent => return drain(&mut client).await,
        Wire::Unavailable => return refuse(client).await,
        Wire::Refusing(words) if is_asked(&first[..read], words) => return refuse(client).await,
        Wire::Well | Wire::Slow(_) | Wire::CutOff(_) | Wire::Gone | Wire::Refusing(_) => {}
    }
    let Ok(mut server) = TcpStream::connect(behind).await else { return };
    if server.write_all(&first[..read]).await.is_err() {
        return;
    }
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from_client.read(&mut chunk).await {
            // A client sends its next request when the one before was answered, so in a piece of its own.
            if matches!(wire, Wire::Refusing(words) if is_asked(&chunk[..read], words)) {
                return true;
            }
            if to_server.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
        false
    };
    let back = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(read @ 1..) = from_server.read(&mut chunk).await {
            let piece = &chunk[..read];
            match wire {
                Wire::Slow(delay) => tokio::time::sleep(delay).await,
                Wire::CutOff(body_bytes) => {
                    let head = piece.windows(4).position(|w| w == b"\r\n\r\n");
                    let head = head.filter(|_| piece.starts_with(b"HTTP/1.1")).map_or(0, |at| at + 4);
                    if read > head + body_bytes {
                        drop(to_client.write_all(&piece[..head + body_bytes]).await);
                        return;
                    }
                }
                _ => {}
            }
            if to_client.write_all(piece).await.is_err() {
                return;
            }
        }
    };
    let refused = tokio::select! {
        refused = there => refused,
        () = back => false,
    };
    if refused && let Ok(client) = from_client.reunite(to_client) {
        refuse(client).await;
    }
}

/// Whether a request begins here, with `words` in its first line.
fn is_asked(piece: &[u8], words: &str) -> bool {
    let line = piece.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    line.ends_with(" HTTP/1.1") && line.contains(words)
}

async fn refuse(mut client: TcpStream) {
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    drop(client.write_all(answer.as_bytes()).await);
    drop(client.shutdown().await);
    // What is still being sent is taken, so that the answer is not lost to a reset.
    drain(&mut client).await;
}

async fn drain(client: &mut TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(1..) = client.read(&mut chunk).await {}
}
