//! The third platform failure: a dead letter with all that a redrive needs, then failed, and no
//! fourth attempt.

use crate::app::{Folder, TestApp};
use crate::failing::quick;
use crate::parts::Whose;
use nix::sys::signal::Signal;
use serde_json::Value;

#[tokio::test]
async fn third_platform_failure_goes_to_dead_letters_and_there_is_no_fourth_attempt() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("exhausted").await;
    app.fail(&format!("deploy.begin@{project}")).await;
    let id = app.deploy(&app.body(&project, &[("index.html", "<h1>one</h1>")])).await;
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "failed", "{document:#}");
    assert_eq!((&document["attempt"], &document["maxAttempts"]), (&3.into(), &3.into()));
    assert_eq!(
        (&document["cause"]["class"], &document["cause"]["step"]),
        (&"platform".into(), &"deploy".into())
    );
    let hint = document["cause"]["hint"].as_str().unwrap();
    assert!(!hint.contains("tries again by itself"), "{hint}");

    let letters = app.letters().await;
    let [(subject, letter)] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(*subject, format!("deployment.dlq.exhausted.{}", app.org));
    assert_eq!(letter["original"]["deploymentId"], id);
    assert_eq!(letter["original"]["params"]["projectId"], project);
    assert_eq!((&letter["attempts"], &letter["failedStep"]), (&3.into(), &"deploy".into()));
    assert_eq!(letter["cause"]["summary"], document["cause"]["summary"]);
    assert!(letter["firstFailedAt"].as_str().unwrap() <= letter["lastFailedAt"].as_str().unwrap());

    // Released, it still is not tried a fourth time; what comes after it is.
    app.release(&format!("deploy.begin@{project}")).await;
    let second = app.deploy_live(&app.body(&project, &[("index.html", "<h1>two</h1>")])).await;
    assert_ne!(second, id);
    assert_eq!(app.status(&id).await["status"], "failed");
    let starts =
        format!("SELECT count(*) FROM deployment_event WHERE kind = 'started' AND deployment_id = '{id}'");
    assert_eq!(app.one(&starts), "3");
    assert_eq!(app.switches(&id), "0");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>two</h1>");
    app.quota_balances();
    assert_eq!(app.one("SELECT released FROM quota_period"), "1");
    app.nothing_is_left_of(&[id, second]).await;
    app.wait("the queue is empty", async || app.health().await["checks"]["queue"]["messages"] == 0).await;
}

#[tokio::test]
async fn a_dead_letter_that_can_not_be_written_holds_the_deployment_until_it_can() {
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&quick(&[]));
    let app = TestApp::on(folder, server);
    let (project, _) = app.project("letterless").await;
    app.fail(&format!("deploy.begin@{project}")).await;
    app.hold("sync.end").await;
    let id = app.deploy(&app.body(&project, &[("index.html", "<h1>one</h1>")])).await;
    // The next attempt's point is armed before the attempt before it goes on.
    app.until_held(&id, "sync").await;
    app.hold("validate.begin").await;
    app.release("sync.end").await;
    for attempt in [2, 3] {
        app.until(&id, |d| d["attempt"] == attempt).await;
        app.until_held(&id, "validate").await;
        if attempt == 2 {
            app.hold("sync.end").await;
            app.release("validate.begin").await;
            app.until_held(&id, "sync").await;
            app.hold("validate.begin").await;
            app.release("sync.end").await;
        }
    }
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGSTOP);
    app.release("validate.begin").await;
    let unconfirmed = "the dead letter was not confirmed";
    app.wait("the dead letter was tried", async || app.server.log().contains(unconfirmed)).await;
    let document = app.status(&id).await;
    assert_eq!(document["status"], "in_progress", "{document:#}");
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGCONT);
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "failed", "{document:#}");
    let letters = app.letters().await;
    let [(subject, letter)] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(*subject, format!("deployment.dlq.exhausted.{}", app.org));
    // The cause is the failure's own, not that of a lease that ran out meanwhile.
    assert_eq!(letter["cause"]["summary"], "A test had this step fail.");
    assert_eq!(letter["attempts"], Value::from(3));
    app.quota_balances();
}
