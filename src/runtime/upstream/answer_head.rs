//! Owns reading the head of an origin's answer, and what it says of the body behind it (RFC 9112 §4, §6.3).
//! Never guesses: an answer whose end can't be known for sure is no answer.

use bytes::{Buf, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version, response};
use hyper::ext::ReasonPhrase;
use memchr::memchr;

use super::link::READ_BYTES;

/// Lines of one head. Programs send a few dozen.
const MAX_LINES: usize = 128;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Everything until the origin closes.
    Close,
}

/// A whole head.
#[derive(Debug)]
pub struct AnswerHead {
    pub parts: response::Parts,
    pub framing: Framing,
    /// Whether another request may follow on the connection.
    pub keeps_alive: bool,
}

/// Why it is none.
#[derive(Debug, thiserror::Error)]
pub enum BadHead {
    #[error("it is no HTTP/1 answer")]
    NoHttp(#[from] httparse::Error),
    #[error("its head is longer than {READ_BYTES} bytes")]
    TooLong,
    #[error("a field of its head can't be told from others")]
    Field,
    #[error("it says two things of where its body ends")]
    Framing,
}

/// Takes a head from the front of `input`; `None` while it is not whole.
pub fn take(input: &mut BytesMut, method: &Method) -> Result<Option<AnswerHead>, BadHead> {
    // Line ends that some programs leave behind the answer before.
    let blank = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    input.advance(blank);
    let Some(end) = end(input)? else {
        return if input.len() >= READ_BYTES { Err(BadHead::TooLong) } else { Ok(None) };
    };
    let head = input.split_to(end).freeze();
    let mut lines = [const { std::mem::MaybeUninit::uninit() }; MAX_LINES];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let read = config.parse_response_with_uninit_headers(&mut parsed, &head, &mut lines)?;
    if read != httparse::Status::Complete(end) {
        return Err(BadHead::Field);
    }
    let status = StatusCode::from_u16(parsed.code.unwrap_or(0)).map_err(|_| BadHead::Field)?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + ROOM);
    for line in &*parsed.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BadHead::Field)?;
        // Parts of one buffer, not copies.
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line.value)).map_err(|_| BadHead::Field)?;
        headers.append(name, value);
    }
    let (framing, is_sure) = framing(&mut headers, version, status, method)?;
    let keeps_alive = is_sure && version == Version::HTTP_11 && !says_close(&headers);
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.version, parts.headers) = (status, version, headers);
    let reason = parsed.reason.filter(|said| Some(*said) != status.canonical_reason() && !said.is_empty());
    if let Some(reason) = reason.and_then(|said| ReasonPhrase::try_from(said.as_bytes()).ok()) {
        parts.extensions.insert(reason);
    }
    Ok(Some(AnswerHead { parts, framing, keeps_alive }))
}

/// Behind the empty line that ends a head, whichever line end the origin has. Lines are counted, so that one who sends
/// many and drips the rest has few of them looked at again.
fn end(input: &[u8]) -> Result<Option<usize>, BadHead> {
    let mut from = 0;
    for _ in 0..=MAX_LINES + 1 {
        let Some(at) = memchr(b'\n', &input[from..]).map(|at| from + at) else { return Ok(None) };
        match &input[at + 1..] {
            [b'\n', ..] => return Ok(Some(at + 2)),
            [b'\r', b'\n', ..] => return Ok(Some(at + 3)),
            _ => from = at + 1,
        }
    }
    Err(BadHead::TooLong)
}

/// For what we add to an answer, so that its table is made once.
const ROOM: usize = 4;

/// The second: whether what comes behind the body is surely the next answer.
fn framing(
    headers: &mut HeaderMap,
    version: Version,
    status: StatusCode,
    method: &Method,
) -> Result<(Framing, bool), BadHead> {
    let codings = headers.get_all(header::TRANSFER_ENCODING);
    let is_coded = codings.iter().next().is_some();
    let is_chunked = is_coded && {
        let mut codings = codings.iter();
        let only = codings.next().filter(|_| codings.next().is_none());
        only.is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    };
    let length = length(headers)?;
    let has_no_body =
        method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_no_body || status.is_informational() {
        return Ok((Framing::Length(0), true));
    }
    if is_coded {
        // Any other coding would have to be undone, and HTTP/1.0 knows none at all.
        if !is_chunked || version == Version::HTTP_10 {
            return Err(BadHead::Framing);
        }
        // The length is not true then (RFC 9112 §6.3), and who sends both is not believed any further.
        let both = headers.remove(header::CONTENT_LENGTH).is_some();
        return Ok((Framing::Chunked, !both));
    }
    Ok(length.map_or((Framing::Close, false), |bytes| (Framing::Length(bytes), true)))
}

/// One number, however often it is said.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, BadHead> {
    let mut found = None;
    let mut said = 0;
    for line in headers.get_all(header::CONTENT_LENGTH) {
        for number in line.as_bytes().split(|byte| *byte == b',') {
            let number = number.trim_ascii();
            let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(number).ok().filter(|_| is_number);
            let number: u64 = number.and_then(|number| number.parse().ok()).ok_or(BadHead::Framing)?;
            if found.is_some_and(|before| before != number) {
                return Err(BadHead::Framing);
            }
            found = Some(number);
            said += 1;
        }
    }
    if let (Some(bytes), true) = (found, said > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    Ok(found)
}

fn says_close(headers: &HeaderMap) -> bool {
    let mut words =
        headers.get_all(header::CONNECTION).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
    words.any(|word| word.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Trailer fields from the front of `input`, up to their empty line; `None` while they are not whole.
pub fn take_trailers(input: &mut BytesMut) -> Result<Option<HeaderMap>, BadHead> {
    let is_whole = input.starts_with(b"\r\n") || input.starts_with(b"\n") || end(input)?.is_some();
    if !is_whole {
        return if input.len() >= READ_BYTES { Err(BadHead::TooLong) } else { Ok(None) };
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let httparse::Status::Complete((bytes, lines)) = httparse::parse_headers(input, &mut lines)? else {
        return if input.len() >= READ_BYTES { Err(BadHead::TooLong) } else { Ok(None) };
    };
    let mut trailers = HeaderMap::with_capacity(lines.len());
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_| BadHead::Field)?;
        trailers.append(name, HeaderValue::from_bytes(line.value).map_err(|_| BadHead::Field)?);
    }
    input.advance(bytes);
    Ok(Some(trailers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(head: &str) -> Result<Option<AnswerHead>, BadHead> {
        take(&mut BytesMut::from(head), &Method::GET)
    }

    fn framed(lines: &str) -> Option<(Framing, bool)> {
        let head = read(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n")).ok()??;
        Some((head.framing, head.keeps_alive))
    }

    #[test]
    fn a_head_is_taken_and_what_follows_stays() {
        let mut input =
            BytesMut::from("\r\nHTTP/1.1 404 Nowhere\r\nX-A: 1\r\nx-a:  2 \r\ncontent-length: 3\r\n\r\nabc");
        let head = take(&mut input, &Method::GET).unwrap().unwrap();
        assert_eq!((head.parts.status.as_u16(), head.framing), (404, Framing::Length(3)));
        let values: Vec<&[u8]> =
            head.parts.headers.get_all("x-a").iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(values, [b"1", b"2"]);
        assert_eq!(head.parts.extensions.get::<ReasonPhrase>().unwrap().as_bytes(), b"Nowhere");
        assert_eq!(&input[..], b"abc");
    }

    #[test]
    fn the_end_of_a_body_is_told_in_one_way_only() {
        for (lines, framing) in [
            ("content-length: 5\r\n", Some((Framing::Length(5), true))),
            ("content-length: 5, 5\r\ncontent-length: 5\r\n", Some((Framing::Length(5), true))),
            ("content-length: 5\r\nconnection: x, Close\r\n", Some((Framing::Length(5), false))),
            ("transfer-encoding: Chunked\r\n", Some((Framing::Chunked, true))),
            ("transfer-encoding: chunked\r\ncontent-length: 5\r\n", Some((Framing::Chunked, false))),
            ("", Some((Framing::Close, false))),
            ("content-length: 5\r\ncontent-length: 6\r\n", None),
            ("content-length: 5, 6\r\n", None),
            ("content-length: -5\r\n", None),
            ("content-length: +5\r\n", None),
            ("content-length: 5x\r\n", None),
            ("content-length: \r\n", None),
            ("content-length: 99999999999999999999\r\n", None),
            ("transfer-encoding: gzip\r\n", None),
            ("transfer-encoding: gzip, chunked\r\n", None),
            ("transfer-encoding: chunked, chunked\r\n", None),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", None),
        ] {
            assert_eq!(framed(lines), framing, "{lines:?}");
        }
        let old = "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert!(read(old).is_err());
        let once =
            read("HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n").unwrap().unwrap();
        assert_eq!((once.framing, once.keeps_alive), (Framing::Length(5), false));
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (method, status) in
            [(Method::HEAD, 200), (Method::GET, 204), (Method::GET, 304), (Method::GET, 101)]
        {
            let head =
                format!("HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n");
            let head = take(&mut BytesMut::from(&*head), &method).unwrap().unwrap();
            assert_eq!(head.framing, Framing::Length(0), "{method} {status}");
        }
    }

    #[test]
    fn what_is_no_head_is_none() {
        for head in [
            "hello\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n",
        ] {
            assert!(read(head).is_err(), "{head:?}");
        }
        let many = "a: b\r\n".repeat(MAX_LINES + 1);
        assert!(read(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")).is_err());
        assert!(matches!(read(&"x".repeat(READ_BYTES)), Err(BadHead::TooLong)));
    }

    proptest! {
        #[test]
        fn a_head_means_the_same_however_it_arrives(
            head in "HTTP/1\\.1 200 OK\r?\n((a|b): ?[a-z ]{0,5}\r?\n){0,4}\r?\nrest{0,3}", cut in 0usize..80,
        ) {
            let cut = cut.min(head.len());
            let whole = read(&head).unwrap().unwrap();
            let mut input = BytesMut::from(&head[..cut]);
            let first = take(&mut input, &Method::GET).unwrap();
            input.extend_from_slice(&head.as_bytes()[cut..]);
            let taken = match first {
                Some(head) => head,
                None => take(&mut input, &Method::GET).unwrap().unwrap(),
            };
            prop_assert_eq!(taken.parts.headers, whole.parts.headers);
            prop_assert!(input.starts_with(b"res"));
        }

        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _any = take(&mut BytesMut::from(&bytes[..]), &Method::GET);
            let _any = take_trailers(&mut BytesMut::from(&bytes[..]));
        }
    }
}
