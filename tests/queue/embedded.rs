//! The embedded broker: started, restarted, private, ended.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use libra::queue::{Queue, QueueError, QueuePaths};
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

use crate::support::{
    PATIENCE, Place, broker_of, close, nats_server, next, replaced, ring, settings, start, state_is, until,
};

#[tokio::test]
async fn a_killed_broker_comes_back_with_everything_that_was_acknowledged() {
    let place = Place::new();
    let queue = place.open().await;
    for deployment in 0..20 {
        queue.ring(ring(deployment, 1)).await.unwrap();
    }
    let mut source = queue.jobs();
    next(&mut source).await.ack().await.unwrap();
    let old = broker_of(&queue);
    let url = place.record()["url"].clone();
    kill_process(Pid::from_raw(old.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    replaced(&queue, old).await;

    assert_ne!(broker_of(&queue), old);
    assert_eq!(place.record()["url"], url, "the port stays, so that others find it again");
    assert_eq!(queue.inspect().await.unwrap().messages, 19);
    // The old source works on, and what was acknowledged does not come again.
    assert_ne!(next(&mut source).await.job().unwrap().deployment_id, crate::support::id(0));
    queue.ring(ring(99, 1)).await.unwrap();
    close(queue).await;
}

#[tokio::test]
async fn rings_during_an_outage_fail_fast_and_work_after_it() {
    let place = Place::new();
    let queue = place.open().await;
    let broker = Pid::from_raw(broker_of(&queue).pid.cast_signed()).unwrap();
    kill_process(broker, Signal::STOP).unwrap();
    let during = queue.ring(ring(7, 1)).await.unwrap_err();
    assert!(during.is_outage(), "{during:?}");
    kill_process(broker, Signal::CONT).unwrap();
    until("the ring arrives", async || queue.ring(ring(7, 1)).await.is_ok()).await;
    // The first one may have arrived late: still one message.
    assert_eq!(queue.inspect().await.unwrap().messages, 1);
    close(queue).await;
}

#[tokio::test]
async fn a_broker_that_hangs_is_replaced() {
    let place = Place::new();
    let queue = place
        .open_with("hang_timeout_seconds = 1\nstop_timeout_seconds = 1\nping_interval_seconds = 1")
        .await;
    queue.ring(ring(7, 1)).await.unwrap();
    let old = broker_of(&queue);
    kill_process(Pid::from_raw(old.pid.cast_signed()).unwrap(), Signal::STOP).unwrap();
    replaced(&queue, old).await;
    assert!(!old.is_running());
    assert_eq!(next(&mut queue.jobs()).await.deliveries, 1);
    close(queue).await;
}

#[tokio::test]
async fn what_lies_in_the_folder_is_private_and_the_broker_wants_the_password() {
    let place = Place::new();
    let queue = place.open().await;
    let mode = |name: &str| std::fs::metadata(place.file(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(""), 0o700);
    for name in ["server.json", "nats.conf", "owner.lock", "store.lock"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    let record = place.record();
    assert!(record["password"].as_str().unwrap().len() >= 43);
    let url = record["url"].as_str().unwrap();
    assert!(url.starts_with("nats://127.0.0.1:"), "{url}");
    assert!(async_nats::connect(url).await.is_err(), "no password, no connection");
    close(queue).await;
}

#[tokio::test]
async fn a_port_taken_meanwhile_means_another_port_and_another_password() {
    let place = Place::new();
    let queue = place.open().await;
    queue.ring(ring(7, 1)).await.unwrap();
    let before = place.record();
    close(queue).await;
    let port: u16 = before["url"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();

    let queue = place.open().await;
    let after = place.record();
    assert_ne!(after["url"], before["url"]);
    assert_ne!(after["password"], before["password"]);
    assert_eq!(next(&mut queue.jobs()).await.deliveries, 1);
    close(queue).await;
}

#[tokio::test]
async fn a_missing_program_is_said_at_once_with_what_to_do() {
    let place = Place::new();
    let paths = QueuePaths {
        data_dir: place.data_dir(),
        tools_dir: place.data_dir(),
        exe: env!("CARGO_BIN_EXE_libra").into(),
    };
    let missing = settings("binary = \"/nonexistent/nats-server\"");
    let error = Queue::start(missing, paths, CancellationToken::new()).err().unwrap();
    assert!(matches!(error, QueueError::BinaryMissing { .. }));
    let message = error.to_string();
    assert!(message.contains("/nonexistent/nats-server") && message.contains("libra doctor"), "{message}");
}

#[tokio::test]
async fn a_broker_that_can_not_start_is_reported_with_its_own_words() {
    let place = Place::new();
    let queue = start(&place.data_dir(), "binary = \"/bin/false\"");
    let error = queue.wait_ready(Duration::from_millis(1500)).await.unwrap_err();
    assert!(error.to_string().contains("exit status: 1"), "{error}");
    assert!(error.is_outage());
    queue.shutdown().await;
}

#[tokio::test]
async fn shutting_down_while_the_broker_starts_leaves_nothing() {
    let place = Place::new();
    let queue = start(&place.data_dir(), "");
    state_is(&queue, |state| state.owner).await;
    queue.shutdown().await;
    // The store's lock is inherited by the broker, so a free lock means that none is left.
    until("nobody holds the store", async || {
        std::fs::File::open(place.file("store.lock")).map_or(true, |file| file.try_lock().is_ok())
    })
    .await;
}

#[tokio::test]
async fn the_launcher_refuses_a_wrong_parent_and_a_store_in_use() {
    let place = Place::new();
    let queue = place.open().await;
    let launch = |parent: u32| {
        Command::new(env!("CARGO_BIN_EXE_libra"))
            .args(["internal", "child-launch", "--parent", &parent.to_string(), "--store-lock"])
            .arg(place.file("store.lock"))
            .arg("--")
            .arg(nats_server())
            .arg("--version")
            .output()
            .unwrap()
    };
    let orphan = launch(1);
    assert_eq!(orphan.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&orphan.stderr).contains("parent is gone"));
    let second = launch(std::process::id());
    assert_eq!(second.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&second.stderr).contains("holds the store"));
    close(queue).await;
    assert!(launch(std::process::id()).status.success());
}

#[tokio::test]
async fn a_broker_outside_is_used_and_not_ended() {
    let place = Place::new();
    let owner = place.open().await;
    let record = place.record();
    let url = record["url"].as_str().unwrap().replace(
        "nats://",
        &format!("nats://{}:{}@", record["user"].as_str().unwrap(), record["password"].as_str().unwrap()),
    );
    let elsewhere = Place::new();
    let guest = elsewhere.open_with(&format!("url = \"{url}\"")).await;
    guest.ring(ring(7, 1)).await.unwrap();
    assert_eq!(guest.state().borrow().pid, None);
    guest.shutdown().await;
    assert!(broker_of(&owner).is_running());
    assert_eq!(owner.inspect().await.unwrap().messages, 1);
    close(owner).await;
}

#[tokio::test]
async fn waiting_for_a_broker_that_is_not_there_ends_in_time() {
    let place = Place::new();
    let queue = start(&place.data_dir(), "url = \"nats://127.0.0.1:9\"");
    let began = std::time::Instant::now();
    let error = queue.wait_ready(Duration::from_secs(1)).await.unwrap_err();
    assert!(began.elapsed() < PATIENCE);
    assert!(error.to_string().contains("not available to connect"), "{error}");
    assert!(queue.ring(ring(7, 1)).await.unwrap_err().is_outage());
    queue.shutdown().await;
}
