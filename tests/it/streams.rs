//! Logs and events as they come, broken off and resumed.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, Response};
use serde_json::json;

use crate::answers::{Event, assert_problem, events};
use crate::app::{PATIENCE, TestApp};
use crate::blocked;

/// Opens a stream. The place of one that was dropped is free once the server has noticed.
async fn open(request: reqwest::RequestBuilder) -> Response {
    let asking = async {
        loop {
            let response = request.try_clone().unwrap().send().await.unwrap();
            if response.status() != 503 {
                break response;
            }
        }
    };
    let response = tokio::time::timeout(PATIENCE, asking).await.unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// Reads a stream until `enough` holds for the events so far, then drops the connection.
async fn read_until(request: reqwest::RequestBuilder, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let response = open(request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let mut chunks = response.bytes_stream();
    let mut text = String::new();
    let reading = async {
        while !enough(&events(&text)) {
            let Some(chunk) = chunks.next().await else { break };
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
    };
    assert!(tokio::time::timeout(PATIENCE, reading).await.is_ok(), "the stream stands still: {text}");
    events(&text)
}

fn ids(events: &[Event]) -> Vec<i64> {
    events.iter().map(|e| e.id).collect()
}

#[tokio::test]
async fn streams_are_followed_broken_off_and_resumed_without_loss() {
    let app = TestApp::start_with(&[("LIBRA__HTTP__STREAMS", "3")]).await;
    let (project, _) = app.project("streamed").await;
    let ticking = "let n = 0; setInterval(() => console.log('line ' + ++n), 50);";
    let id = blocked::start(&app, &blocked::body(&app, &project, ticking)).await;
    let events_path = format!("/api/v1/deployments/{id}/events");
    let logs_path = format!("/api/v1/deployments/{id}/logs");
    let sse = |path: &str| app.request(Method::GET, path).header("accept", "text/event-stream");
    let after = |path: &str, id: i64| sse(path).header("last-event-id", id.to_string());

    // While it runs: what was written comes at once, more comes by itself.
    let first = read_until(sse(&logs_path), |e| e.len() >= 5).await;
    assert!(first.iter().all(|e| e.kind == "log" && e.data["text"].is_string()), "{first:?}");
    let last = first.last().unwrap().id;
    let second = read_until(after(&logs_path, last), |e| e.len() >= 3).await;
    assert_eq!(second[0].id, last + 1, "nothing is lost and nothing comes twice");
    let early = read_until(sse(&events_path), |e| e.len() >= 4).await;
    assert_eq!(ids(&early[..4]), [1, 2, 3, 4]);
    assert_eq!(early[0].kind, "queued");

    // As many as there may be; one that is closed makes room.
    let mut taken = Vec::new();
    let refused = loop {
        let response = sse(&logs_path).send().await.unwrap();
        if response.status() != 200 {
            break response;
        }
        taken.push(response);
        assert!(taken.len() <= 3, "there is no bound");
    };
    assert!(refused.headers().contains_key("retry-after"));
    assert_problem(refused, 503, "OVERLOADED").await;
    drop(taken);

    // Resumed streams end when the deployment has ended.
    let rest = read_until(after(&events_path, early.last().unwrap().id), |_| false);
    let follow = async {
        let response = open(app.request(Method::GET, &format!("{logs_path}?follow=1"))).await;
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
        tokio::time::timeout(PATIENCE, response.text()).await.unwrap().unwrap()
    };
    let (rest, followed, ()) = tokio::join!(rest, follow, blocked::end(&app, &id));
    assert_eq!(rest.last().unwrap().kind, "cancelled");
    let whole = read_until(sse(&events_path), |_| false).await;
    assert_eq!(ids(&whole), (1..=i64::try_from(whole.len()).unwrap()).collect::<Vec<_>>());
    assert_eq!(ids(&rest), ids(&whole[early.len()..]));
    assert_eq!(followed, app.log_of(&id).await);
    let lines: Vec<&str> = followed.lines().filter(|l| l.starts_with("line ")).collect();
    let counted: Vec<String> = (1..=lines.len()).map(|n| format!("line {n}")).collect();
    assert_eq!(lines, counted, "the log has every line once, in order");
    let nothing_more = read_until(after(&events_path, whole.last().unwrap().id), |_| false).await;
    assert_eq!(nothing_more, []);

    for bad in ["x", "-1", "1.5", "+1", &"9".repeat(30)] {
        let request = sse(&events_path).header("last-event-id", bad).send().await.unwrap();
        assert_problem(request, 400, "INVALID_REQUEST").await;
    }
    let head = app.request(Method::HEAD, &events_path).timeout(Duration::from_secs(20)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(app.status(&id).await["cancelReason"], json!("requested"));
}
