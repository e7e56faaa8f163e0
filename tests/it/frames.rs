//! HTTP/2 frame by frame (RFC 9113), for what no client library would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::app::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// A server that takes nothing for so long is not reading.
const STUCK: Duration = Duration::from_millis(500);

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection with prior knowledge.
pub struct Wire {
    socket: TcpStream,
    held: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Fate {
    Status(u16),
    /// With its error code.
    Reset(u32),
    /// With its error code: the whole connection ends.
    GoAway(u32),
    Closed,
}

/// What the server made of frames.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Verdict {
    /// A stream was reset, with this error code.
    Reset(u32),
    /// The connection ended, with this error code.
    GoAway(u32),
    /// A stream was answered with a status from 400 on.
    Refused(u16),
    /// Ended without a word.
    Closed,
    /// The connection lives on, and nothing was said against them.
    Taken,
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Fate {
    /// Whether nothing was done for the client.
    pub fn is_refused(self) -> bool {
        match self {
            Self::Status(status) => (400..500).contains(&status),
            Self::Reset(_) | Self::Closed => true,
            Self::GoAway(code) => code != 0,
        }
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// One setting, as a payload.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// Fields as literals that leave no trace in any table (RFC 7541 §6.2.2).
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            string(&mut bytes, text);
        }
    }
    bytes
}

/// A string without Huffman coding (RFC 7541 §5.2).
pub fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        bytes.push(u8::try_from(text.len()).unwrap());
    } else {
        bytes.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap());
    }
    bytes.extend_from_slice(text);
}

/// An ordinary request.
pub fn get(host: &str, path: &str) -> Vec<u8> {
    request("GET", host, path)
}

pub fn request(method: &str, host: &str, path: &str) -> Vec<u8> {
    block(&[
        (b":method", method.as_bytes()),
        (b":scheme", b"http"),
        (b":authority", host.as_bytes()),
        (b":path", path.as_bytes()),
    ])
}

impl Wire {
    /// Says hello, without a table for the server's answers.
    pub async fn open(address: &str) -> Self {
        Self::open_with(address, &[]).await
    }

    /// With more settings than that.
    pub async fn open_with(address: &str, settings: &[(u16, u32)]) -> Self {
        let mut payload = setting(1, 0);
        for (id, value) in settings {
            payload.extend_from_slice(&setting(*id, *value));
        }
        let mut wire = Self::raw(address).await;
        wire.write(PREFACE).await;
        wire.send(SETTINGS, 0, 0, &payload).await;
        wire
    }

    pub async fn raw(address: &str) -> Self {
        Self { socket: TcpStream::connect(address).await.unwrap(), held: Vec::new() }
    }

    /// A server that has had enough may have closed already. Whether it takes this.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        let writing = tokio::time::timeout(PATIENCE, self.socket.write_all(bytes));
        writing.await.expect("the server takes bytes or closes").is_ok()
    }

    /// As [`Wire::write`], also satisfied where the server reads no more because its own words are not read.
    pub async fn write_or_stuck(&mut self, bytes: &[u8]) -> bool {
        let writing = tokio::time::timeout(STUCK, self.socket.write_all(bytes)).await;
        writing.is_ok_and(|written| written.is_ok())
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// The next frame that is no settings; pings are answered.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.read()).await.expect("a frame or the end")?;
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => drop(self.send(SETTINGS, ACK, 0, &[]).await),
                (PING, 0) => drop(self.send(PING, ACK, 0, &frame.payload).await),
                (SETTINGS | PING, _) => {}
                _ => return Some(frame),
            }
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if self.held.len() >= 9 {
                let length = u32::from_be_bytes([0, self.held[0], self.held[1], self.held[2]]) as usize;
                if self.held.len() >= 9 + length {
                    let bytes: Vec<u8> = self.held.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
                    let payload = bytes[9..].to_vec();
                    return Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload });
                }
            }
            match self.socket.read_buf(&mut self.held).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// Reads until it is known what became of the stream.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        while let Some(frame) = self.next().await {
            match frame.kind {
                HEADERS if frame.stream == stream => return Fate::Status(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Fate::Reset(code(&frame.payload)),
                GOAWAY if code(&frame.payload[4..]) != 0 => return Fate::GoAway(code(&frame.payload[4..])),
                _ => {}
            }
        }
        Fate::Closed
    }

    /// What was made of what was written: the first objection, or none after three round trips.
    pub async fn verdict(&mut self) -> Verdict {
        let mut trips = 0;
        self.send(PING, 0, 0, b"verdict?").await;
        loop {
            let Some(frame) = tokio::time::timeout(PATIENCE, self.read()).await.expect("a frame or the end")
            else {
                return Verdict::Closed;
            };
            match (frame.kind, frame.flags & ACK) {
                (SETTINGS, 0) => drop(self.send(SETTINGS, ACK, 0, &[]).await),
                (PING, 0) => drop(self.send(PING, ACK, 0, &frame.payload).await),
                (PING, _) if trips == 2 => return Verdict::Taken,
                (PING, _) => {
                    trips += 1;
                    self.send(PING, 0, 0, b"verdict?").await;
                }
                (RST_STREAM, _) if code(&frame.payload) != 0 => return Verdict::Reset(code(&frame.payload)),
                (GOAWAY, _) if code(&frame.payload[4..]) != 0 => {
                    return Verdict::GoAway(code(&frame.payload[4..]));
                }
                (HEADERS, _) if status(&frame.payload) >= 400 => {
                    return Verdict::Refused(status(&frame.payload));
                }
                _ => {}
            }
        }
    }

    /// Reads until the stream is reset or the connection ends, answering pings all the while.
    pub async fn given_up(&mut self, stream: u32) -> bool {
        let reading = async {
            while let Some(frame) = self.next().await {
                if frame.kind == RST_STREAM && frame.stream == stream {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE / 4, reading).await.is_ok()
    }

    /// Whether the connection ends, whatever is said before.
    pub async fn ended_within_head(&mut self) -> bool {
        let mut rest = Vec::new();
        let reading = self.socket.read_to_end(&mut rest);
        tokio::time::timeout(PATIENCE / 4, reading).await.is_ok()
    }

    /// Reads until the connection ends: the code that was said, if any.
    pub async fn ended(&mut self) -> Option<u32> {
        let mut said = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                said = Some(code(&frame.payload[4..]));
            }
        }
        said
    }
}

fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]])
}

/// `:status` at the front of a block (RFC 7541 §6.1, §6.2, Appendix A).
fn status(block: &[u8]) -> u16 {
    // A change of the table's size may come first.
    let start = block.iter().position(|byte| byte & 0xe0 != 0x20).unwrap();
    let block = &block[start..];
    match block[0] {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] - 0x88)],
        0x08 | 0x18 | 0x48 => {
            let length = usize::from(block[1] & 0x7f);
            let text = &block[2..2 + length];
            if block[1] & 0x80 == 0 {
                std::str::from_utf8(text).unwrap().parse().unwrap()
            } else {
                digits(text)
            }
        }
        other => panic!("no status: {other:#x}"),
    }
}

/// Three digits in the Huffman code of RFC 7541, Appendix B: 0 to 2 have five bits, the others six.
fn digits(text: &[u8]) -> u16 {
    let bits: String = text.iter().map(|byte| format!("{byte:08b}")).collect();
    let (mut number, mut at) = (0, 0);
    for _ in 0..3 {
        let five = u16::from_str_radix(&bits[at..at + 5], 2).unwrap();
        let (digit, length) = if five < 3 {
            (five, 5)
        } else {
            (u16::from_str_radix(&bits[at..at + 6], 2).unwrap() - 0x19 + 3, 6)
        };
        number = number * 10 + digit;
        at += length;
    }
    number
}
