//! Owns taking the pieces of an answer's body from what an origin sent (RFC 9112 §6, §7).
//! Never gives a body as whole that was cut short.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use memchr::memchr;

use super::answer_head::{BadHead, Framing, take_trailers};

/// Of a chunk's size with its extension.
const MAX_SIZE_LINE: usize = 1024;
/// Smaller pieces are copied.
const SMALL_BYTES: usize = 1024;
/// Digits of a chunk's size: 2⁶⁰ bytes.
const MAX_DIGITS: usize = 15;

/// Where in a body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum At {
    #[default]
    End,
    Length(u64),
    Close,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

/// The next thing in a body.
#[derive(Debug)]
pub enum Next {
    Piece(Bytes),
    Trailers(HeaderMap),
    /// More has to be read first.
    More,
    End,
}

/// Why a body can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum BadBody {
    #[error("it is not chunked as it says")]
    Chunk,
    #[error("its trailers are none")]
    Trailers(#[from] BadHead),
}

impl From<Framing> for At {
    fn from(framing: Framing) -> At {
        match framing {
            Framing::Length(0) => At::End,
            Framing::Length(bytes) => At::Length(bytes),
            Framing::Chunked => At::Size,
            Framing::Close => At::Close,
        }
    }
}

impl At {
    /// How much is still to come, where that is known.
    pub fn left(self) -> Option<u64> {
        match self {
            At::End => Some(0),
            At::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Takes the next thing from what was read.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Next, BadBody> {
        loop {
            match *self {
                At::End => return Ok(Next::End),
                _ if input.is_empty() => return Ok(Next::More),
                At::Close => return Ok(Next::Piece(piece(input, u64::MAX).0)),
                At::Length(left) => {
                    let (piece, left) = piece(input, left);
                    *self = if left == 0 { At::End } else { At::Length(left) };
                    return Ok(Next::Piece(piece));
                }
                At::Chunk(left) => {
                    let (piece, left) = piece(input, left);
                    *self = if left == 0 { At::ChunkEnd } else { At::Chunk(left) };
                    return Ok(Next::Piece(piece));
                }
                At::Size => match size(input)? {
                    Some(0) => *self = At::Trailers,
                    Some(bytes) => *self = At::Chunk(bytes),
                    None => return Ok(Next::More),
                },
                At::ChunkEnd => {
                    if !b"\r\n".starts_with(&input[..input.len().min(2)]) {
                        return Err(BadBody::Chunk);
                    }
                    if input.len() < 2 {
                        return Ok(Next::More);
                    }
                    input.advance(2);
                    *self = At::Size;
                }
                At::Trailers => {
                    let Some(trailers) = take_trailers(input)? else { return Ok(Next::More) };
                    *self = At::End;
                    return Ok(if trailers.is_empty() { Next::End } else { Next::Trailers(trailers) });
                }
            }
        }
    }
}

fn piece(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    let piece = if here < SMALL_BYTES {
        // A part of the buffer would keep the whole of it for as long as somebody has the part.
        let piece = Bytes::copy_from_slice(&input[..here]);
        input.advance(here);
        piece
    } else {
        input.split_to(here).freeze()
    };
    (piece, left - here as u64)
}

/// Takes the line that tells a chunk's size.
fn size(input: &mut BytesMut) -> Result<Option<u64>, BadBody> {
    let Some(end) = memchr(b'\n', input) else {
        return if input.len() > MAX_SIZE_LINE { Err(BadBody::Chunk) } else { Ok(None) };
    };
    let line = input[..end].strip_suffix(b"\r").ok_or(BadBody::Chunk)?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // Behind the size comes nothing, or an extension that nobody needs; blanks are sent by old programs.
    let rest = line[digits..].trim_ascii();
    if digits == 0 || digits > MAX_DIGITS || end > MAX_SIZE_LINE || !(rest.is_empty() || rest[0] == b';') {
        return Err(BadBody::Chunk);
    }
    let fold = |sum, digit: &u8| sum * 16 + u64::from((*digit as char).to_digit(16).unwrap_or(0));
    let bytes = line[..digits].iter().fold(0, fold);
    input.advance(end + 1);
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data, the trailers, and whether it ended; `None` where it is no body. What is behind it is left in `input`.
    fn read(at: &mut At, input: &mut BytesMut) -> Option<(Vec<u8>, usize, bool)> {
        let (mut data, mut trailers) = (Vec::new(), 0);
        loop {
            match at.next(input).ok()? {
                Next::Piece(piece) => data.extend_from_slice(&piece),
                Next::Trailers(fields) => trailers += fields.len(),
                Next::More => return Some((data, trailers, false)),
                Next::End => return Some((data, trailers, true)),
            }
        }
    }

    fn chunked(body: &str) -> Option<(Vec<u8>, usize, bool)> {
        read(&mut At::Size, &mut BytesMut::from(body))
    }

    #[test]
    fn a_chunked_body_is_taken_with_its_trailers_and_no_further() {
        let mut input =
            BytesMut::from("5\r\nhello\r\nA;x=\"y\"\r\n, world!!!\r\n0\r\nX-Sum: 1\r\n\r\nHTTP/1.1");
        let read = read(&mut At::Size, &mut input).unwrap();
        assert_eq!(read, (b"hello, world!!!".to_vec(), 1, true));
        assert_eq!(&input[..], b"HTTP/1.1");
        assert_eq!(chunked("5\r\nhello\r\n").unwrap(), (b"hello".to_vec(), 0, false));
    }

    #[test]
    fn what_is_not_chunked_is_not_taken_for_it() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "\r\nhello",
            "x\r\n",
            "-5\r\nhello",
            "5 x\r\nhello",
            "1111111111111111\r\n",
            "5\r\nhelloxx",
            "5\r\nhello\r\r\n",
            "0\r\nno colon\r\n\r\n",
        ] {
            assert!(chunked(body).is_none(), "{body:?}");
        }
        assert!(chunked(&format!("5;{}", "x".repeat(MAX_SIZE_LINE))).is_none());
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let mut input = BytesMut::from("hello, world");
        assert_eq!(
            read(&mut At::from(Framing::Length(5)), &mut input).unwrap(),
            (b"hello".to_vec(), 0, true)
        );
        assert_eq!(&input[..], b", world");
        assert!(!read(&mut At::from(Framing::Length(9)), &mut input).unwrap().2);
        assert!(read(&mut At::from(Framing::Length(0)), &mut BytesMut::new()).unwrap().2);
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(sizes in prop::collection::vec(1usize..40, 0..6), cut in 0usize..300) {
            let mut body = Vec::new();
            for size in &sizes {
                body.extend_from_slice(format!("{size:X}\r\n").as_bytes());
                body.extend(std::iter::repeat_n(b'\n', *size));
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nt: v\r\n\r\n");
            let cut = cut.min(body.len() - 1);
            let (mut at, mut input) = (At::Size, BytesMut::from(&body[..cut]));
            let (first, _, is_over) = read(&mut at, &mut input).unwrap();
            prop_assert!(!is_over);
            input.extend_from_slice(&body[cut..]);
            let (second, trailers, is_over) = read(&mut at, &mut input).unwrap();
            prop_assert_eq!((first.len() + second.len(), trailers, is_over), (sizes.iter().sum(), 1, true));
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _any = read(&mut At::Size, &mut BytesMut::from(&bytes[..]));
        }
    }
}
