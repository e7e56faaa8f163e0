//! Brokers that a killed server left over, and processes that only look like one.

use std::process::{Child, Command, Stdio};

use libra::queue::ProcessIdentity;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Place, broker_of, close, nats_server, next, ring, until};

/// A broker as it was running before its server was killed, with a message in it; `server.json` names it.
async fn leave_a_broker(place: &Place) -> Child {
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    close(queue).await;
    let broker = Command::new(nats_server())
        .arg("--config")
        .arg(place.file("nats.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let ports = place.file(&format!("ports/nats-server_{}.ports", broker.id()));
    let mut url = String::new();
    until("the broker listens", async || {
        let Ok(text) = std::fs::read(&ports) else { return false };
        let Ok(ports) = serde_json::from_slice::<serde_json::Value>(&text) else { return false };
        url = ports["nats"][0].as_str().unwrap().to_owned();
        true
    })
    .await;
    let identity = ProcessIdentity::of(broker.id()).unwrap();
    name_in_record(place, identity, &url);
    broker
}

fn name_in_record(place: &Place, identity: ProcessIdentity, url: &str) {
    let mut record = place.record();
    record["pid"] = identity.pid.into();
    record["start_time"] = identity.start_time.into();
    record["url"] = url.into();
    std::fs::write(place.file("server.json"), record.to_string()).unwrap();
}

#[tokio::test]
async fn a_left_over_broker_is_reused_and_ended_in_the_end() {
    let place = Place::new();
    let mut broker = leave_a_broker(&place).await;
    let queue = place.open().await;
    assert_eq!(broker_of(&queue).pid, broker.id());
    assert!(queue.state().borrow().owner);
    next(&mut queue.jobs()).await.ack().await.unwrap();
    close(queue).await;
    broker.wait().unwrap();
}

#[tokio::test]
async fn a_reused_broker_that_dies_is_replaced() {
    let place = Place::new();
    let mut broker = leave_a_broker(&place).await;
    let queue = place.open().await;
    broker.kill().unwrap();
    broker.wait().unwrap();
    assert_eq!(next(&mut queue.jobs()).await.deliveries, 1);
    assert_ne!(broker_of(&queue).pid, broker.id());
    close(queue).await;
}

#[tokio::test]
async fn a_left_over_broker_that_hangs_is_ended_and_replaced() {
    let place = Place::new();
    let mut broker = leave_a_broker(&place).await;
    kill_process(Pid::from_raw(broker.id().cast_signed()).unwrap(), Signal::STOP).unwrap();
    let queue = place.open_with("stop_timeout_seconds = 1").await;
    assert_ne!(broker_of(&queue).pid, broker.id());
    assert!(broker.try_wait().unwrap().is_some(), "it would write to the same store");
    assert_eq!(next(&mut queue.jobs()).await.deliveries, 1);
    close(queue).await;
}

#[tokio::test]
async fn a_process_that_has_the_pid_of_an_old_broker_is_left_alone() {
    let place = Place::new();
    close(place.open().await).await;
    let mut innocent = Command::new("sleep").arg("300").spawn().unwrap();
    let real = ProcessIdentity::of(innocent.id()).unwrap();
    let url = place.record()["url"].as_str().unwrap().to_owned();
    let earlier = ProcessIdentity { start_time: real.start_time - 1, ..real };
    name_in_record(&place, earlier, &url);

    let queue = place.open().await;
    assert_ne!(broker_of(&queue).pid, innocent.id());
    close(queue).await;
    assert!(real.is_running());
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[tokio::test]
async fn an_unreadable_record_is_like_none() {
    let place = Place::new();
    close(place.open().await).await;
    std::fs::write(place.file("server.json"), "{\"pid\":").unwrap();
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    close(queue).await;
}
