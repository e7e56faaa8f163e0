//! Several servers on one folder: one owner, the others attach and take over.

use std::process::{Child, Command, Stdio};

use libra::queue::ProcessIdentity;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Place, broker_of, close, next, replaced, ring, start, state_is, until};

const OWNER_FOLDER: &str = "LIBRA_TEST_OWNER_FOLDER";

/// The body of the process that the test below starts and kills; on its own it has nothing to own.
#[tokio::test]
async fn owner_process() {
    if let Some(folder) = std::env::var_os(OWNER_FOLDER) {
        let queue = start(folder.as_ref(), "");
        queue.wait_ready(PATIENCE).await.unwrap();
        // Ended by a SIGKILL, or by this bound if the test that started it died.
        drop(tokio::time::timeout(PATIENCE * 2, std::future::pending::<()>()).await);
        queue.shutdown().await;
    }
}

fn spawn_owner(place: &Place) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "several_servers::owner_process"])
        .env(OWNER_FOLDER, place.data_dir())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn two_servers_share_one_broker() {
    let place = Place::new();
    let owner = place.open().await;
    let other = place.open().await;
    assert_eq!(broker_of(&owner), broker_of(&other));
    assert!(owner.state().borrow().owner);
    assert!(!other.state().borrow().owner);
    other.ring(ring(7, 1)).await.unwrap();
    next(&mut owner.jobs()).await.ack().await.unwrap();

    // The one that doesn't own it leaves without ending it.
    other.shutdown().await;
    assert!(broker_of(&owner).is_running());
    close(owner).await;
}

#[tokio::test]
async fn the_other_takes_over_when_the_owner_leaves() {
    let place = Place::new();
    let owner = place.open().await;
    let other = place.open().await;
    owner.ring(ring(7, 1)).await.unwrap();
    let old = broker_of(&owner);
    let mut source = other.jobs();
    close(owner).await;

    replaced(&other, old).await;
    assert!(other.state().borrow().owner);
    next(&mut source).await.ack().await.unwrap();
    close(other).await;
}

#[tokio::test]
async fn the_other_takes_over_when_the_owner_is_killed() {
    let place = Place::new();
    let mut owner = spawn_owner(&place);
    until("the owner has a broker", async || place.file("server.json").exists()).await;
    let other = place.open().await;
    assert!(!other.state().borrow().owner);
    let old = broker_of(&other);
    other.ring(ring(7, 1)).await.unwrap();
    let mut source = other.jobs();

    owner.kill().unwrap();
    owner.wait().unwrap();
    state_is(&other, |state| state.owner).await;
    let delivery = next(&mut source).await;
    assert_eq!(delivery.job().unwrap().deployment_id, crate::support::id(7));
    until("the killed owner's broker ended with it", async || !old.is_running()).await;
    replaced(&other, old).await;
    other.ring(ring(8, 1)).await.unwrap();
    close(other).await;
}

#[tokio::test]
async fn a_killed_owner_leaves_no_broker_behind() {
    let place = Place::new();
    let mut owner = spawn_owner(&place);
    until("the owner has a broker", async || place.file("server.json").exists()).await;
    let record = place.record();
    let broker = ProcessIdentity {
        pid: record["pid"].as_u64().unwrap().try_into().unwrap(),
        start_time: record["start_time"].as_u64().unwrap(),
    };
    assert!(broker.is_running());
    owner.kill().unwrap();
    owner.wait().unwrap();
    until("the broker is gone", async || !broker.is_running()).await;
}

#[tokio::test]
async fn attaching_waits_for_an_owner_that_is_still_starting() {
    let place = Place::new();
    let owner = start(&place.data_dir(), "");
    let other = start(&place.data_dir(), "");
    other.wait_ready(PATIENCE).await.unwrap();
    owner.wait_ready(PATIENCE).await.unwrap();
    assert_eq!(broker_of(&owner), broker_of(&other));
    assert_ne!(owner.state().borrow().owner, other.state().borrow().owner);

    // Both wait on an empty queue; each message reaches exactly one of them.
    let cancel = CancellationToken::new();
    let (mut first, mut second) = (owner.jobs(), other.jobs());
    owner.ring(ring(7, 1)).await.unwrap();
    let delivery = tokio::select! {
        delivery = first.next(&cancel) => delivery,
        delivery = second.next(&cancel) => delivery,
    };
    delivery.unwrap().ack().await.unwrap();
    assert_eq!(owner.inspect().await.unwrap().messages, 0);
    let (owner, other) = if owner.state().borrow().owner { (owner, other) } else { (other, owner) };
    other.shutdown().await;
    close(owner).await;
}
