//! HTTP/2 as an attacker speaks it, frame by frame: a stream that is wrong ends alone or with its connection, and whoever
//! comes next is served.

use crate::attacked::{Rig, SMUGGLED};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, Verdict,
    WINDOW_UPDATE, Wire, block, frame, get, request, setting, string,
};

/// Name and value.
type Field<'a> = (&'a [u8], &'a [u8]);

const WHOLE: u8 = END_HEADERS | END_STREAM;
const ENHANCE_YOUR_CALM: u32 = 11;
/// More window than there may be: an error of the stream alone.
const OVERFLOW: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
/// `http.http2.own_resets`.
const OWN_RESETS: usize = 256;

#[tokio::test]
async fn a_header_block_that_is_malformed_is_refused_and_reaches_nobody() {
    let rig = Rig::start().await;
    for host in rig.hosts() {
        let host = host.as_bytes();
        let user = [b"a@", host].concat();
        let method: (&[u8], &[u8]) = (b":method", b"GET");
        let scheme: (&[u8], &[u8]) = (b":scheme", b"http");
        let authority: (&[u8], &[u8]) = (b":authority", host);
        let path: (&[u8], &[u8]) = (b":path", SMUGGLED.as_bytes());
        let usual = [method, scheme, authority, path];
        let lists: Vec<(&str, Vec<Field>)> = vec![
            ("no method", vec![scheme, authority, path]),
            ("no scheme", vec![method, authority, path]),
            ("no path", vec![method, scheme, authority]),
            ("an empty path", vec![method, scheme, authority, (b":path", b"")]),
            ("two paths", vec![method, scheme, authority, path, path]),
            ("two methods", vec![method, method, scheme, authority, path]),
            ("two authorities", vec![method, scheme, authority, authority, path]),
            ("an unknown pseudo-header", [&usual[..], &[(b":x", b"y")]].concat()),
            ("a status", [&usual[..], &[(b":status", b"200")]].concat()),
            ("a protocol", [&usual[..], &[(b":protocol", b"websocket")]].concat()),
            ("a pseudo-header behind the others", vec![method, scheme, (b"x-a", b"b"), authority, path]),
            ("an upper case name", [&usual[..], &[(b"X-A", b"b")]].concat()),
            ("an empty name", [&usual[..], &[(b"", b"b")]].concat()),
            ("a space in a name", [&usual[..], &[(b"x a", b"b")]].concat()),
            ("a colon in a name", [&usual[..], &[(b"x-a: b\r\nx", b"b")]].concat()),
            ("line ends in a value", [&usual[..], &[(b"x-a", b"b\r\nx: y")]].concat()),
            ("a line feed in a value", [&usual[..], &[(b"x-a", b"b\nx: y")]].concat()),
            ("NUL in a value", [&usual[..], &[(b"x-a", b"b\0")]].concat()),
            ("connection", [&usual[..], &[(b"connection", b"close")]].concat()),
            ("connection that names", [&usual[..], &[(b"connection", b"x-forwarded-for")]].concat()),
            ("keep-alive", [&usual[..], &[(b"keep-alive", b"timeout=1")]].concat()),
            ("proxy-connection", [&usual[..], &[(b"proxy-connection", b"close")]].concat()),
            ("transfer-encoding", [&usual[..], &[(b"transfer-encoding", b"chunked")]].concat()),
            ("upgrade", [&usual[..], &[(b"upgrade", b"websocket")]].concat()),
            ("te that is not trailers", [&usual[..], &[(b"te", b"gzip")]].concat()),
            ("a length without a body", [&usual[..], &[(b"content-length", b"5")]].concat()),
            ("a length that is none", [&usual[..], &[(b"content-length", b"0x0")]].concat()),
            ("a signed length", [&usual[..], &[(b"content-length", b"+0")]].concat()),
            ("two lengths", [&usual[..], &[(b"content-length", b"0"), (b"content-length", b"7")]].concat()),
            ("a user", vec![method, scheme, (b":authority", &user), path]),
            ("no authority and no host", vec![method, scheme, path]),
            ("an empty authority", vec![method, scheme, (b":authority", b""), path]),
            ("another host", [&usual[..], &[(b"host", b"other.example")]].concat()),
            ("two hosts", [&usual[..], &[(b"host", host), (b"host", host)]].concat()),
            ("a path that is none", vec![method, scheme, authority, (b":path", b"smuggled")]),
            (
                "a whole address as path",
                vec![method, scheme, authority, (b":path", b"http://other.example/")],
            ),
            ("a space in the path", vec![method, scheme, authority, (b":path", b"/ HTTP/1.1")]),
            ("line ends in the path", vec![method, scheme, authority, (b":path", b"/ HTTP/1.1\r\nx: y")]),
            ("NUL in the path", vec![method, scheme, authority, (b":path", b"/\0")]),
            ("bytes beyond ASCII in the path", vec![method, scheme, authority, (b":path", b"/\xff\xfe")]),
            (
                "a letter beyond ASCII in the path",
                vec![method, scheme, authority, (b":path", "/\u{e9}".as_bytes())],
            ),
            ("a space in the method", vec![(b":method", b"GET /"), scheme, authority, path]),
            ("an empty method", vec![(b":method", b""), scheme, authority, path]),
            ("CONNECT", vec![(b":method", b"CONNECT"), authority]),
            ("CONNECT to elsewhere", vec![(b":method", b"CONNECT"), (b":authority", b"other.example:443")]),
            ("TRACE", vec![(b":method", b"TRACE"), scheme, authority, path]),
        ];
        for (what, fields) in lists {
            let mut wire = Wire::open(rig.address()).await;
            wire.send(HEADERS, WHOLE, 1, &block(&fields)).await;
            let fate = wire.fate(1).await;
            assert!(fate.is_refused(), "{what}: {fate:?}");
            assert_eq!(rig.origin.received(), "", "{what}");
        }
    }
    // What may be, is.
    let host = rig.proxied.as_bytes();
    let (method, scheme, path): (Field, Field, Field) =
        ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/fine"));
    for fields in [
        vec![method, scheme, path, (b"host", host)],
        vec![method, scheme, path, (b":authority", host), (b"host", host)],
        vec![method, scheme, path, (b":authority", host), (b"te", b"trailers")],
        vec![method, scheme, path, (b":authority", host), (b"cookie", b"a=b"), (b"cookie", b"c=d")],
    ] {
        let mut wire = Wire::open(rig.address()).await;
        wire.send(HEADERS, WHOLE, 1, &block(&fields)).await;
        assert_eq!(wire.fate(1).await, Fate::Status(200));
    }
    assert_eq!(rig.origin.asked(), ["get /fine"; 4]);
    assert!(rig.origin.received().contains("cookie: a=b; c=d\r\n"), "{}", rig.origin.received());
    rig.still_serves("malformed blocks").await;
}

#[tokio::test]
async fn a_body_that_contradicts_its_length_never_reaches_its_end() {
    let rig = Rig::start().await;
    let head = |length: &[u8]| {
        let mut bytes = request("POST", &rig.proxied, "/up");
        bytes.extend_from_slice(&block(&[(b"content-length", length)]));
        bytes
    };
    let hidden = format!("GET {SMUGGLED} HTTP/1.1\r\nHost: {}\r\n\r\n", rig.proxied);
    for (length, body) in [(&b"5"[..], "abc"), (b"3", "abcde"), (b"0", &hidden), (b"1", &hidden)] {
        let mut wire = Wire::open(rig.address()).await;
        // In one go: what says that it has no body may be answered before its body comes.
        let head = frame(HEADERS, END_HEADERS, 1, &head(length));
        wire.write(&[head, frame(DATA, END_STREAM, 1, body.as_bytes())].concat()).await;
        let fate = wire.fate(1).await;
        assert!(fate.is_refused(), "{length:?} {body}: {fate:?}");
        assert!(!rig.origin.received().contains(SMUGGLED), "{}", rig.origin.received());
        rig.origin.forget();
    }
    for trailers in [
        &[(&b"connection"[..], &b"close"[..])][..],
        &[(b"transfer-encoding", b"chunked")],
        &[(b"X-A", b"b")],
        &[(b"x-a", b"b\r\nx: y")],
        // These are dropped: nothing of them is passed on.
        &[(b":path", b"/other")],
        &[(b":status", b"200")],
    ] {
        let mut wire = Wire::open(rig.address()).await;
        wire.send(HEADERS, END_HEADERS, 1, &request("POST", &rig.proxied, "/up")).await;
        wire.send(DATA, 0, 1, b"abc").await;
        wire.send(HEADERS, WHOLE, 1, &block(trailers)).await;
        let fate = wire.fate(1).await;
        let received = rig.origin.received();
        assert!(fate.is_refused() || trailers[0].0.starts_with(b":"), "{trailers:?}: {fate:?}");
        assert!(!fate.is_refused() || !received.contains("0\r\n\r\n"), "{received}");
        assert!(!received.contains("/other") && !received.contains(":status"), "{received}");
        rig.origin.forget();
    }
    rig.still_serves("bodies").await;
}

/// Frames that break a rule of RFC 9113 for the whole connection, or for their stream.
#[tokio::test]
async fn frames_that_may_not_be_end_what_they_are_about() {
    let rig = Rig::start().await;
    let ask = get(&rig.site, "/");
    let open = frame(HEADERS, END_HEADERS, 1, &request("POST", &rig.proxied, "/up"));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a stream of the server's", frame(HEADERS, WHOLE, 2, &ask)),
        ("headers on stream 0", frame(HEADERS, WHOLE, 0, &ask)),
        (
            "a number that goes back",
            [frame(HEADERS, WHOLE, 5, &ask), frame(HEADERS, WHOLE, 3, &ask)].concat(),
        ),
        ("data on an idle stream", frame(DATA, 0, 1, b"abc")),
        ("data on stream 0", frame(DATA, 0, 0, b"abc")),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
        ("a reset of stream 0", frame(RST_STREAM, 0, 0, &[0, 0, 0, 8])),
        ("a short reset", [open.clone(), frame(RST_STREAM, 0, 1, &[0, 0, 8])].concat()),
        ("a promise", frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2][..], &ask].concat())),
        ("a settings frame on a stream", frame(SETTINGS, 0, 1, &[])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement with a payload", frame(SETTINGS, 1, 0, &[0; 6])),
        ("a window beyond its bound", frame(SETTINGS, 0, 0, &setting(4, 0x8000_0000))),
        ("a frame size below its bound", frame(SETTINGS, 0, 0, &setting(5, 1))),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("a window update of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])),
        ("a short window update", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("a frame too large", frame(DATA, 0, 1, &[0; 16_385])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &ask)),
        (
            "another frame within a block",
            [frame(HEADERS, END_STREAM, 1, &ask), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "another stream within a block",
            [frame(HEADERS, END_STREAM, 1, &ask), frame(CONTINUATION, END_HEADERS, 3, b"")].concat(),
        ),
        ("padding beyond the frame", frame(HEADERS, WHOLE | 8, 1, &[200, 0])),
        ("an index of nothing", frame(HEADERS, WHOLE, 1, &[0x80])),
        ("an index beyond the table", frame(HEADERS, WHOLE, 1, &[0xff, 0x80, 0x80, 0x01])),
        ("an integer without an end", frame(HEADERS, WHOLE, 1, &[0xff; 40])),
        (
            "a table beyond its bound",
            frame(HEADERS, WHOLE, 1, &[&[0x3f, 0xe1, 0xff, 0x03][..], &ask].concat()),
        ),
        ("Huffman code that is none", frame(HEADERS, WHOLE, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 0])),
        ("a string beyond the block", frame(HEADERS, WHOLE, 1, &[0, 0x50, b'a'])),
    ];
    for (what, bytes) in &cases {
        let mut wire = Wire::open(rig.address()).await;
        wire.write(bytes).await;
        let said = wire.ended().await;
        assert!(said.is_some_and(|code| code != 0), "{what}: {said:?}");
    }
    for (what, bytes) in [
        ("a stream's window that overflows", frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff])),
        ("a stream's window update of nothing", frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ("a stream that depends on itself", frame(2, 0, 1, &[0, 0, 0, 1, 16])),
        ("trailers that end nothing", frame(HEADERS, END_HEADERS, 1, &block(&[(b"x-a", b"b")]))),
    ] {
        let mut wire = Wire::open(rig.address()).await;
        wire.write(&open).await;
        wire.write(&bytes).await;
        let fate = wire.fate(1).await;
        assert!(fate.is_refused(), "{what}: {fate:?}");
    }
    // What is not known is passed over.
    let mut wire = Wire::open(rig.address()).await;
    wire.write(
        &[
            frame(0x2a, 0xff, 7, b"what"),
            frame(SETTINGS, 0, 0, &setting(0x1234, 5)),
            frame(HEADERS, WHOLE, 1, &ask),
        ]
        .concat(),
    )
    .await;
    assert_eq!(wire.fate(1).await, Fate::Status(200));
    rig.still_serves("frames").await;
}

#[tokio::test]
async fn a_header_list_that_unpacks_too_large_is_refused_while_others_live() {
    let rig = Rig::start().await;
    let mut wire = Wire::open(rig.address()).await;
    // One entry of the table, written once and named again: just beyond the bound, and far beyond.
    let bomb = |times: usize| {
        let mut bytes = get(&rig.proxied, SMUGGLED);
        bytes.push(0x40);
        string(&mut bytes, b"x-a");
        string(&mut bytes, &[b'a'; 3_900]);
        bytes.resize(bytes.len() + times, 0xbe);
        bytes
    };
    wire.send(HEADERS, WHOLE, 1, &bomb(8)).await;
    let fate = wire.fate(1).await;
    assert!(fate == Fate::Status(431) || matches!(fate, Fate::Reset(_)), "{fate:?}");
    wire.send(HEADERS, WHOLE, 3, &get(&rig.site, "/")).await;
    assert_eq!(wire.fate(3).await, Fate::Status(200));
    // These may end the connection too.
    let mut wire = Wire::open(rig.address()).await;
    wire.send(HEADERS, WHOLE, 1, &bomb(5_000)).await;
    let fate = wire.fate(1).await;
    assert!(fate.is_refused(), "{fate:?}");
    let mut wire = Wire::open(rig.address()).await;
    let mut large = get(&rig.proxied, SMUGGLED);
    large.extend_from_slice(&block(&[(b"x-a", &[b'a'; 14_000][..])]));
    let more = block(&[(b"x-b", &[b'a'; 14_000][..])]);
    wire.send(HEADERS, END_STREAM, 1, &large).await;
    wire.send(CONTINUATION, 0, 1, &more).await;
    wire.send(CONTINUATION, END_HEADERS, 1, &more).await;
    let fate = wire.fate(1).await;
    assert!(fate.is_refused(), "{fate:?}");
    assert_eq!(rig.origin.received(), "");
    rig.still_serves("header bombs").await;
}

#[tokio::test]
async fn floods_end_their_connection_or_cost_nothing() {
    let rig = Rig::start().await;
    let before = rig.resident_bytes();
    // Rapid reset (CVE-2023-44487).
    let mut wire = Wire::open(rig.address()).await;
    let ask = get(&rig.proxied, "/reset");
    let mut stream = 1;
    while stream < 200_000 {
        let mut bytes = Vec::new();
        for _ in 0..50 {
            bytes.extend_from_slice(&frame(HEADERS, WHOLE, stream, &ask));
            bytes.extend_from_slice(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
            stream += 2;
        }
        if !wire.write(&bytes).await {
            break;
        }
    }
    assert!(stream < 200_000, "a hundred thousand resets are taken");
    assert!(rig.origin.asked().len() < 1_000, "{}", rig.origin.asked().len());
    rig.still_serves("rapid reset").await;
    // The server made to reset, by what is wrong with each stream (CVE-2025-8671).
    let mut wire = Wire::open(rig.address()).await;
    let mut stream = 1;
    while stream < 200_000 {
        let wrong =
            [frame(HEADERS, END_HEADERS, stream, &ask), frame(WINDOW_UPDATE, 0, stream, &OVERFLOW)].concat();
        if !wire.write(&wrong).await {
            break;
        }
        stream += 2;
    }
    assert!(stream < 200_000, "a hundred thousand mistakes are taken");
    // Slowly enough that each stream is at work when it goes wrong.
    let mut wire = Wire::open(rig.address()).await;
    let mut resets = 0;
    for number in 0..OWN_RESETS as u32 + 20 {
        let stream = 1 + 2 * number;
        wire.send(HEADERS, END_HEADERS, stream, &request("POST", &rig.proxied, "/up")).await;
        if wire.verdict().await != Verdict::Taken {
            break;
        }
        wire.send(WINDOW_UPDATE, 0, stream, &OVERFLOW).await;
        resets += usize::from(matches!(wire.fate(stream).await, Fate::Reset(_)));
    }
    assert_eq!(resets, OWN_RESETS);
    rig.still_serves("made resets").await;
    // A header block without an end (CVE-2024-27316).
    let mut wire = Wire::open(rig.address()).await;
    wire.send(HEADERS, END_STREAM, 1, &ask).await;
    let piece = block(&[(b"x-a", &[b'a'; 16_000][..])]);
    let mut sent = 0;
    while sent < 10_000 && wire.send(CONTINUATION, 0, 1, &piece).await {
        sent += 1;
    }
    assert!(sent < 10_000, "160 MB of one header block are taken");
    let mut wire = Wire::open(rig.address()).await;
    wire.send(HEADERS, END_STREAM, 1, &ask).await;
    let empty = frame(CONTINUATION, 0, 1, b"").repeat(100);
    let mut sent = 0;
    while sent < 10_000 && wire.write(&empty).await {
        sent += 1;
    }
    assert!(sent < 10_000, "a million empty continuations are taken");
    rig.still_serves("continuations").await;
    // Whose answers nobody reads: these may be taken, but not kept.
    let opened =
        [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &request("POST", &rig.proxied, "/up"))];
    for (what, flood) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &setting(4, 65_535))),
        ("empty data", frame(DATA, 0, 1, b"")),
        ("priorities", frame(2, 0, 1, &[0, 0, 0, 0, 16])),
        ("unknown frames", frame(0x2a, 0, 1, b"")),
        ("window updates", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    ] {
        let mut wire = Wire::raw(rig.address()).await;
        wire.write(PREFACE).await;
        for opening in &opened {
            wire.write(opening).await;
        }
        let many = flood.repeat(1_000);
        for _ in 0..300 {
            if !wire.write_or_stuck(&many).await {
                break;
            }
        }
        rig.still_serves(what).await;
    }
    let grown = rig.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    // Streams beyond what was agreed.
    let mut wire = Wire::open(rig.address()).await;
    let mut bytes = Vec::new();
    for number in 0..1_000 {
        bytes.extend_from_slice(&frame(
            HEADERS,
            END_HEADERS,
            1 + 2 * number,
            &request("POST", &rig.proxied, "/up"),
        ));
    }
    wire.write(&bytes).await;
    let fate = wire.fate(1_999).await;
    assert!(
        fate == Fate::Reset(7) || fate == Fate::GoAway(ENHANCE_YOUR_CALM) || fate == Fate::Closed,
        "{fate:?}"
    );
    drop(wire);
    rig.still_serves("a thousand streams").await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_or_sends_no_body_is_given_up() {
    let rig = Rig::start().await;
    for (what, settings, flags, fields) in [
        ("a small answer not taken", &[(4, 0)][..], WHOLE, get(&rig.site, "/")),
        ("a small answer whose end is not taken", &[(4, 5)], WHOLE, get(&rig.site, "/")),
        ("a large answer not taken", &[(4, 0)], WHOLE, get(&rig.proxied, "/large")),
        ("a large answer taken in part", &[], WHOLE, get(&rig.proxied, "/large")),
        (
            "a body that does not come, to the platform",
            &[],
            END_HEADERS,
            request("POST", rig.address(), "/deploy"),
        ),
        ("a block that does not end", &[], END_STREAM, get(&rig.site, "/")),
    ] {
        let mut wire = Wire::open_with(rig.address(), settings).await;
        wire.send(HEADERS, flags, 1, &fields).await;
        // Pings are answered all the while.
        assert!(wire.given_up(1).await, "{what}");
    }
    rig.still_serves("stalls").await;
}
