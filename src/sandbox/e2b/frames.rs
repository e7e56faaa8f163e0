//! The envelopes of Connect's streaming protocol: one byte of flags, four of length, then JSON. Bounded:
//! a length is believed only up to a limit.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The last envelope of a stream.
const END: u8 = 0b10;
/// `envd` sends output in pieces of 32 KiB, which base64 makes a third longer.
const FRAME_BYTES: usize = 4 << 20;
const HEAD: usize = 5;

#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Message(Bytes),
    /// Holds the error of the whole call, if there is one.
    End(Bytes),
}

#[derive(Debug, PartialEq, Eq)]
pub struct BadFrame;

#[derive(Default)]
pub struct Frames {
    buffer: BytesMut,
}

impl Frames {
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole envelope, if it has arrived.
    pub fn next(&mut self) -> Result<Option<Frame>, BadFrame> {
        if self.buffer.len() < HEAD {
            return Ok(None);
        }
        let flags = self.buffer[0];
        let length = (&self.buffer[1..HEAD]).get_u32() as usize;
        // Compression was not offered.
        if length > FRAME_BYTES || flags & !END != 0 {
            return Err(BadFrame);
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let body = self.buffer.split_to(length).freeze();
        Ok(Some(if flags & END == 0 { Frame::Message(body) } else { Frame::End(body) }))
    }
}

/// One message in its envelope.
pub fn envelope(message: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(HEAD + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let mut stream = envelope(b"{}");
        stream.extend(envelope(b"[1]"));
        stream.extend([END, 0, 0, 0, 2, b'{', b'}']);
        for size in 1..stream.len() {
            let mut frames = Frames::default();
            let mut out = Vec::new();
            for chunk in stream.chunks(size) {
                frames.push(chunk);
                while let Some(frame) = frames.next().unwrap() {
                    out.push(frame);
                }
            }
            let message = |text: &'static str| Frame::Message(Bytes::from_static(text.as_bytes()));
            assert_eq!(out, [message("{}"), message("[1]"), Frame::End(Bytes::from_static(b"{}"))]);
        }
    }

    #[test]
    fn lengths_and_flags_are_not_believed() {
        for head in [[0, 255, 255, 255, 255], [1, 0, 0, 0, 1]] {
            let mut frames = Frames::default();
            frames.push(&head);
            assert_eq!(frames.next(), Err(BadFrame));
        }
    }
}
