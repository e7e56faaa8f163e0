//! What is on its way when another version or other origins take over: it ends where it began; sockets and answers
//! stay for the drain time, and sockets are then told to come again.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::app::{BASE, TestApp};
use crate::failing::quick;
use crate::origin::Origin;
use crate::sockets::{CLOSE, Socket};

const DRAIN: Duration = Duration::from_secs(3);
const COME_AGAIN: [u8; 2] = 1012_u16.to_be_bytes();

async fn register(app: &TestApp, project: &str, origin: &Origin) {
    let path = format!("/api/v1/projects/{project}/upstream");
    let body = json!({ "origins": [origin.url()], "policy": { "health": { "intervalMs": 0 } } });
    let answer = app.request(Method::PUT, &path).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
}

async fn page(app: &TestApp, worker: &str) -> String {
    app.worker(worker, "/").await.text().await.unwrap()
}

/// Sockets that are told to come again, not before the drain time is over and soon after it.
async fn are_told(sockets: &mut [Socket], since: Instant) {
    for socket in sockets {
        let (kind, payload) = socket.read().await;
        assert_eq!((kind, &payload[..2]), (CLOSE, &COME_AGAIN[..]), "{payload:?}");
        assert!(since.elapsed() >= DRAIN, "{:?}", since.elapsed());
    }
    assert!(since.elapsed() < DRAIN * 5, "{:?}", since.elapsed());
}

#[tokio::test]
async fn requests_end_and_sockets_stay_with_their_origins_until_the_drain_time_is_over() {
    let drain = DRAIN.as_secs().to_string();
    let app = TestApp::start_with(&quick(&[("LIBRA__UPSTREAM__DRAIN_SECONDS", &drain)])).await;
    let (project, worker) = app.project("drained").await;
    let host = format!("{worker}.{BASE}");
    let first = app.deploy_live(&app.body(&project, &[("index.html", "deployed one")])).await;
    app.deploy_live(&app.body(&project, &[("index.html", "deployed two")])).await;
    let (old, new) = (Origin::start("old"), Origin::start("new"));
    register(&app, &project, &old).await;

    let open = async || {
        let mut sockets = Vec::new();
        for _ in 0..3 {
            sockets.push(Socket::open(&app.server.address, &host).await);
        }
        sockets
    };
    let mut of_old = open().await;
    let slow = || {
        let url = format!("http://{}/slow", app.server.address);
        let request = app.http.get(url).header("host", &host);
        tokio::spawn(async move { request.send().await.unwrap().text().await.unwrap() })
    };
    let mut events_of_old = app.worker(&worker, "/ticks").await;
    assert!(events_of_old.chunk().await.unwrap().is_some());
    let at_old = slow();
    app.wait("the old origin has it", async || old.waiting() == 1).await;

    // What is deployed beneath concerns nobody who is served by origins.
    for order in ["rollback", "promote"] {
        let body = json!({ "versionId": first });
        let body = if order == "rollback" { json!({}) } else { body };
        let path = format!("/api/v1/projects/{project}/{order}");
        let (status, said) = app.post(&path, &body).await;
        // The first is live already after the rollback; either answer is a change that was looked at.
        assert!(status == 200 || status == 409, "{said}");
        assert_eq!(page(&app, &worker).await, "old");
    }
    for socket in &mut of_old {
        socket.echoes("still here").await;
    }

    register(&app, &project, &new).await;
    let replaced = Instant::now();
    assert_eq!(page(&app, &worker).await, "new");
    for socket in &mut of_old {
        socket.echoes("with the old one").await;
    }
    let mut of_new = open().await;
    let at_new = slow();
    app.wait("the new origin has it", async || new.waiting() == 1).await;
    are_told(&mut of_old, replaced).await;
    // Events that would go on for ever end then too, and not as if they were over.
    let ended = loop {
        match events_of_old.chunk().await {
            Ok(Some(_)) => assert!(replaced.elapsed() < DRAIN * 5, "{:?}", replaced.elapsed()),
            ended => break ended,
        }
    };
    assert!(ended.is_err() && replaced.elapsed() >= DRAIN, "{ended:?} after {:?}", replaced.elapsed());
    // A request that waits for its answer is not cut off: it has its own limits.
    assert!(!at_old.is_finished());
    old.release();
    assert_eq!(at_old.await.unwrap(), "old");

    // Removed altogether, the same holds.
    for socket in &mut of_new {
        socket.echoes("not closed with the others").await;
    }
    let path = format!("/api/v1/projects/{project}/upstream");
    assert_eq!(app.request(Method::DELETE, &path).send().await.unwrap().status(), 200);
    let removed = Instant::now();
    assert_eq!(page(&app, &worker).await, "deployed one");
    new.release();
    assert_eq!(at_new.await.unwrap(), "new");
    for socket in &mut of_new {
        socket.echoes("until it is over").await;
    }
    are_told(&mut of_new, removed).await;
}

#[tokio::test]
async fn a_download_that_is_on_its_way_ends_with_the_bytes_it_began_with() {
    const BYTES: usize = 4 * 1024 * 1024;
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("downloading").await;
    let letters = |letter: &str| letter.repeat(BYTES);
    let first =
        app.deploy_live(&app.body(&project, &[("index.html", "1"), ("big.txt", &letters("a"))])).await;
    let second =
        app.deploy_live(&app.body(&project, &[("index.html", "2"), ("big.txt", &letters("b"))])).await;
    let begin = async |letter: u8| {
        let mut response = app.worker(&worker, "/big.txt").await;
        let begun = response.chunk().await.unwrap().unwrap();
        assert!(begun.len() < BYTES && begun.iter().all(|byte| *byte == letter));
        (response, begun.len())
    };
    let post = async |order: &str, body| {
        let (status, said) = app.post(&format!("/api/v1/projects/{project}/{order}"), &body).await;
        assert_eq!(status, 200, "{said}");
    };
    let of_second = begin(b'b').await;
    post("rollback", json!({})).await;
    assert_eq!(page(&app, &worker).await, "1");
    let of_first = begin(b'a').await;
    post("promote", json!({ "versionId": second })).await;
    assert_eq!(page(&app, &worker).await, "2");
    let origin = Origin::start("origin");
    register(&app, &project, &origin).await;
    assert_eq!(page(&app, &worker).await, "origin");
    for ((mut response, mut read), letter) in [(of_second, b'b'), (of_first, b'a')] {
        while let Some(piece) = response.chunk().await.unwrap() {
            assert!(piece.iter().all(|byte| *byte == letter));
            read += piece.len();
        }
        assert_eq!(read, BYTES);
    }
    drop(first);
}
