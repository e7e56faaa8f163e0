//! Clients that do something now and then, each time before anybody would call them silent: none is kept by it.

use std::time::Duration;

use crate::app::PATIENCE;
use crate::attacked::Rig;
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, frame,
    get, request, setting,
};

/// More often than anything is waited for.
const OFTEN: Duration = Duration::from_millis(250);

/// Does it again and again until the connection or the stream ends. What was read meanwhile counts for nothing.
async fn ends(wire: &mut Wire, what: &str, again: &[u8]) {
    let mut tick = tokio::time::interval(OFTEN);
    let going_on = async {
        loop {
            tokio::select! {
                frame = wire.next() => match frame {
                    None => return,
                    Some(frame) if frame.kind == RST_STREAM && frame.stream == 1 => return,
                    Some(frame) if frame.kind == HEADERS && frame.flags & END_STREAM != 0 => return,
                    Some(_) => {}
                },
                _ = tick.tick() => drop(wire.write(again).await),
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE / 2, going_on).await.is_ok(), "{what} goes on for ever");
}

#[tokio::test]
async fn no_frame_that_asks_for_nothing_keeps_a_connection() {
    let rig = Rig::start().await;
    for (what, again) in [
        ("a ping", frame(PING, 0, 0, &[7; 8])),
        ("a setting", frame(SETTINGS, 0, 0, &setting(4, 65_535))),
        ("a window of one", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("a priority", frame(2, 0, 3, &[0, 0, 0, 0, 16])),
        ("an unknown frame", frame(0x2a, 0, 0, b"")),
        ("a farewell", frame(GOAWAY, 0, 0, &[0; 8])),
    ] {
        let mut wire = Wire::open(rig.address()).await;
        ends(&mut wire, what, &again).await;
    }
    rig.still_serves("frames that ask for nothing").await;
}

#[tokio::test]
async fn a_stream_that_moves_next_to_nothing_is_given_up() {
    let rig = Rig::start().await;
    // 160 bytes a second, in pieces that are each taken whole in time.
    let mut wire = Wire::open_with(rig.address(), &[(4, 40)]).await;
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get(&rig.proxied, "/crumbs")).await;
    ends(&mut wire, "a window of forty", &frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 40])).await;
    for host in [&rig.proxied, rig.address()] {
        for (what, again) in [("a byte", &b"x"[..]), ("data of nothing", b"")] {
            let mut wire = Wire::open(rig.address()).await;
            wire.send(HEADERS, END_HEADERS, 1, &request("POST", host, "/deploy")).await;
            ends(&mut wire, what, &frame(DATA, 0, 1, again)).await;
        }
    }
    rig.still_serves("trickles").await;
}

#[tokio::test]
async fn a_slow_client_that_gets_on_is_served_to_the_end() {
    let rig = Rig::start().await;
    let mut wire = Wire::open_with(rig.address(), &[(4, 1_000)]).await;
    wire.send(HEADERS, END_HEADERS | END_STREAM, 1, &get(&rig.proxied, "/crumbs")).await;
    let (mut tick, mut taken) = (tokio::time::interval(OFTEN), 0);
    while taken < 300 * 40 {
        tokio::select! {
            next = wire.next() => {
                let next = next.expect("it is cut off");
                assert!(next.kind != RST_STREAM, "{taken} bytes");
                taken += if next.kind == DATA { next.payload.len() } else { 0 };
            }
            // 4,000 bytes a second: three seconds, of which two are a span.
            _ = tick.tick() => drop(wire.send(WINDOW_UPDATE, 0, 1, &[0, 0, 3, 0xe8]).await),
        }
    }
}
