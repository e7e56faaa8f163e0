//! Owns judging the raw bytes of an HTTP/1 request head, before any parser that is lenient has seen them.
//! Never guesses: what two servers could read in two ways is refused, because the second server is the tenant's
//! (RFC 9112 §2.2, §5, §6, §11.2).

use memchr::memchr;

use crate::routing::BadRequest;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
}

/// A head up to and including its empty line, or what is there of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scanned {
    /// The empty line has not come yet.
    Partial,
    /// `bytes` belong to the head.
    Whole { bytes: usize, judged: Result<Framing, BadRequest> },
}

/// Reads one head from the front of `bytes`. Empty lines before it are skipped, as every parser does.
pub fn scan(bytes: &[u8]) -> Scanned {
    let mut start = 0;
    let mut judge = Judge::default();
    loop {
        let Some(length) = memchr(b'\n', &bytes[start..]) else { return Scanned::Partial };
        let line = &bytes[start..start + length];
        start += length + 1;
        let line = match line.strip_suffix(b"\r") {
            Some(line) => line,
            None => {
                judge.find(BadRequest::LineEnd);
                line
            }
        };
        if line.is_empty() {
            if judge.lines > 0 {
                return Scanned::Whole { bytes: start, judged: judge.verdict() };
            }
            continue;
        }
        judge.line(line);
    }
}

#[derive(Default)]
struct Judge {
    lines: usize,
    is_http_10: bool,
    length: Option<u64>,
    is_chunked: bool,
    found: Option<BadRequest>,
}

impl Judge {
    /// The first finding counts; later ones may only follow from it.
    fn find(&mut self, what: BadRequest) {
        self.found.get_or_insert(what);
    }

    fn line(&mut self, line: &[u8]) {
        if self.lines == 0 {
            self.request_line(line);
        } else {
            self.field(line);
        }
        self.lines += 1;
    }

    fn request_line(&mut self, line: &[u8]) {
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version, more) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) = (method, target, version, more) else {
            return self.find(BadRequest::RequestLine);
        };
        self.is_http_10 = version == b"HTTP/1.0";
        let is_known = self.is_http_10 || version == b"HTTP/1.1";
        let is_plain = |byte: &u8| (0x21..0x7f).contains(byte);
        if method.is_empty() || !method.iter().all(is_token) || !is_known {
            return self.find(BadRequest::RequestLine);
        }
        // A byte above 127 is no valid target; a fragment never belongs into one, and where it is kept two
        // servers see two paths.
        let is_bad = !target.iter().all(is_plain) || memchr(b'#', target).is_some();
        if is_bad || !has_form(method, target) {
            self.find(BadRequest::Target);
        }
    }

    fn field(&mut self, line: &[u8]) {
        if matches!(line[0], b' ' | b'\t') {
            return self.find(BadRequest::Folding);
        }
        let Some(colon) = memchr(b':', line) else { return self.find(BadRequest::Field) };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // Whitespace before the colon is no token character, so it is refused here too.
        if name.is_empty() || !name.iter().all(is_token) {
            return self.find(BadRequest::Field);
        }
        if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
            return self.find(BadRequest::Field);
        }
        match name[0] | 0x20 {
            b'c' if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value.trim_ascii()),
            b't' if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            _ => {}
        }
    }

    fn content_length(&mut self, value: &[u8]) {
        let digits = !value.is_empty() && value.len() <= 19 && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
        match (number, self.length) {
            // Twice is refused also where both say the same: one of them was not ours to believe.
            (Some(number), None) => self.length = Some(number),
            _ => self.find(BadRequest::Length),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) {
        if self.is_chunked || self.is_http_10 || !value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            self.find(BadRequest::TransferEncoding);
        }
        self.is_chunked = true;
    }

    fn verdict(self) -> Result<Framing, BadRequest> {
        match (self.found, self.is_chunked, self.length) {
            (Some(found), ..) => Err(found),
            (None, true, Some(_)) => Err(BadRequest::Length),
            (None, true, None) => Ok(Framing::Chunked),
            (None, false, Some(0) | None) => Ok(Framing::None),
            (None, false, Some(bytes)) => Ok(Framing::Length(bytes)),
        }
    }
}

/// A path, an address of the web, or what the method has a form of its own for (RFC 9112 §3.2). A bare authority is
/// for CONNECT alone: elsewhere it would name a host that nobody compares.
fn has_form(method: &[u8], target: &[u8]) -> bool {
    let begins =
        |start: &[u8]| target.get(..start.len()).is_some_and(|front| front.eq_ignore_ascii_case(start));
    match method {
        b"CONNECT" => !target.is_empty(),
        b"OPTIONS" if target == b"*" => true,
        _ => begins(b"/") || begins(b"http://") || begins(b"https://"),
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(head: &str) -> Result<Framing, BadRequest> {
        match scan(head.as_bytes()) {
            Scanned::Whole { bytes, judged } => {
                assert_eq!(bytes, head.len());
                judged
            }
            Scanned::Partial => panic!("no whole head: {head:?}"),
        }
    }

    #[test]
    fn ordinary_heads_pass_with_their_framing() {
        let get = |fields: &str| judged(&format!("GET /a?b=c HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
        assert_eq!(get(""), Ok(Framing::None));
        assert_eq!(get("Content-Length: 0\r\n"), Ok(Framing::None));
        assert_eq!(get("Content-Length:\t42 \r\n"), Ok(Framing::Length(42)));
        assert_eq!(get("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        assert_eq!(get("X: \u{e9}\tok\r\n"), Ok(Framing::None));
        assert_eq!(judged("\r\n\r\nOPTIONS * HTTP/1.0\r\n\r\n"), Ok(Framing::None));
    }

    #[test]
    fn what_two_servers_could_read_in_two_ways_is_refused() {
        for (head, why) in [
            ("GET / HTTP/1.1\nHost: x\r\n\r\n", BadRequest::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", BadRequest::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\r\n\n", BadRequest::LineEnd),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", BadRequest::Folding),
            ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.1\r\nA: b\0\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.1\r\nA : b\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.1\r\nnothing\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: \r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", BadRequest::Length),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", BadRequest::TransferEncoding),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", BadRequest::TransferEncoding),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", BadRequest::TransferEncoding),
            (
                "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                BadRequest::TransferEncoding,
            ),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n", BadRequest::Field),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BadRequest::TransferEncoding),
            ("GET  / HTTP/1.1\r\n\r\n", BadRequest::RequestLine),
            ("GET / HTTP/1.1 \r\n\r\n", BadRequest::RequestLine),
            ("GET /a b HTTP/1.1\r\n\r\n", BadRequest::RequestLine),
            (" GET / HTTP/1.1\r\n\r\n", BadRequest::RequestLine),
            ("GET /\r\n\r\n", BadRequest::RequestLine),
            ("GET / HTTP/2.0\r\n\r\n", BadRequest::RequestLine),
            ("GET / HTTP/1.10\r\n\r\n", BadRequest::RequestLine),
            ("GET / http/1.1\r\n\r\n", BadRequest::RequestLine),
            ("G@T / HTTP/1.1\r\n\r\n", BadRequest::RequestLine),
            ("GET /\u{e9} HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET /a#b HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET /\t HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET * HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET a.example HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET a.example:80 HTTP/1.1\r\n\r\n", BadRequest::Target),
            ("GET ftp://a.example/ HTTP/1.1\r\n\r\n", BadRequest::Target),
        ] {
            assert_eq!(judged(head), Err(why), "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_never_beyond_their_end(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Scanned::Whole { bytes: taken, .. } = scan(&bytes) {
                prop_assert!(taken <= bytes.len() && bytes[taken - 1] == b'\n');
            }
        }

        #[test]
        fn a_control_byte_anywhere_makes_a_good_head_a_bad_one(
            at in 0usize..60,
            byte in prop::sample::select(b"\0\r\n\x0b\x0c\x1b\x7f".to_vec()),
        ) {
            let mut head = b"POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n".to_vec();
            let at = at.min(head.len() - 2);
            head.insert(at, byte);
            let is_good = matches!(scan(&head), Scanned::Whole { judged: Ok(_), .. });
            prop_assert!(!is_good, "{:?}", String::from_utf8_lossy(&head));
        }

        #[test]
        fn a_good_head_has_whole_line_ends_only(bytes in "(G|GET|POST| |/|HTTP/1.1|\r\n|\r|\n|\t|:|a|Host: a|Content-Length: 1|Transfer-Encoding: chunked|\0){0,24}") {
            let bytes = format!("GET / HTTP/1.1\r\n{bytes}\r\n\r\n");
            if let Scanned::Whole { bytes: taken, judged: Ok(_) } = scan(bytes.as_bytes()) {
                let head = &bytes[..taken];
                prop_assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']) && !head.contains("\r\n "));
            }
        }

        #[test]
        fn a_head_is_partial_until_its_last_byte(cut in 1usize..60) {
            let head = b"POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n";
            let cut = cut.min(head.len() - 1);
            prop_assert_eq!(scan(&head[..cut]), Scanned::Partial);
        }
    }
}
