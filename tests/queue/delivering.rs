//! Rings, deliveries and their settlement.

use std::time::{Duration, Instant};

use bytes::Bytes;
use libra::queue::{DeadLetter, DeadLetterClass, MalformedJob, QueueError};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::support::{Place, close, id, job, next, nothing_comes, ring, until};

fn dead_letter(original: Bytes) -> DeadLetter {
    DeadLetter {
        id: "first.1".into(),
        class: DeadLetterClass::Invalid,
        org_id: Some(id(2)),
        original,
        cause: serde_json::json!({"summary": "unreadable"}),
        attempts: 1,
        failed_step: Some("validate".into()),
        first_failed_at: OffsetDateTime::UNIX_EPOCH,
        last_failed_at: OffsetDateTime::UNIX_EPOCH,
    }
}

#[tokio::test]
async fn a_ring_is_stored_once_however_often_it_is_rung() {
    let place = Place::new();
    let queue = place.open().await;
    let first = queue.ring(ring(7, 1)).await.unwrap();
    assert_eq!(queue.ring(ring(7, 1)).await.unwrap(), first);
    assert_ne!(queue.ring(ring(7, 2)).await.unwrap(), first);
    assert_eq!(queue.inspect().await.unwrap().messages, 2);

    let delivery = next(&mut queue.jobs()).await;
    assert_eq!(delivery.job().unwrap(), job(7, 1));
    assert_eq!(delivery.subject_org, id(2).as_str());
    assert_eq!(delivery.message_id.as_deref(), Some(format!("{}.1", id(7)).as_str()));
    assert_eq!((delivery.deliveries, delivery.stream_sequence), (1, first.0));
    delivery.ack().await.unwrap();
    // The id is remembered also after the message itself is gone.
    assert_eq!(queue.ring(ring(7, 1)).await.unwrap(), first);
    assert_eq!(queue.inspect().await.unwrap().messages, 1);
    close(queue).await;
}

#[tokio::test]
async fn a_ring_that_contradicts_its_job_is_refused() {
    let place = Place::new();
    let queue = place.open().await;
    let mut wrong = ring(7, 1);
    wrong.org_id = id(9);
    assert!(matches!(queue.ring(wrong).await, Err(QueueError::RingMismatch { field: "orgId" })));
    assert_eq!(queue.inspect().await.unwrap().messages, 0);
    close(queue).await;
}

#[tokio::test]
async fn a_message_is_delivered_three_times_and_never_again() {
    let place = Place::new();
    let queue = place.open().await;
    let sequence = queue.ring(ring(7, 1)).await.unwrap().0;
    let mut source = queue.jobs();
    for delivery in 1..=3 {
        assert_eq!(next(&mut source).await.deliveries, delivery);
    }
    // More than one ack_wait, which is 1 s here, with a pull waiting all the time.
    nothing_comes(&mut source, Duration::from_millis(2500)).await;

    // It stays where the sweep finds it, and blocks nobody.
    let stats = queue.inspect().await.unwrap();
    assert_eq!((stats.messages, stats.ack_pending, stats.undelivered), (1, 0, 0));
    assert_eq!(stats.delivered_seq, sequence);
    let left = queue.next_message(1).await.unwrap().unwrap();
    assert_eq!((left.sequence, left.subject_org.as_str()), (sequence, id(2).as_str()));
    queue.ring(ring(8, 1)).await.unwrap();
    next(&mut source).await.ack().await.unwrap();

    assert!(queue.message_exists(sequence).await.unwrap());
    assert!(queue.delete_message(sequence).await.unwrap());
    assert!(!queue.delete_message(sequence).await.unwrap());
    assert!(!queue.message_exists(sequence).await.unwrap());
    close(queue).await;
}

#[tokio::test]
async fn an_acknowledged_message_is_gone_when_ack_returns() {
    let place = Place::new();
    let queue = place.open().await;
    let sequence = queue.ring(ring(7, 1)).await.unwrap().0;
    next(&mut queue.jobs()).await.ack().await.unwrap();
    assert!(!queue.message_exists(sequence).await.unwrap());
    close(queue).await;
}

#[tokio::test]
async fn a_message_given_back_returns_after_the_delay_and_not_before() {
    let place = Place::new();
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    let mut source = queue.jobs();
    let given_back = Instant::now();
    next(&mut source).await.nak(Duration::from_millis(700)).await.unwrap();
    let again = next(&mut source).await;
    assert!(given_back.elapsed() >= Duration::from_millis(690), "{:?}", given_back.elapsed());
    assert_eq!(again.deliveries, 2);
    again.ack().await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn a_message_in_progress_is_not_delivered_to_another() {
    let place = Place::new();
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    let delivery = next(&mut queue.jobs()).await;
    let mut other = queue.jobs();
    // Three times as long as ack_wait.
    let mut beats = tokio::time::interval(Duration::from_millis(300));
    let working = async {
        for _ in 0..10 {
            beats.tick().await;
            delivery.progress().await.unwrap();
        }
    };
    tokio::join!(working, nothing_comes(&mut other, Duration::from_secs(3)));
    assert_eq!(queue.inspect().await.unwrap().ack_pending, 1);
    delivery.ack().await.unwrap();
    assert_eq!(queue.inspect().await.unwrap().messages, 0);
    close(queue).await;
}

#[tokio::test]
async fn an_unreadable_message_becomes_a_dead_letter_and_then_ends() {
    let place = Place::new();
    let queue = place.open().await;
    let stranger = place.stranger().await;
    stranger.publish(format!("deployment.jobs.{}", id(2)), "not json".into()).await.unwrap();
    stranger.flush().await.unwrap();

    let delivery = next(&mut queue.jobs()).await;
    assert!(matches!(delivery.job(), Err(MalformedJob::Form(_))));
    assert_eq!((delivery.subject_org.as_str(), &delivery.message_id), (id(2).as_str(), &None));
    let letter = dead_letter(delivery.payload.clone());
    let written = queue.dead_letter(letter.clone()).await.unwrap();
    // Written twice, as after a crash between the two steps: kept once.
    assert_eq!(queue.dead_letter(letter).await.unwrap(), written);
    let sequence = delivery.stream_sequence;
    delivery.terminate("unreadable\r\nnot a header").await.unwrap();
    assert!(!queue.message_exists(sequence).await.unwrap());

    assert_eq!(queue.inspect().await.unwrap().dead_letters, 1);
    let found = queue.next_dead_letter(1).await.unwrap().unwrap();
    assert_eq!(found.sequence, written.0);
    assert_eq!(found.subject, format!("deployment.dlq.invalid.{}", id(2)));
    let body: serde_json::Value = serde_json::from_slice(&found.payload).unwrap();
    assert_eq!(body["originalBase64"], "bm90IGpzb24=");
    assert_eq!((body["attempts"].as_u64(), body["failedStep"].as_str()), (Some(1), Some("validate")));
    assert!(queue.next_dead_letter(found.sequence + 1).await.unwrap().is_none());
    assert!(queue.delete_dead_letter(found.sequence).await.unwrap());
    close(queue).await;
}

#[tokio::test]
async fn whatever_the_queue_accepts_fits_into_a_dead_letter() {
    let place = Place::new();
    let queue = place.open().await;
    let stranger = place.stranger().await;
    let subject = format!("deployment.jobs.{}", id(2));
    let too_large = stranger.request(subject.clone(), vec![0xff_u8; 1024 * 1024 + 1].into()).await.unwrap();
    assert!(String::from_utf8_lossy(&too_large.payload).contains("exceeds"), "{too_large:?}");
    stranger.request(subject, vec![0xff_u8; 1024 * 1024].into()).await.unwrap();

    let delivery = next(&mut queue.jobs()).await;
    assert_eq!(delivery.payload.len(), 1024 * 1024);
    let mut letter = dead_letter(delivery.payload.clone());
    letter.cause = "x".repeat(10 * 1024 * 1024).into();
    queue.dead_letter(letter).await.unwrap();
    delivery.terminate("too much").await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_keeps_what_it_has() {
    let place = Place::new();
    let queue = place.open_with("stream_max_messages = 1").await;
    queue.ring(ring(7, 1)).await.unwrap();
    let refused = queue.ring(ring(8, 1)).await.unwrap_err();
    assert!(matches!(refused, QueueError::Refused { code: 10077, .. }), "{refused:?}");
    assert!(!refused.is_outage());
    next(&mut queue.jobs()).await.ack().await.unwrap();
    queue.ring(ring(8, 1)).await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn settling_when_the_stream_is_gone_is_no_success() {
    let place = Place::new();
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    let delivery = next(&mut queue.jobs()).await;
    let operator = async_nats::jetstream::new(place.stranger().await);
    operator.delete_stream("deployment-queue").await.unwrap();
    let settled = delivery.ack().await;
    assert!(matches!(settled, Err(QueueError::Missing { .. })), "{settled:?}");
    close(queue).await;
}

#[tokio::test]
async fn a_cancelled_source_ends_at_once_and_takes_nothing_with_it() {
    let place = Place::new();
    let queue = place.open().await;
    let cancel = CancellationToken::new();
    let mut source = queue.jobs();
    let waiting = tokio::spawn({
        let cancel = cancel.clone();
        async move { source.next(&cancel).await.map(drop) }
    });
    until("the pull waits", async || queue.inspect().await.unwrap().waiting_pulls == 1).await;
    cancel.cancel();
    assert!(matches!(waiting.await.unwrap(), Err(QueueError::Closed)));
    until("the pull is gone", async || queue.inspect().await.unwrap().waiting_pulls == 0).await;
    queue.ring(ring(7, 1)).await.unwrap();
    assert_eq!(next(&mut queue.jobs()).await.deliveries, 1);
    close(queue).await;
}
