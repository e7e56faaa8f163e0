//! Streams and consumer: made, mended, changed in place, and never taken from somebody else.

use async_nats::jetstream;
use libra::queue::{QueueError, Reconciled};

use crate::support::{Place, close, next, ring};

#[tokio::test]
async fn what_was_created_at_connect_is_told_once() {
    let place = Place::new();
    let queue = place.open().await;
    let first = queue.reconcile().await.unwrap();
    assert!(first.created_stream && first.created_consumer && first.created_dead_letter_stream, "{first:?}");
    assert_eq!(queue.reconcile().await.unwrap(), Reconciled::default());
    close(queue).await;
    // The same settings again change nothing: no server-side default fights with ours.
    let queue = place.open().await;
    assert_eq!(queue.reconcile().await.unwrap(), Reconciled::default());
    close(queue).await;
}

#[tokio::test]
async fn a_deleted_stream_is_made_again_and_told() {
    let place = Place::new();
    let queue = place.open().await;
    queue.reconcile().await.unwrap();
    let before = queue.inspect().await.unwrap().stream_created_at;
    let operator = jetstream::new(place.stranger().await);
    operator.delete_stream("deployment-queue").await.unwrap();
    assert!(matches!(queue.ring(ring(7, 1)).await, Err(QueueError::Missing { .. })));
    assert!(matches!(queue.inspect().await, Err(QueueError::Missing { .. })));

    let mended = queue.reconcile().await.unwrap();
    assert!(mended.created_stream && mended.created_consumer && !mended.created_dead_letter_stream);
    queue.ring(ring(7, 1)).await.unwrap();
    next(&mut queue.jobs()).await.ack().await.unwrap();
    assert_ne!(queue.inspect().await.unwrap().stream_created_at, before);
    close(queue).await;
}

#[tokio::test]
async fn a_source_survives_the_loss_of_its_consumer_and_its_stream() {
    let place = Place::new();
    let queue = place.open().await;
    queue.reconcile().await.unwrap();
    let operator = jetstream::new(place.stranger().await);
    let mut source = queue.jobs();
    let waiting = tokio::spawn(async move {
        next(&mut source).await.ack().await.unwrap();
        next(&mut source).await.ack().await.unwrap();
    });
    operator.delete_consumer_from_stream("deployers", "deployment-queue").await.unwrap();
    queue.ring(ring(7, 1)).await.unwrap();
    crate::support::until("the first is taken", async || {
        queue.inspect().await.is_ok_and(|stats| stats.messages == 0)
    })
    .await;
    assert!(queue.reconcile().await.unwrap().created_consumer, "the source's own mending is told, too");

    operator.delete_stream("deployment-queue").await.unwrap();
    crate::support::until("a ring works", async || queue.ring(ring(8, 1)).await.is_ok()).await;
    waiting.await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn changed_settings_are_changed_in_place_and_redeliver_nothing() {
    let place = Place::new();
    let queue = place.open().await;
    let sequence = queue.ring(ring(7, 1)).await.unwrap().0;
    let mut source = queue.jobs();
    for _ in 0..3 {
        next(&mut source).await.nak(std::time::Duration::from_millis(1)).await.unwrap();
    }
    close(queue).await;

    let queue = place.open_with("ack_wait_seconds = 2\nstream_max_messages = 500").await;
    let mut changed = queue.reconcile().await.unwrap().updated;
    changed.sort();
    assert_eq!(changed, ["consumer deployers.ack_wait", "stream deployment-queue.max_msgs"]);
    crate::support::nothing_comes(&mut queue.jobs(), std::time::Duration::from_secs(3)).await;
    assert!(queue.message_exists(sequence).await.unwrap());
    close(queue).await;
}

#[tokio::test]
async fn what_somebody_else_has_set_is_unset_again() {
    let place = Place::new();
    let queue = place.open().await;
    let client = place.stranger().await;
    let operator = jetstream::new(client.clone());
    let mut theirs = operator.get_stream("deployment-queue").await.unwrap();
    let mut stream = theirs.info().await.unwrap().config.clone();
    stream.max_age = std::time::Duration::from_secs(3_600);
    stream.max_messages_per_subject = 1;
    operator.update_stream(stream).await.unwrap();
    let ask = async |what: &str, body: serde_json::Value| {
        let subject = format!("$JS.API.CONSUMER.{what}.deployment-queue.deployers");
        let answer = client.request(subject, body.to_string().into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{answer:#}");
        answer
    };
    let mut config = ask("INFO", serde_json::json!({})).await["config"].take();
    config["headers_only"] = true.into();
    let update =
        serde_json::json!({ "stream_name": "deployment-queue", "config": config, "action": "update" });
    ask("CREATE", update).await;
    ask("PAUSE", serde_json::json!({ "pause_until": "2100-01-01T00:00:00Z" })).await;
    let mut changed = queue.reconcile().await.unwrap().updated;
    changed.sort();
    let all = [
        "consumer deployers.headers_only",
        "consumer deployers.pause_until",
        "stream deployment-queue.max_age",
        "stream deployment-queue.max_msgs_per_subject",
    ];
    assert_eq!(changed, all);
    assert!(queue.reconcile().await.unwrap().updated.is_empty(), "once is enough");
    queue.ring(ring(7, 1)).await.unwrap();
    next(&mut queue.jobs()).await.ack().await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn somebody_elses_stream_is_a_conflict_that_names_the_key() {
    let place = Place::new();
    let queue = place.open().await;
    let operator = jetstream::new(place.stranger().await);
    operator.delete_stream("deployment-queue").await.unwrap();
    let theirs = jetstream::stream::Config {
        name: "deployment-queue".into(),
        subjects: vec!["deployment.jobs.*".into()],
        ..Default::default()
    };
    operator.create_stream(theirs).await.unwrap();
    let error = queue.reconcile().await.unwrap_err();
    let QueueError::Conflict { key, have, want, .. } = &error else { panic!("{error:?}") };
    assert_eq!((key.as_str(), have.as_str(), want.as_str()), ("retention", "\"limits\"", "\"workqueue\""));
    assert!(!error.is_outage());

    operator.delete_stream("deployment-queue").await.unwrap();
    let theirs = jetstream::stream::Config {
        name: "other".into(),
        subjects: vec!["deployment.>".into()],
        ..Default::default()
    };
    operator.delete_stream("deployment-dlq").await.unwrap();
    operator.create_stream(theirs).await.unwrap();
    let error = queue.reconcile().await.unwrap_err();
    assert!(matches!(&error, QueueError::Conflict { key, .. } if key == "subjects"), "{error:?}");
    close(queue).await;
}

#[tokio::test]
async fn a_conflict_at_start_keeps_the_queue_from_being_ready_and_says_why() {
    let place = Place::new();
    let queue = place.open().await;
    let operator = jetstream::new(place.stranger().await);
    operator.delete_stream("deployment-dlq").await.unwrap();
    let theirs = jetstream::stream::Config {
        name: "deployment-dlq".into(),
        subjects: vec!["elsewhere".into()],
        ..Default::default()
    };
    operator.create_stream(theirs).await.unwrap();
    close(queue).await;

    let queue = crate::support::start(&place.data_dir(), "");
    crate::support::state_is(&queue, |state| state.problem.is_some()).await;
    let problem = queue.state().borrow().problem.clone().unwrap();
    assert!(problem.contains("stream deployment-dlq: subjects is"), "{problem}");
    assert!(queue.ring(ring(7, 1)).await.is_err());
    // Still connected: the operator's tools work, and the mistake can be looked at.
    assert!(matches!(queue.reconcile().await, Err(QueueError::Conflict { .. })));
    queue.shutdown().await;
}
