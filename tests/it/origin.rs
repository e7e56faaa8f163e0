//! An application behind a Worker, in a thread of its own: it answers, waits, counts what it is sent, makes up what
//! it sends, and echoes on WebSockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

struct State {
    words: String,
    waiting: AtomicUsize,
    may_answer: watch::Sender<bool>,
}

/// Ends with this value.
pub struct Origin {
    pub address: SocketAddr,
    state: Arc<State>,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Origin {
    pub fn start(words: &str) -> Self {
        Self::with(words, None)
    }

    /// One that speaks TLS.
    pub fn with_tls(words: &str, config: rustls::ServerConfig) -> Self {
        Self::with(words, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn with(words: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            words: words.to_owned(),
            waiting: AtomicUsize::new(0),
            may_answer: watch::channel(false).0,
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, tls, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, state, _stop: stop }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests for `/slow` that wait for [`Self::release`].
    pub fn waiting(&self) -> usize {
        self.state.waiting.load(Ordering::SeqCst)
    }

    /// `/slow` is answered from now on.
    pub fn release(&self) {
        self.state.may_answer.send_replace(true);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => serve(socket, state).await,
                // Who does not trust us goes away in the handshake.
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, state).await;
                    }
                }
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, state: Arc<State>) {
    let service = service_fn(move |request| answer(Arc::clone(&state), request));
    // A client that goes away needs no answer.
    drop(http1::Builder::new().serve_connection(TokioIo::new(socket), service).with_upgrades().await);
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Answer, hyper::Error> {
    if let Some(key) = request.headers().get("sec-websocket-key") {
        let accept = accept_of(key.as_bytes());
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(socket) = upgraded.await {
                // The other side may go at any moment.
                drop(echo(TokioIo::new(socket)).await);
            }
        });
        let answer = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", accept);
        return Ok(answer.body(Full::default().boxed_unsync()).unwrap());
    }
    let path = request.uri().path().to_owned();
    let text = match path.split_once("/make/") {
        Some((_, bytes)) => return Ok(made_up(bytes.parse().unwrap())),
        None if path == "/ticks" => return Ok(ticks()),
        None if path == "/count" => counted(request.into_body()).await?.to_string(),
        None if path == "/slow" => {
            state.waiting.fetch_add(1, Ordering::SeqCst);
            let mut may_answer = state.may_answer.subscribe();
            may_answer.wait_for(|may| *may).await.unwrap();
            state.words.clone()
        }
        None => state.words.clone(),
    };
    Ok(Response::new(Full::from(text).boxed_unsync()))
}

/// RFC 6455 §4.2.2.
fn accept_of(key: &[u8]) -> String {
    let digest =
        Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64_STANDARD.encode(digest)
}

async fn counted(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    Ok(bytes)
}

/// So many bytes, without a length.
fn made_up(bytes: u64) -> Answer {
    const PIECE: &[u8] = &[b'x'; 65_536];
    let pieces = futures_util::stream::unfold(bytes, |left| async move {
        let here = usize::try_from(left).unwrap().min(PIECE.len());
        let frame: Result<_, Infallible> = Ok(Frame::data(Bytes::from_static(&PIECE[..here])));
        (here > 0).then(|| (frame, left - here as u64))
    });
    Response::new(StreamBody::new(pieces).boxed_unsync())
}

/// An event now and then, without end.
fn ticks() -> Answer {
    let tick = tokio::time::interval(std::time::Duration::from_millis(100));
    let events = futures_util::stream::unfold(tick, |mut tick| async move {
        tick.tick().await;
        let frame: Result<_, Infallible> = Ok(Frame::data(Bytes::from_static(b"data: tick\n\n")));
        Some((frame, tick))
    });
    let answer = Response::builder().header("content-type", "text/event-stream");
    answer.body(StreamBody::new(events).boxed_unsync()).unwrap()
}

/// Short masked frames come back unmasked; a close frame ends it.
async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    loop {
        let mut head = [0; 6];
        socket.read_exact(&mut head).await?;
        let mut payload = vec![0; usize::from(head[1] & 0x7f)];
        socket.read_exact(&mut payload).await?;
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let answer = [&[head[0], head[1] & 0x7f][..], &payload].concat();
        socket.write_all(&answer).await?;
        if head[0] & 0xf == 8 {
            return Ok(());
        }
    }
}
