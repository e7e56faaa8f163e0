//! RFC 9113 and RFC 7541, rule by rule, each with the error that it asks for: what a conformance suite for HTTP/2
//! servers tries. Never about what a request gets: `attacks_h2` has that.
//!
//! The codes are h2's to choose. Where the rule names FRAME_SIZE_ERROR, STREAM_CLOSED or COMPRESSION_ERROR, it says
//! PROTOCOL_ERROR of the connection as often, which ends more than was asked for, and never less.

use crate::attacked::Rig;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS,
    Verdict, WINDOW_UPDATE, Wire, block, frame, get, request, setting,
};

/// Name and value.
type Field<'a> = (&'a [u8], &'a [u8]);

const WHOLE: u8 = END_HEADERS | END_STREAM;
const PADDED: u8 = 8;
const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;

// RFC 9113 §7.
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// What the specification allows.
enum Asked {
    /// An error of the connection.
    Connection(u32),
    /// An error of the stream, which may be treated as one of the connection (§5.4.2).
    Stream(u32),
    /// A malformed request: a stream error, before which a server may answer (§8.1.1).
    Malformed,
    /// Nothing is wrong with it.
    Nothing,
}

impl Asked {
    fn is(&self, verdict: Verdict) -> bool {
        match self {
            Self::Connection(code) => [Verdict::GoAway(*code), Verdict::GoAway(PROTOCOL)].contains(&verdict),
            Self::Stream(code) => {
                [Verdict::Reset(*code), Verdict::GoAway(*code), Verdict::GoAway(PROTOCOL)].contains(&verdict)
            }
            Self::Malformed => [Verdict::Reset(PROTOCOL), Verdict::GoAway(PROTOCOL), Verdict::Refused(400)]
                .contains(&verdict),
            Self::Nothing => verdict == Verdict::Taken,
        }
    }
}

use Asked::{Connection, Malformed, Nothing, Stream};

/// Each on a connection of its own, behind the preface and our settings. All that went wrong is told at once.
async fn try_all(rig: &Rig, cases: Vec<(&str, Vec<u8>, Asked)>) {
    let mut wrong = Vec::new();
    for (what, bytes, asked) in cases {
        let mut wire = Wire::open(rig.address()).await;
        wire.write(&bytes).await;
        let verdict = wire.verdict().await;
        if !asked.is(verdict) {
            wrong.push(format!("{what}: {verdict:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn frames_that_break_a_rule_get_the_error_that_the_rule_names() {
    let rig = Rig::start().await;
    let ask = get(&rig.site, "/");
    // Open, half of it still to come.
    let open = || frame(HEADERS, END_HEADERS, 1, &request("POST", &rig.proxied, "/up"));
    // Asked in full of an origin; the answer may come meanwhile.
    let asked = || frame(HEADERS, WHOLE, 1, &get(&rig.proxied, "/slow"));
    let then = |first: Vec<u8>, second: Vec<u8>| [first, second].concat();
    let cases = vec![
        // §4.2, §6.5.2: our largest frame is the least there may be.
        ("data too large", then(open(), frame(DATA, 0, 1, &[0; 16_385])), Stream(FRAME_SIZE)),
        ("headers too large", frame(HEADERS, WHOLE, 1, &[0; 16_385]), Connection(FRAME_SIZE)),
        ("settings too large", frame(SETTINGS, 0, 0, &[0; 16_386]), Connection(FRAME_SIZE)),
        // §5.1
        ("data on an idle stream", frame(DATA, 0, 1, b"abc"), Connection(PROTOCOL)),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), Connection(PROTOCOL)),
        ("a window for an idle stream", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]), Connection(PROTOCOL)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &ask), Connection(PROTOCOL)),
        ("data behind the end", then(asked(), frame(DATA, 0, 1, b"abc")), Stream(STREAM_CLOSED)),
        ("headers behind the end", then(asked(), frame(HEADERS, WHOLE, 1, &ask)), Stream(STREAM_CLOSED)),
        (
            "data behind a reset",
            then(then(open(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])), frame(DATA, 0, 1, b"abc")),
            Stream(STREAM_CLOSED),
        ),
        (
            "headers behind a reset",
            then(then(open(), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])), frame(HEADERS, WHOLE, 1, &ask)),
            Stream(STREAM_CLOSED),
        ),
        // §5.1.1
        ("a stream of the server's", frame(HEADERS, WHOLE, 2, &ask), Connection(PROTOCOL)),
        (
            "a number that goes back",
            then(frame(HEADERS, WHOLE, 5, &ask), frame(HEADERS, WHOLE, 3, &ask)),
            Connection(PROTOCOL),
        ),
        // §6.1, §6.2
        ("data on stream 0", frame(DATA, 0, 0, b"abc"), Connection(PROTOCOL)),
        ("padding beyond data", then(open(), frame(DATA, PADDED, 1, &[4, 0, 0])), Connection(PROTOCOL)),
        ("headers on stream 0", frame(HEADERS, WHOLE, 0, &ask), Connection(PROTOCOL)),
        ("padding beyond headers", frame(HEADERS, WHOLE | PADDED, 1, &[200, 0]), Connection(PROTOCOL)),
        // §6.3
        ("a priority of stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 16]), Connection(PROTOCOL)),
        ("a priority of four bytes", then(open(), frame(PRIORITY, 0, 1, &[0; 4])), Stream(FRAME_SIZE)),
        ("a priority of an idle stream", frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 16]), Nothing),
        // §6.4
        ("a reset of stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), Connection(PROTOCOL)),
        ("a short reset", then(open(), frame(RST_STREAM, 0, 1, &[0, 0, 8])), Connection(FRAME_SIZE)),
        // §6.5
        ("an acknowledgement with a payload", frame(SETTINGS, 1, 0, &[0; 6]), Connection(FRAME_SIZE)),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[]), Connection(PROTOCOL)),
        ("settings of three bytes", frame(SETTINGS, 0, 0, &[0; 3]), Connection(FRAME_SIZE)),
        ("a push that is neither on nor off", frame(SETTINGS, 0, 0, &setting(2, 2)), Connection(PROTOCOL)),
        ("a window beyond", frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000)), Connection(FLOW_CONTROL)),
        ("a frame size below", frame(SETTINGS, 0, 0, &setting(5, 16_383)), Connection(PROTOCOL)),
        ("a frame size above", frame(SETTINGS, 0, 0, &setting(5, 16_777_216)), Connection(PROTOCOL)),
        ("a setting that nobody knows", frame(SETTINGS, 0, 0, &setting(0xff, 1)), Nothing),
        // §6.6
        (
            "a promise",
            then(open(), frame(PUSH_PROMISE, END_HEADERS, 1, &then(vec![0, 0, 0, 2], ask.clone()))),
            Connection(PROTOCOL),
        ),
        // §6.7, §6.8
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7]), Connection(FRAME_SIZE)),
        ("a ping of nine bytes", frame(PING, 0, 0, &[0; 9]), Connection(FRAME_SIZE)),
        ("a farewell on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        // §6.9
        ("no window", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Connection(PROTOCOL)),
        ("no window for a stream", then(open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])), Stream(PROTOCOL)),
        ("a short window", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(FRAME_SIZE)),
        (
            "a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Connection(FLOW_CONTROL),
        ),
        (
            "a stream's window that overflows",
            then(open(), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
            Stream(FLOW_CONTROL),
        ),
        (
            "a window that settings make overflow",
            then(
                then(open(), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0, 0, 0])),
                frame(SETTINGS, 0, 0, &setting(4, 0x7fff_ffff)),
            ),
            Connection(FLOW_CONTROL),
        ),
        // §6.10
        ("a continuation on stream 0", frame(CONTINUATION, END_HEADERS, 0, &ask), Connection(PROTOCOL)),
        (
            "a continuation behind the end of its block",
            then(open(), frame(CONTINUATION, END_HEADERS, 1, &ask)),
            Connection(PROTOCOL),
        ),
        (
            "a continuation behind data",
            then(then(open(), frame(DATA, 0, 1, b"abc")), frame(CONTINUATION, END_HEADERS, 1, &ask)),
            Connection(PROTOCOL),
        ),
        (
            "another frame within a block",
            then(frame(HEADERS, END_STREAM, 1, &ask), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
            Connection(PROTOCOL),
        ),
        (
            "an unknown frame within a block",
            then(frame(HEADERS, END_STREAM, 1, &ask), frame(0x2a, 0, 1, b"")),
            Connection(PROTOCOL),
        ),
        (
            "another stream within a block",
            then(frame(HEADERS, END_STREAM, 1, &ask), frame(CONTINUATION, END_HEADERS, 3, b"")),
            Connection(PROTOCOL),
        ),
        // §5.5, §4.1
        ("an unknown frame", frame(0x2a, 0xff, 0, b"what"), Nothing),
        ("flags that nobody knows", frame(PING, 0x16, 0, &[0; 8]), Nothing),
        ("a reserved bit", frame(PING, 0, 0x8000_0000, &[0; 8]), Nothing),
    ];
    try_all(&rig, cases).await;
    rig.still_serves("frames").await;
}

#[tokio::test]
async fn header_blocks_that_break_a_rule_get_the_error_that_the_rule_names() {
    let rig = Rig::start().await;
    let ask = get(&rig.site, "/");
    let block_of = |bytes: Vec<u8>| frame(HEADERS, WHOLE, 1, &bytes);
    let behind = |more: &[u8]| block_of([&ask[..], more].concat());
    let with = |name: &[u8], value: &[u8]| behind(&block(&[(name, value)]));
    let pseudo = |fields: &[(&[u8], &[u8])]| block_of(block(fields));
    let (method, scheme): (Field, Field) = ((b":method", b"GET"), (b":scheme", b"http"));
    let (authority, path): (Field, Field) = ((b":authority", rig.site.as_bytes()), (b":path", b"/"));
    let up = |length: &[u8], pieces: &[&[u8]]| {
        let mut bytes = request("POST", &rig.proxied, "/up");
        bytes.extend_from_slice(&block(&[(b"content-length", length)]));
        let mut frames = frame(HEADERS, END_HEADERS, 1, &bytes);
        for (at, piece) in pieces.iter().enumerate() {
            let flags = if at + 1 == pieces.len() { END_STREAM } else { 0 };
            frames.extend_from_slice(&frame(DATA, flags, 1, piece));
        }
        frames
    };
    let trailers = |flags: u8, fields: &[(&[u8], &[u8])]| {
        let open = frame(HEADERS, END_HEADERS, 1, &request("POST", &rig.proxied, "/up"));
        [open, frame(DATA, 0, 1, b"abc"), frame(HEADERS, flags, 1, &block(fields))].concat()
    };
    let cases = vec![
        // RFC 7541 §2.3.3, §4.2, §5.2, §6.1, §6.3
        ("an index of nothing", behind(&[0x80]), Connection(COMPRESSION)),
        ("an index beyond the table", behind(&[0xff, 0x00]), Connection(COMPRESSION)),
        ("a name beyond the table", behind(&[0x7f, 0x00, 1, b'a']), Connection(COMPRESSION)),
        ("an integer without an end", behind(&[0xff; 40]), Connection(COMPRESSION)),
        ("a table size at the end", behind(&[0x20]), Connection(COMPRESSION)),
        (
            "a table beyond its bound",
            block_of([&[0x3f, 0xe1, 0x1f + 1], &ask[..]].concat()),
            Connection(COMPRESSION),
        ),
        ("a string beyond the block", behind(&[0, 0x50, b'a']), Connection(COMPRESSION)),
        // `a` in Huffman code, padded with more than seven bits, with zeros, and the end of all strings itself.
        ("padding of a byte", behind(&[0, 1, b'x', 0x82, 0x1f, 0xff]), Connection(COMPRESSION)),
        ("padding of zeros", behind(&[0, 1, b'x', 0x81, 0x18]), Connection(COMPRESSION)),
        ("the end of strings", behind(&[0, 1, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]), Connection(COMPRESSION)),
        ("a table size at the start", block_of([&[0x20], &ask[..]].concat()), Nothing),
        // RFC 9113 §8.1
        ("trailers that end nothing", trailers(END_HEADERS, &[(b"x-a", b"b")]), Malformed),
        // h2 drops it: nothing of it is passed on, which `attacks_h2` watches.
        ("a pseudo-header in trailers", trailers(WHOLE, &[(b":method", b"GET")]), Nothing),
        // §8.2
        ("an upper case name", with(b"X-A", b"b"), Malformed),
        ("a space in a name", with(b"x a", b"b"), Malformed),
        ("a line end in a value", with(b"x-a", b"b\nc"), Malformed),
        ("connection", with(b"connection", b"close"), Malformed),
        ("keep-alive", with(b"keep-alive", b"timeout=1"), Malformed),
        ("proxy-connection", with(b"proxy-connection", b"close"), Malformed),
        ("transfer-encoding", with(b"transfer-encoding", b"chunked"), Malformed),
        ("upgrade", with(b"upgrade", b"h2c"), Malformed),
        ("te that is not trailers", with(b"te", b"trailers, deflate;q=0.5"), Malformed),
        // §8.3
        ("an unknown pseudo-header", with(b":test", b"b"), Malformed),
        ("a pseudo-header of answers", with(b":status", b"200"), Malformed),
        (
            "a pseudo-header behind others",
            pseudo(&[method, scheme, authority, (b"x-a", b"b"), path]),
            Malformed,
        ),
        ("an empty path", pseudo(&[method, scheme, authority, (b":path", b"")]), Malformed),
        ("a path that is none", pseudo(&[method, scheme, authority, (b":path", b"a")]), Malformed),
        ("no method", pseudo(&[scheme, authority, path]), Malformed),
        ("no scheme", pseudo(&[method, authority, path]), Malformed),
        ("no path", pseudo(&[method, scheme, authority]), Malformed),
        ("two methods", pseudo(&[method, method, scheme, authority, path]), Malformed),
        ("two schemes", pseudo(&[method, scheme, scheme, authority, path]), Malformed),
        ("two paths", pseudo(&[method, scheme, authority, path, path]), Malformed),
        // §8.1.1
        ("less than said", up(b"4", &[b"abc"]), Malformed),
        ("less than said, in two pieces", up(b"8", &[b"abc", b"abc"]), Malformed),
        ("more than said", up(b"2", &[b"abc"]), Malformed),
    ];
    try_all(&rig, cases).await;
    rig.still_serves("header blocks").await;
}

#[tokio::test]
async fn a_connection_that_does_not_begin_as_it_must_ends() {
    let rig = Rig::start().await;
    let ask = frame(HEADERS, WHOLE, 1, &get(&rig.site, "/"));
    for (what, bytes) in [
        ("another preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        ("half a preface", PREFACE[..20].to_vec()),
    ] {
        let mut wire = Wire::raw(rig.address()).await;
        wire.write(&bytes).await;
        let ended = wire.ended_within_head().await;
        assert!(ended, "{what}");
    }
    for (what, first) in [("headers", ask.clone()), ("a window", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))] {
        let mut wire = Wire::raw(rig.address()).await;
        wire.write(&[PREFACE, &first, &frame(SETTINGS, 0, 0, &[]), &ask].concat()).await;
        while let Some(said) = wire.next().await {
            assert_eq!(said.kind, GOAWAY, "{what} first: {said:?}");
        }
    }
    rig.still_serves("prefaces").await;
}
