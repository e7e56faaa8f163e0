//! HTTP/1 as an attacker writes it, byte by byte: what two servers could read in two ways reaches nobody, and whoever
//! comes next is served.

use crate::attacked::{Rig, SMUGGLED};
use crate::wire::{ask, exchange};

/// Sends `bytes` with a request behind them that must reach nobody: statuses of what came back.
async fn attack(rig: &Rig, host: &str, bytes: &[u8]) -> Vec<u16> {
    let mut all = bytes.to_vec();
    all.extend_from_slice(format!("GET {SMUGGLED} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    exchange(rig.address(), &all).await.iter().map(|reply| reply.status).collect()
}

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    let rig = Rig::start().await;
    let heads: &[(&str, &str)] = &[
        ("two lengths", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
        (
            "two different lengths",
            "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n",
        ),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 5, 5\r\n\r\nhello"),
        ("a negative length", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: -1\r\n\r\n"),
        ("a hexadecimal length", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 0x5\r\n\r\nhello"),
        ("an empty length", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length:\r\n\r\n"),
        (
            "a length beyond numbers",
            "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 18446744073709551616\r\n\r\n",
        ),
        ("a length with a space in it", "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 1 0\r\n\r\n"),
        (
            "CL.TE",
            "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "TE.CL",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        ),
        (
            "a hidden encoding",
            "POST / HTTP/1.1\r\nHost: ~\r\nContent-Length: 4\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "an encoding in quotes",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        ),
        (
            "an encoding with a vertical tab",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
        ),
        ("an unknown encoding", "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
        (
            "chunked, then another",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked twice",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked and another line",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        ),
        ("chunked in 1.0", "POST / HTTP/1.0\r\nHost: ~\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a folded line", "GET / HTTP/1.1\r\nHost: ~\r\nX-A: b\r\n c\r\n\r\n"),
        (
            "a folded encoding",
            "POST / HTTP/1.1\r\nHost: ~\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("a folded first line", "GET / HTTP/1.1\r\n X: y\r\nHost: ~\r\n\r\n"),
        ("bare line feeds", "GET / HTTP/1.1\nHost: ~\n\n"),
        ("one bare line feed", "GET / HTTP/1.1\r\nHost: ~\nX-A: b\r\n\r\n"),
        ("a bare line feed at the end", "GET / HTTP/1.1\r\nHost: ~\r\n\n"),
        ("a bare return", "GET / HTTP/1.1\r\nHost: ~\r\nX-A: b\rTransfer-Encoding: chunked\r\n\r\n"),
        ("two returns", "GET / HTTP/1.1\r\r\nHost: ~\r\n\r\n"),
        ("NUL in a value", "GET / HTTP/1.1\r\nHost: ~\r\nX-A: b\0c\r\n\r\n"),
        ("NUL in a name", "GET / HTTP/1.1\r\nHost: ~\r\nX\0A: b\r\n\r\n"),
        ("NUL in the target", "GET /\0 HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("a name that is empty", "GET / HTTP/1.1\r\nHost: ~\r\n: b\r\n\r\n"),
        ("a line without a colon", "GET / HTTP/1.1\r\nHost: ~\r\nnothing\r\n\r\n"),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : ~\r\n\r\n"),
        ("a space in the target", "GET /a b HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("two spaces", "GET  / HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("a tab", "GET\t/ HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("a space behind the version", "GET / HTTP/1.1 \r\nHost: ~\r\n\r\n"),
        ("a fragment", "GET /#a HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("a version that is none", "GET / HTTP/1.10\r\nHost: ~\r\n\r\n"),
        ("a version beyond", "GET / HTTP/3.0\r\nHost: ~\r\n\r\n"),
        ("no version", "GET /\r\nHost: ~\r\n\r\n"),
        ("a target outside ASCII", "GET /\u{e9} HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nHost: ~\r\nHost: ~\r\n\r\n"),
        ("two different hosts", "GET / HTTP/1.1\r\nHost: ~\r\nHost: other.example\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\nX-A: b\r\n\r\n"),
        ("an empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("another host in the target", "GET http://other.example/ HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("another port in the target", "GET http://~:1/ HTTP/1.1\r\nHost: ~\r\n\r\n"),
        ("a user in the target", "GET http://a@~/ HTTP/1.1\r\nHost: ~\r\n\r\n"),
    ];
    for (what, head) in heads {
        for host in rig.hosts() {
            let statuses = attack(&rig, host, head.replace('~', host).as_bytes()).await;
            assert_eq!(statuses, [400], "{what} to {host}");
        }
        assert_eq!(rig.origin.received(), "", "{what}");
    }
    // Bytes that are no text in any encoding.
    for bytes in [&b"GET /\xff\xfe HTTP/1.1\r\nHost: "[..], b"GET / HTTP/1.1\r\nX\xff: a\r\nHost: "] {
        for host in rig.hosts() {
            let all = [bytes, host.as_bytes(), b"\r\n\r\n"].concat();
            assert_eq!(attack(&rig, host, &all).await, [400], "{bytes:?}");
        }
    }
    assert_eq!(rig.origin.received(), "");
    rig.still_serves("unclear heads").await;
}

#[tokio::test]
async fn a_host_that_is_none_is_refused_whatever_it_looks_like() {
    let rig = Rig::start().await;
    let proxied = rig.proxied.clone();
    let long = "a".repeat(64);
    for host in [
        format!("a@{proxied}"),
        format!("{proxied}@a"),
        format!("{proxied} a"),
        format!("a b.{proxied}"),
        format!("{proxied}:http"),
        format!("{proxied}:80:80"),
        format!("{proxied}:65536"),
        format!("{proxied}:-1"),
        format!("{proxied}/"),
        format!("{proxied}/a"),
        format!("{proxied}?a"),
        format!("{proxied}#a"),
        format!("{proxied}\\a"),
        format!("{proxied},{proxied}"),
        format!("{proxied}.."),
        format!("http://{proxied}"),
        format!("{}%00.libra.localhost", proxied.split('.').next().unwrap()),
        format!("%61.{proxied}"),
        format!("a.{proxied}"),
        format!("{long}.libra.localhost"),
        format!("{long}.example.com"),
        format!("{}example.com", "a.".repeat(130)),
        "-a.libra.localhost".to_owned(),
        ".libra.localhost".to_owned(),
        ".".to_owned(),
        "*".to_owned(),
        "_".to_owned(),
        "[::1".to_owned(),
        "[::1]x".to_owned(),
        "[::ffff:1.2.3.4%25eth0]".to_owned(),
        "a\tb.example".to_owned(),
        "пример.libra.localhost".to_owned(),
        "a\u{202e}b.example.com".to_owned(),
        "a\u{3002}libra.localhost\u{0}".to_owned(),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = ask(rig.address(), request.as_bytes()).await;
        assert_eq!(reply.status, 400, "{host}: {reply:?}");
    }
    let bytes = b"GET / HTTP/1.1\r\nHost: \xff\xfe.libra.localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(rig.address(), bytes).await.status, 400);
    // What is a host is the same one in every spelling.
    for host in
        [proxied.to_uppercase(), format!("{proxied}."), format!("{proxied}:1"), format!(" {proxied}\t")]
    {
        let request = format!("GET /same HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(ask(rig.address(), request.as_bytes()).await.status, 200, "{host}");
    }
    let absolute =
        format!("GET http://{proxied}/same HTTP/1.1\r\nHost: {proxied}\r\nConnection: close\r\n\r\n");
    assert_eq!(ask(rig.address(), absolute.as_bytes()).await.status, 200);
    assert_eq!(rig.origin.asked(), ["get /same"; 5]);
    rig.still_serves("hosts").await;
}

#[tokio::test]
async fn a_chunked_body_that_can_be_read_in_two_ways_ends_the_connection() {
    let rig = Rig::start().await;
    let flood = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(10_000));
    let trailer = format!("0\r\nX-A: {}\r\n\r\n", "x".repeat(40_000));
    for body in [
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\rhello\r0\r\r",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloworld\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\0\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n\r\n0\r\n\r\n",
        "0\r\n folded: a\r\n\r\n",
        "0\r\nX-A: b\n\r\n",
        "0\r\n\n",
        "zz\r\n",
        &flood,
        &trailer,
    ] {
        for host in rig.hosts() {
            let head = format!("POST /up HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
            let statuses = attack(&rig, host, format!("{head}{body}").as_bytes()).await;
            assert!(statuses.len() <= 1, "{body:?} to {host}: {statuses:?}");
        }
        let received = rig.origin.received();
        assert!(!received.contains(SMUGGLED), "{body:?}: {received}");
        // What the origin has of it never ends, so it acts on nothing.
        assert!(!received.contains("\r\n0\r\n"), "{body:?}: {received}");
        rig.origin.forget();
    }
    rig.still_serves("chunks").await;

    // Clear ones arrive as they are, without what only we may say.
    let trailers = "0\r\nX-Sum: 1\r\nContent-Length: 5\r\nHost: other\r\nTransfer-Encoding: chunked\r\n\
        X-Forwarded-For: 6.6.6.6\r\nAuthorization: no\r\n\r\n";
    let request = format!(
        "POST /up HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
         005;a=b\r\nhello\r\n{trailers}",
        rig.proxied
    );
    let statuses: Vec<u16> =
        exchange(rig.address(), request.as_bytes()).await.iter().map(|r| r.status).collect();
    assert_eq!(statuses, [200]);
    let received = rig.origin.received();
    assert!(received.contains("5\r\nhello\r\n"), "{received}");
    for lie in ["host: other", "6.6.6.6", "content-length: 5"] {
        assert!(!received.contains(lie), "{lie} in {received}");
    }
    rig.still_serves("trailers").await;
}

#[tokio::test]
async fn a_target_reaches_the_worker_as_it_was_written_and_leads_nowhere_else() {
    let rig = Rig::start().await;
    for target in [
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/../../etc/passwd",
        "/a/../../etc/passwd",
        "//etc/passwd",
        "//other.example/a",
        "/..\\..\\etc",
        "/%5c..%5c",
        "/a%00.txt",
        "/%ff%fe",
        "/%c0%ae%c0%ae/",
        "/%252e%252e/",
        "/%",
        "/%zz",
        "/.;/a",
        "/a;b=c?d=//e",
        "/dispatch/still/a",
    ] {
        let at = |host: &str| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = ask(rig.address(), at(&rig.proxied).as_bytes()).await;
        assert_eq!(reply.status, 200, "{target}");
        assert_eq!(rig.origin.asked(), [format!("get {target}")]);
        rig.origin.forget();
        let reply = ask(rig.address(), at(&rig.site).as_bytes()).await;
        assert!(matches!(reply.status, 400 | 404) && !reply.body.contains("root:"), "{target}: {reply:?}");
        let reply = ask(rig.address(), at(rig.address()).as_bytes()).await;
        assert!(matches!(reply.status, 400 | 404), "{target}: {reply:?}");
        assert_eq!(rig.origin.received(), "", "{target}");
    }
    for (head, status) in [
        ("CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443", 405),
        ("CONNECT ~:80 HTTP/1.1\r\nHost: ~:80", 405),
        ("CONNECT / HTTP/1.1\r\nHost: ~", 405),
        ("TRACE / HTTP/1.1\r\nHost: ~", 405),
        ("GET other.example:80 HTTP/1.1\r\nHost: other.example:80", 400),
        ("GET ~ HTTP/1.1\r\nHost: ~", 400),
        ("GET other.example/a HTTP/1.1\r\nHost: ~", 400),
        ("GET a HTTP/1.1\r\nHost: ~", 400),
        ("GET * HTTP/1.1\r\nHost: ~", 400),
        ("GET ftp://other.example/ HTTP/1.1\r\nHost: ~", 400),
        ("GET http:///a HTTP/1.1\r\nHost: ~", 400),
        ("GET http://other.example/ HTTP/1.1\r\nHost: other.example", 404),
    ] {
        let head = head.replace('~', &rig.proxied);
        let statuses =
            attack(&rig, &rig.proxied, format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses, [status], "{head}");
        assert_eq!(rig.origin.received(), "", "{head}");
    }
    rig.still_serves("targets").await;
}

#[tokio::test]
async fn what_only_we_may_say_of_a_request_no_client_can_say_or_unsay() {
    let rig = Rig::start().await;
    let fields = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: gopher\r\n\
        X_Forwarded_For: 6.6.6.6\r\nX-Forwarded_Host: evil.example\r\nForwarded: for=6.6.6.6\r\n\
        X-Original-Url: http://evil.example/\r\nX_Target_Worker: evil.example\r\nX-Custom-Domain: 6.6.6.6\r\n\
        Connection: X-Forwarded-For, X-Forwarded-Host, host, X-Request-Id, X-Secret, content-length\r\n\
        X-Secret: hop\r\nKeep-Alive: hop\r\nProxy-Connection: hop\r\nProxy-Authorization: hop\r\n\
        Upgrade: h2c\r\nHTTP2-Settings: hop\r\nTE: gzip, hop\r\n";
    let request = format!(
        "POST /kept HTTP/1.1\r\nHost: {}\r\n{fields}Connection: close, HTTP2-Settings\r\nContent-Length: 5\r\n\r\nhello",
        rig.proxied
    );
    let reply = ask(rig.address(), request.as_bytes()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let received = rig.origin.received();
    for word in ["6.6.6.6", "evil.example", "gopher", "hop", "upgrade", "h2c", "http2-settings", "\r\nte:"] {
        assert!(!received.contains(word), "{word} in {received}");
    }
    for line in [
        format!("\r\nhost: {}\r\n", rig.proxied),
        "\r\nx-forwarded-for: 127.0.0.1\r\n".to_owned(),
        format!("\r\nx-forwarded-host: {}\r\n", rig.proxied),
        "\r\nx-forwarded-proto: http\r\n".to_owned(),
        "\r\nx-request-id: ".to_owned(),
    ] {
        assert_eq!(received.matches(&line).count(), 1, "{line} in {received}");
    }
    assert!(received.ends_with("hello"), "{received}");
    // A forwarded host from a stranger chooses no Worker.
    let request = format!(
        "GET /x HTTP/1.1\r\nHost: {}\r\nX-Forwarded-Host: {}\r\nConnection: close\r\n\r\n",
        rig.site, rig.proxied
    );
    assert_eq!(ask(rig.address(), request.as_bytes()).await.status, 404);
    assert_eq!(rig.origin.asked(), ["post /kept"]);
    rig.still_serves("headers").await;
}

#[tokio::test]
async fn of_a_pipeline_what_is_before_the_bad_request_is_answered_and_nothing_behind_it() {
    let rig = Rig::start().await;
    for host in [&rig.site, &rig.proxied] {
        let first = format!("GET /?first HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let second = format!(
            "GET {SMUGGLED} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
        );
        let statuses = attack(&rig, host, format!("{first}{second}").as_bytes()).await;
        assert_eq!(statuses, [200, 400], "{host}");
    }
    assert_eq!(rig.origin.asked(), ["get /?first"]);
    rig.origin.forget();
    // A body that looks like a request is a body: to a site that reads none, and to an origin.
    let inner = format!("GET {SMUGGLED} HTTP/1.1\r\nHost: {}\r\n\r\n", rig.proxied);
    for host in [&rig.site, &rig.proxied] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{inner}GET /?next HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n",
            inner.len()
        );
        let replies = exchange(rig.address(), request.as_bytes()).await;
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        assert!(statuses == [200] || statuses == [200, 200], "{host}: {replies:?}");
        if statuses == [200] {
            assert_eq!(replies[0].header("connection"), Some("close"), "{host}");
        }
    }
    let received = rig.origin.received();
    assert!(received.contains(&format!("content-length: {}\r\n", inner.len())), "{received}");
    assert_eq!(received.matches(SMUGGLED).count(), 1, "as a body: {received}");
    rig.origin.forget();
    // An upgrade that the origin declines: what is behind it is a request or nothing, never a tunnel's bytes.
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        rig.proxied
    );
    let hidden = format!(
        "GET /behind HTTP/1.1\r\nHost: {}\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n",
        rig.proxied
    );
    let replies = exchange(rig.address(), format!("{upgrade}{hidden}").as_bytes()).await;
    assert!(replies.len() <= 2 && replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    assert!(!rig.origin.received().contains("6.6.6.6"), "{}", rig.origin.received());
    rig.still_serves("pipelines").await;
}

#[tokio::test]
async fn a_head_of_too_many_or_too_large_lines_is_refused() {
    let rig = Rig::start().await;
    let many: String = (0..200).map(|n| format!("X-{n}: a\r\n")).collect();
    let same = "X-A: a\r\n".repeat(2_000);
    let large = format!("X-A: {}\r\n", "a".repeat(40 << 10));
    let name = format!("{}: a\r\n", "x".repeat(40 << 10));
    for fields in [many, same, large, name] {
        for host in rig.hosts() {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
            assert_eq!(attack(&rig, host, request.as_bytes()).await, [431], "{}", &fields[..20]);
        }
    }
    assert_eq!(rig.origin.received(), "");
    rig.still_serves("large heads").await;
}
