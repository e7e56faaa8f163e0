//! Owns following a chunked request body, so that the guard knows where the next head begins (RFC 9112 §7.1).
//! Never decodes: the body's reader does. Stricter than readers are: a line that ends in a bare LF, a size that is
//! no plain hexadecimal number, or an extension longer than any client sends ends the connection.

/// Digits of a chunk's size: 2⁶⁰ bytes.
const MAX_DIGITS: u8 = 15;
/// Bytes of one chunk's extension.
const MAX_EXTENSION_BYTES: u16 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size { digits: u8 },
    Extension { bytes: u16 },
    SizeEnd,
    Data,
    DataReturn,
    DataEnd,
    TrailerStart,
    Trailer,
    TrailerLineEnd,
    LastEnd,
}

/// Where in a chunked body we are.
#[derive(Debug)]
pub struct Chunks {
    at: At,
    left: u64,
    trailer_bytes: usize,
    max_trailer_bytes: usize,
}

/// What some bytes meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// The body goes on behind them.
    All,
    /// The body ended within them, after so many.
    End(usize),
    /// They are no chunked body.
    Broken,
}

impl Chunks {
    pub fn new(max_trailer_bytes: usize) -> Chunks {
        Chunks { at: At::Size { digits: 0 }, left: 0, trailer_bytes: 0, max_trailer_bytes }
    }

    pub fn follow(&mut self, bytes: &[u8]) -> Followed {
        let mut index = 0;
        while let Some(&byte) = bytes.get(index) {
            if self.at == At::Data {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - index);
                self.left -= here as u64;
                index += here;
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            index += 1;
            self.at = match (self.at, byte) {
                (At::Size { digits }, b) if b.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                    self.left = self.left * 16 + u64::from((b as char).to_digit(16).unwrap_or(0));
                    At::Size { digits: digits + 1 }
                }
                (At::Size { digits: 1.. }, b'\r') => At::SizeEnd,
                (At::Size { digits: 1.. }, b';') => At::Extension { bytes: 0 },
                (At::Extension { .. }, b'\r') => At::SizeEnd,
                (At::Extension { bytes }, b)
                    if (b == b'\t' || b >= 0x20) && b != 0x7f && bytes < MAX_EXTENSION_BYTES =>
                {
                    At::Extension { bytes: bytes + 1 }
                }
                (At::SizeEnd, b'\n') if self.left == 0 => At::TrailerStart,
                (At::SizeEnd, b'\n') => At::Data,
                (At::DataReturn, b'\r') => At::DataEnd,
                (At::DataEnd, b'\n') => At::Size { digits: 0 },
                (At::TrailerStart, b'\r') => At::LastEnd,
                (At::Trailer, b'\r') => At::TrailerLineEnd,
                (At::TrailerLineEnd, b'\n') => At::TrailerStart,
                (At::TrailerStart | At::Trailer, b)
                    if (b == b'\t' || b >= 0x20)
                        && b != 0x7f
                        && !(self.at == At::TrailerStart && matches!(b, b' ' | b'\t' | b':'))
                        && self.trailer_bytes < self.max_trailer_bytes =>
                {
                    self.trailer_bytes += 1;
                    At::Trailer
                }
                (At::LastEnd, b'\n') => return Followed::End(index),
                _ => return Followed::Broken,
            };
        }
        Followed::All
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn followed(body: &[u8]) -> Followed {
        Chunks::new(100).follow(body)
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "a;x=\"y\"\r\n0123456789\r\n1\r\n!\r\n000\r\nT: v\r\nU: w\r\n\r\n",
            "00A\r\n0123456789\r\n0\r\n\r\n",
        ] {
            let with_next = format!("{body}GET / HTTP/1.1");
            assert_eq!(followed(with_next.as_bytes()), Followed::End(body.len()), "{body:?}");
        }
        assert_eq!(followed(b"5\r\nhel"), Followed::All);
    }

    #[test]
    fn what_readers_read_differently_is_broken() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello",
            ";x\r\n",
            "5;\nx\r\n",
            "0\r\n\n",
            "0\r\nT: v\n\r\n",
            "0\r\n folded\r\n\r\n",
            "0\r\n: v\r\n\r\n",
            "1111111111111111\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert_eq!(followed(body.as_bytes()), Followed::Broken, "{body:?}");
        }
        assert_eq!(followed(format!("1;{}", "x".repeat(300)).as_bytes()), Followed::Broken);
        assert_eq!(followed(format!("0\r\nT: {}", "x".repeat(200)).as_bytes()), Followed::Broken);
    }

    proptest! {
        #[test]
        fn any_bytes_mean_the_same_however_they_arrive(body in "([0-9a-fx+;]|\r\n|\r|\n| |5\r\nhello\r\n|0\r\n|A: b){0,12}") {
            let whole = followed(body.as_bytes());
            let mut chunks = Chunks::new(100);
            let ends = body.bytes().enumerate().find_map(|(at, byte)| match chunks.follow(std::slice::from_ref(&byte)) {
                Followed::All => None,
                Followed::End(_) => Some(Followed::End(at + 1)),
                Followed::Broken => Some(Followed::Broken),
            });
            prop_assert_eq!(ends.unwrap_or(Followed::All), whole);
        }

        #[test]
        fn cuts_change_nothing(sizes in prop::collection::vec(0usize..40, 0..6), cut in 0usize..300) {
            let mut body = Vec::new();
            for size in sizes.iter().filter(|s| **s > 0) {
                body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
                body.extend(std::iter::repeat_n(b'\n', *size));
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let cut = cut.min(body.len() - 1);
            let mut chunks = Chunks::new(100);
            prop_assert_eq!(chunks.follow(&body[..cut]), Followed::All);
            prop_assert_eq!(chunks.follow(&body[cut..]), Followed::End(body.len() - cut));
        }
    }
}
