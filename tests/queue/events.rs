//! Events: best effort, with a gap wherever something may have been missed.

use libra::queue::{QueueEvent, ROUTES_CHANGED};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Place, broker_of, close, start, until};

#[tokio::test]
async fn events_reach_other_servers_and_an_outage_shows_as_a_gap() {
    let place = Place::new();
    let owner = place.open().await;
    let other = start(&place.data_dir(), "");
    other.wait_ready(PATIENCE).await.unwrap();
    let cancel = CancellationToken::new();
    let mut events = other.subscribe_events(ROUTES_CHANGED).unwrap();
    assert_eq!(timeout(PATIENCE, events.next(&cancel)).await.unwrap(), Some(QueueEvent::Gap));
    owner.publish_event(ROUTES_CHANGED, "7".into()).await.unwrap();
    let event = timeout(PATIENCE, events.next(&cancel)).await.unwrap();
    assert_eq!(event, Some(QueueEvent::Message("7".into())));

    kill_process(Pid::from_raw(broker_of(&owner).pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    assert_eq!(timeout(PATIENCE, events.next(&cancel)).await.unwrap(), Some(QueueEvent::Gap));
    until("events can be sent again", async || owner.publish_event(ROUTES_CHANGED, "8".into()).await.is_ok())
        .await;
    let event = timeout(PATIENCE, events.next(&cancel)).await.unwrap();
    assert_eq!(event, Some(QueueEvent::Message("8".into())));

    cancel.cancel();
    assert_eq!(events.next(&cancel).await, None);
    other.shutdown().await;
    close(owner).await;
}

#[tokio::test]
async fn a_slow_reader_is_told_that_it_missed_something() {
    let place = Place::new();
    let queue = place.open_with("event_buffer_messages = 4").await;
    let cancel = CancellationToken::new();
    let mut events = queue.subscribe_events(ROUTES_CHANGED).unwrap();
    assert_eq!(timeout(PATIENCE, events.next(&cancel)).await.unwrap(), Some(QueueEvent::Gap));
    let stranger = place.stranger().await;
    for number in 0..500 {
        stranger.publish(ROUTES_CHANGED, number.to_string().into()).await.unwrap();
    }
    stranger.flush().await.unwrap();
    let seen = async { while events.next(&cancel).await != Some(QueueEvent::Gap) {} };
    timeout(PATIENCE, seen).await.expect("a gap");
    close(queue).await;
}
