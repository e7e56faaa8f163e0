//! The other end of the front door's measurements: an origin that swallows uploads and echoes WebSocket frames, and a
//! client that counts echo round trips. Knows just enough HTTP and WebSocket for that, so that it costs little beside
//! what is measured. Loopback only; one thread. Never a part of the program.

#![expect(clippy::print_stdout, reason = "figures are its output")]
#![expect(clippy::unwrap_used, reason = "a measurement that can't go on ends")]

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PAYLOAD: [u8; 64] = [b'x'; 64];
const READ_BYTES: usize = 64 * 1024;
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match arguments.as_slice() {
            ["serve", address] => serve(address.parse().unwrap()).await.unwrap(),
            ["sockets", address, host, path, connections, seconds] => {
                let target = Target { address: address.parse().unwrap(), host, path };
                sockets(&target, connections.parse().unwrap(), seconds.parse().unwrap()).await;
            }
            _ => panic!("serve ADDRESS | sockets ADDRESS HOST PATH CONNECTIONS SECONDS"),
        }
    });
}

async fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            // Who is gone needs no answer.
            drop(connection(stream).await);
        });
    }
}

/// Bytes that were read and not used yet.
struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Result<Wire> {
        stream.set_nodelay(true)?;
        Ok(Wire { stream, buffer: Vec::with_capacity(READ_BYTES) })
    }

    async fn more(&mut self) -> Result<()> {
        self.buffer.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The head of a request or an answer, in lower case but for values that matter.
    async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|end| end == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).map_err(Error::other);
            }
            self.more().await?;
        }
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<()> {
        loop {
            let here = bytes.min(self.buffer.len());
            self.buffer.drain(..here);
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    /// A whole frame: opcode and unmasked payload.
    async fn frame(&mut self) -> Result<(u8, Vec<u8>)> {
        while self.buffer.len() < 2 {
            self.more().await?;
        }
        let (mut at, masked) = (2, self.buffer[1] & 0x80 != 0);
        let mut length = usize::from(self.buffer[1] & 0x7f);
        if length == 126 {
            while self.buffer.len() < 4 {
                self.more().await?;
            }
            length = usize::from(u16::from_be_bytes([self.buffer[2], self.buffer[3]]));
            at = 4;
        } else if length == 127 {
            return Err(ErrorKind::Unsupported.into());
        }
        let start = at + if masked { 4 } else { 0 };
        while self.buffer.len() < start + length {
            self.more().await?;
        }
        let mut payload = self.buffer[start..start + length].to_vec();
        if masked {
            let mask = &self.buffer[at..at + 4];
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        let opcode = self.buffer[0] & 15;
        self.buffer.drain(..start + length);
        Ok((opcode, payload))
    }
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

async fn connection(stream: TcpStream) -> Result<()> {
    let mut wire = Wire::new(stream)?;
    loop {
        let head = wire.head().await?;
        if let Some(key) = value(&head, "sec-websocket-key") {
            let accept = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
            let accept = base64::engine::general_purpose::STANDARD.encode(accept);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            wire.stream.write_all(answer.as_bytes()).await?;
            return echo(wire).await;
        }
        let length = value(&head, "content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
        if value(&head, "transfer-encoding").is_some() {
            return wire
                .stream
                .write_all(b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await;
        }
        wire.skip(length).await?;
        wire.stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    }
}

async fn echo(mut wire: Wire) -> Result<()> {
    loop {
        let (opcode, payload) = wire.frame().await?;
        let mut answer = Vec::with_capacity(payload.len() + 4);
        // A ping is answered by a pong, everything else by itself.
        answer.push(0x80 | if opcode == 9 { 10 } else { opcode });
        match u8::try_from(payload.len()) {
            Ok(short) if short < 126 => answer.push(short),
            _ => {
                answer.push(126);
                answer.extend_from_slice(&u16::try_from(payload.len()).map_err(Error::other)?.to_be_bytes());
            }
        }
        answer.extend_from_slice(&payload);
        wire.stream.write_all(&answer).await?;
        if opcode == 8 {
            return Ok(());
        }
    }
}

#[derive(Clone, Copy)]
struct Target<'a> {
    address: SocketAddr,
    host: &'a str,
    path: &'a str,
}

async fn sockets(target: &Target<'_>, connections: usize, seconds: u64) {
    let end = Instant::now() + Duration::from_secs(seconds);
    let clients = (0..connections).map(|_| client(target, end));
    let done = futures_util::future::join_all(clients).await;
    let errors = done.iter().filter(|result| result.is_err()).count();
    let mut times: Vec<u32> = done.into_iter().flatten().flatten().collect();
    times.sort_unstable();
    let share = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!(
        "{{\"trips\": {}, \"errors\": {errors}, \"p50_us\": {}, \"p99_us\": {}}}",
        times.len(),
        share(0.5),
        share(0.99)
    );
}

/// Microseconds of each round trip.
async fn client(target: &Target<'_>, end: Instant) -> Result<Vec<u32>> {
    let mut wire = Wire::new(TcpStream::connect(target.address).await?)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        target.path, target.host
    );
    wire.stream.write_all(request.as_bytes()).await?;
    let head = wire.head().await?;
    if !head.starts_with("HTTP/1.1 101") {
        return Err(Error::other(head));
    }
    // A mask of zeros is one.
    let mut frame = vec![0x82, 0x80 | PAYLOAD.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(&PAYLOAD);
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        if started >= end {
            return Ok(times);
        }
        wire.stream.write_all(&frame).await?;
        let (_, payload) = wire.frame().await?;
        if payload != PAYLOAD {
            return Err(Error::other("another payload came back"));
        }
        times.push(u32::try_from(started.elapsed().as_micros()).map_err(Error::other)?);
    }
}
