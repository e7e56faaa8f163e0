//! The broker away, killed, emptied, or full of nonsense: nothing is lost and nothing is repeated.

use async_nats::jetstream;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Folder, TestApp, answer};
use crate::failing::{broker, broker_mark, quick};
use crate::parts::Whose;
use crate::tenants::Member;

#[tokio::test]
async fn a_broker_that_is_away_or_killed_delays_a_deployment_and_loses_none() {
    let folder = Folder::with_parts(Whose::Own);
    let server = folder.serve(&quick(&[]));
    let app = TestApp::on(folder, server);
    let (waiting, waiting_worker) = app.project("waiting").await;
    let (running, running_worker) = app.project("running").await;
    // Killed in the middle of a deployment: its lease and its walk do not depend on the broker.
    app.hold(&format!("build.begin@{running}")).await;
    let on_its_way = app.deploy(&app.body(&running, &[("index.html", "<h1>running</h1>")])).await;
    app.until_held(&on_its_way, "build").await;
    let killed = broker_mark(&app.folder);
    app.folder.ground.kill_broker(&app.folder.data());
    app.release(&format!("build.begin@{running}")).await;
    let document = app.until_final(&on_its_way).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_eq!(app.worker(&running_worker, "/").await.text().await.unwrap(), "<h1>running</h1>");
    app.wait("a new broker answers", async || {
        (killed.is_none() || broker_mark(&app.folder) != killed)
            && app.health().await["checks"]["queue"]["status"] == "healthy"
    })
    .await;

    // Away at POST: accepted all the same, and made as soon as it is back.
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGSTOP);
    let id = app.deploy(&app.body(&waiting, &[("index.html", "<h1>waited</h1>")])).await;
    app.wait("the ring was tried", async || {
        let log = app.server.log();
        log.contains("the broker took no ring") || log.contains("the broker is away: it takes no rings")
    })
    .await;
    let (status, _) = app.get("/health").await;
    assert!(status == 200 || status == 503);
    app.wait("health tells", async || app.health().await["checks"]["queue"]["status"] == "unhealthy").await;
    assert_eq!(app.status(&id).await["status"], "queued");
    app.folder.ground.signal_broker(&app.folder.data(), Signal::SIGCONT);
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_eq!(app.switches(&id), "1");
    assert_eq!(app.worker(&waiting_worker, "/").await.text().await.unwrap(), "<h1>waited</h1>");
    app.wait("the queue is empty", async || app.health().await["checks"]["queue"]["messages"] == 0).await;
    app.quota_balances();
}

#[tokio::test]
async fn a_deleted_stream_is_made_again_and_what_was_in_it_is_rung_again() {
    // One actor, which is held: the others wait in the stream. Deliveries are given up on much later,
    // so it is the new stream that has them rung again.
    let patient = [("LIBRA__PIPELINE__CONCURRENCY", "1"), ("LIBRA__NATS__ACK_WAIT_SECONDS", "60")];
    let app = TestApp::start_with(&quick(&patient)).await;
    let (first, _) = app.project("first").await;
    app.hold(&format!("build.begin@{first}")).await;
    let held = app.deploy(&app.body(&first, &[("index.html", "<h1>held</h1>")])).await;
    app.until_held(&held, "build").await;
    app.add_dead_builder(2);
    let mut waiting = Vec::new();
    for name in ["second", "third"] {
        let (project, worker) = app.project(name).await;
        waiting.push((app.deploy(&app.body(&project, &[("index.html", name)])).await, worker, name));
    }
    app.wait("both are rung", async || {
        app.one("SELECT count(*) FROM deployment WHERE status = 'queued' AND rung_at IS NOT NULL") == "2"
    })
    .await;
    let context = jetstream::new(broker(&app.folder).await);
    context.delete_stream("deployment-queue").await.unwrap();
    app.wait("the stream is there again", async || context.get_stream("deployment-queue").await.is_ok())
        .await;
    app.release(&format!("build.begin@{first}")).await;
    assert_eq!(app.until_final(&held).await["status"], "completed");
    for (id, worker, page) in &waiting {
        let document = app.until_final(id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&"completed".into(), &1.into()),
            "{document:#}"
        );
        assert_eq!(app.switches(id), "1");
        assert_eq!(app.worker(worker, "/").await.text().await.unwrap(), *page);
    }
    app.quota_balances();
    assert!(app.letters().await.is_empty());
}

#[tokio::test]
async fn a_ring_that_was_deleted_or_that_nobody_claims_is_rung_again() {
    // Swept thoroughly once an hour, delivered again after one: what mends it is the watch.
    let settings = [
        ("LIBRA__PIPELINE__CONCURRENCY", "1"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "3600"),
        ("LIBRA__SWEEP__THOROUGH_SECONDS", "3600"),
    ];
    let app = TestApp::start_with(&quick(&settings)).await;
    let (first, _) = app.project("first").await;
    app.hold(&format!("build.begin@{first}")).await;
    let held = app.deploy(&app.body(&first, &[("index.html", "<h1>held</h1>")])).await;
    app.until_held(&held, "build").await;
    app.add_dead_builder(1);
    let (second, worker) = app.project("second").await;
    let id = app.deploy(&app.body(&second, &[("index.html", "second")])).await;
    let sequence = format!("SELECT coalesce(ring_sequence, 0) FROM deployment WHERE id = '{id}'");
    app.wait("it is rung", async || app.one(&sequence) != "0").await;
    let context = jetstream::new(broker(&app.folder).await);
    let stream = context.get_stream("deployment-queue").await.unwrap();
    // What the held one was rung with stays; everything else is gone.
    stream.purge().await.unwrap();
    let ring = format!("SELECT ring FROM deployment WHERE id = '{id}'");
    app.wait("it is rung again", async || app.one(&ring) != "1").await;

    // Delivered to somebody who never claims it: a stranger that took the only message there is.
    let consumer = stream.get_consumer::<jetstream::consumer::pull::Config>("deployers").await.unwrap();
    let mut stolen = consumer.fetch().max_messages(1).expires(crate::app::PATIENCE).messages().await.unwrap();
    let stolen = futures_util::StreamExt::next(&mut stolen).await.unwrap().unwrap();
    let before = app.one(&ring);
    app.release(&format!("build.begin@{first}")).await;
    assert_eq!(app.until_final(&held).await["status"], "completed");
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["attempt"]), (&"completed".into(), &1.into()), "{document:#}");
    assert_ne!(app.one(&ring), before, "under a number of its own");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "second");
    drop(stolen);
    app.quota_balances();
}

#[tokio::test]
async fn messages_that_stand_for_no_deployment_become_dead_letters_and_leave_the_queue() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, _) = app.project("real").await;
    let id = app.deploy_live(&app.body(&project, &[("index.html", "<h1>real</h1>")])).await;
    let context = jetstream::new(broker(&app.folder).await);
    let other = "0123456789abcdef0123456789abcdef";
    let job = |deployment: &str, org: &str| {
        json!({ "version": 1, "deploymentId": deployment,
            "params": { "projectId": project, "orgId": org, "userId": app.user, "ring": 1 },
            "metadata": { "timestamp": "2026-01-01T00:00:00Z", "retryCount": 0, "priority": 1 } })
        .to_string()
    };
    let subject = |org: &str| format!("deployment.jobs.{org}");
    for (subject, body) in [
        (subject(&app.org), "not json \u{0}".to_owned()),
        (subject(&app.org), job(other, &app.org)),
        // Another organization in the body, and an id that belongs to another organization.
        (subject(&app.org), job(&id, other)),
        (subject(other), job(&id, other)),
        (subject("no-organization"), "{}".to_owned()),
    ] {
        context.publish(subject, body.into()).await.unwrap().await.unwrap();
    }
    app.wait("all are buried", async || app.letters().await.len() == 5).await;
    app.wait("the queue is empty", async || app.health().await["checks"]["queue"]["messages"] == 0).await;
    let letters = app.letters().await;
    for (subject, letter) in &letters {
        assert!(subject.starts_with("deployment.dlq.invalid."), "{subject}");
        assert_eq!(letter["class"], "invalid");
        assert!(letter.get("original").is_some() || letter.get("originalBase64").is_some());
        assert_eq!(letter["cause"]["summary"], "The message was refused.");
    }
    assert!(letters.iter().any(|(s, _)| s == "deployment.dlq.invalid._"), "{letters:?}");
    assert_eq!(app.status(&id).await["status"], "completed");
    assert_eq!(app.switches(&id), "1");

    // At the desk too: those of no organization for operators alone.
    let kept = "SELECT count(*) FROM dead_letter WHERE class = 'invalid'";
    app.wait("all are at the desk", async || app.one(kept) == "5").await;
    let invalid = "/api/v1/dead-letters?class=invalid";
    let (_, all) = app.get(invalid).await;
    let of = |org: Option<&str>| {
        all["deadLetters"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|l| l.get("orgId").and_then(Value::as_str) == org)
            .count()
    };
    assert_eq!((of(Some(&app.org)), of(None)), (3, 2), "{all:#}");
    let member = Member::token(&app, &app.org, &app.user, &[]);
    let (_, theirs) = answer(member.request(&app, Method::GET, invalid).send().await.unwrap()).await;
    assert_eq!(theirs["deadLetters"].as_array().unwrap().len(), 3, "{theirs:#}");
    let nobodys = all["deadLetters"].as_array().unwrap().iter().find(|l| l.get("orgId").is_none()).unwrap();
    let path = format!("/api/v1/dead-letters/{}", nobodys["id"].as_str().unwrap());
    assert_eq!(member.request(&app, Method::GET, &path).send().await.unwrap().status(), 404);
    let (_, shown) = app.get(&path).await;
    assert!(shown["original"].is_object(), "{shown:#}");
    // There is nothing to drive anew, but it can be put away.
    let order = app.request(Method::POST, &format!("{path}/redrive")).json(&json!({})).send().await.unwrap();
    assert_eq!(order.status(), 409);
    assert_eq!(app.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_message_for_what_is_final_taken_or_rung_since_is_settled_and_changes_nothing() {
    // Supersede nothing: the second of a project waits for the first.
    let app = TestApp::start_with(&quick(&[("LIBRA__PIPELINE__CONCURRENCY", "3")])).await;
    let (done, _) = app.project("done").await;
    let finished = app.deploy_live(&app.body(&done, &[("index.html", "done")])).await;
    let (busy, worker) = app.project("busy").await;
    app.hold(&format!("build.begin@{busy}")).await;
    let taken = app.deploy(&app.body(&busy, &[("index.html", "first")])).await;
    app.until_held(&taken, "build").await;
    let waiting = app.deploy(&app.body(&busy, &[("index.html", "second")])).await;
    let context = jetstream::new(broker(&app.folder).await);
    let ring_of = |id: &str| app.one(&format!("SELECT ring FROM deployment WHERE id = '{id}'"));
    let (own, ahead) = (ring_of(&taken), ring_of(&waiting));
    for (project, id, ring) in [
        (&done, &finished, ring_of(&finished)),
        (&busy, &taken, own.clone()),
        (&busy, &waiting, "0".to_owned()),
        (&busy, &waiting, ahead.clone()),
    ] {
        let job = json!({ "version": 1, "deploymentId": id,
            "params": { "projectId": project, "orgId": app.org, "userId": app.user,
                "ring": ring.parse::<u64>().unwrap() },
            "metadata": { "timestamp": "2026-01-01T00:00:00Z", "retryCount": 0, "priority": 1 } });
        let subject = format!("deployment.jobs.{}", app.org);
        context.publish(subject, job.to_string().into()).await.unwrap().await.unwrap();
    }
    // All but the one that the held walk has.
    app.wait("they are settled", async || app.health().await["checks"]["queue"]["messages"] == 1).await;
    assert_eq!(
        (ring_of(&taken), app.one(&format!("SELECT fence FROM deployment WHERE id = '{taken}'"))),
        (own, "1".into())
    );
    assert_ne!(ring_of(&waiting), ahead, "its own ring was spent, and another one follows");
    app.release(&format!("build.begin@{busy}")).await;
    for id in [&taken, &waiting] {
        let document = app.until_final(id).await;
        assert_eq!(
            (&document["status"], &document["attempt"]),
            (&"completed".into(), &1.into()),
            "{document:#}"
        );
        assert_eq!(app.switches(id), "1");
    }
    assert_eq!(app.switches(&finished), "1");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "second");
    assert!(app.letters().await.is_empty());
    app.quota_balances();
}
