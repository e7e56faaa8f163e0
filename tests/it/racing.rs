//! Many writers at once: what is counted, numbered and decided by what others wrote stays right.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use futures_util::future::join_all;
use serde_json::json;

use crate::app::TestApp;
use crate::failing::quick;

/// A program beside the servers, in the middle of a transaction. Ends with this value.
struct Other(Child);

impl Other {
    fn begin(app: &TestApp, change: &str) -> Self {
        let mut program = app.folder.ground.sql(&app.folder.data());
        let mut other = Self(program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let begin = if app.folder.ground.cluster().is_some() { "BEGIN" } else { "BEGIN IMMEDIATE" };
        writeln!(other.0.stdin.as_mut().unwrap(), "{begin};\n{change};\nSELECT 'changed';").unwrap();
        let mut said = String::new();
        BufReader::new(other.0.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "changed\n");
        other
    }

    fn commit(mut self) {
        writeln!(self.0.stdin.as_mut().unwrap(), "COMMIT;").unwrap();
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How many of PostgreSQL's connections wait for a lock.
fn waiting(app: &TestApp) -> usize {
    let waits = "SELECT count(*) FROM pg_stat_activity \
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    app.one(waits).parse().unwrap()
}

#[tokio::test]
async fn deployments_recorded_at_the_same_moment_supersede_each_other() {
    let app = TestApp::start_with(&quick(&[("LIBRA__TESTING__HOLD", "validate.begin")])).await;
    let (project, _) = app.project("same moment").await;
    // Its project is busy from now on, so that the others wait.
    let first = app.deploy(&app.body(&project, &[("index.html", "first")])).await;
    app.until_held(&first, "validate").await;
    // All of them are in the middle of being recorded, as far as they come, when the first may go on.
    let other = Other::begin(&app, "UPDATE quota_period SET reserved = reserved");
    let bodies: Vec<_> =
        (0..4).map(|n| app.body(&project, &[("index.html", &*format!("page {n}"))])).collect();
    let posts = join_all(bodies.iter().map(|body| app.deploy(body)));
    let all_wait = async {
        if app.folder.ground.cluster().is_some() {
            app.wait("all of them wait", async || waiting(&app) >= 4).await;
        }
        other.commit();
    };
    tokio::join!(posts, all_wait);
    let left = app.rows("SELECT seq FROM deployment WHERE status = 'queued'");
    assert_eq!(left, [["5"]], "one waits, the newest");
    assert_eq!(app.one("SELECT count(*) FROM deployment WHERE cancel_reason = 'superseded'"), "3");
    app.quota_balances();
}

#[tokio::test]
async fn a_quota_and_a_bound_on_what_waits_let_exactly_so_many_through() {
    // Nothing is worked on, so all of them wait.
    let held = [("LIBRA__QUOTA__DEPLOYMENTS_PER_MONTH", "7"), ("LIBRA__TESTING__HOLD", "validate.begin")];
    let app = TestApp::start_with(&quick(&held)).await;
    let mut projects = Vec::new();
    for number in 0..12 {
        projects.push(app.project(&format!("racer {number}")).await.0);
    }
    let bodies: Vec<_> = projects.iter().map(|p| app.body(p, &[("index.html", p)])).collect();
    let statuses = join_all(bodies.iter().map(|body| app.post("/deploy", body))).await;
    let taken = statuses.iter().filter(|(status, _)| *status == 202).count();
    let refused = statuses.iter().filter(|(_, b)| b["code"] == "QUOTA_EXCEEDED").count();
    assert_eq!((taken, refused), (7, 5), "{statuses:?}");
    app.quota_balances();

    let bounded = [("LIBRA__QUOTA__WAITING_DEPLOYMENTS", "4"), ("LIBRA__PIPELINE__CONCURRENCY", "1")];
    let app = TestApp::start_with(&quick(&bounded)).await;
    let (first, _) = app.project("worked on").await;
    app.hold(&format!("validate.begin@{first}")).await;
    let id = app.deploy(&app.body(&first, &[("index.html", "first")])).await;
    app.until_held(&id, "validate").await;
    let mut projects = Vec::new();
    for number in 0..10 {
        projects.push(app.project(&format!("waiter {number}")).await.0);
    }
    let bodies: Vec<_> = projects.iter().map(|p| app.body(p, &[("index.html", p)])).collect();
    let statuses = join_all(bodies.iter().map(|body| app.post("/deploy", body))).await;
    let taken = statuses.iter().filter(|(status, _)| *status == 202).count();
    assert_eq!(taken, 4, "{statuses:?}");
    app.quota_balances();
}

#[tokio::test]
async fn deployments_of_one_project_posted_at_once_are_numbered_and_superseded_one_by_one() {
    let app = TestApp::start_with(&quick(&[])).await;
    let (project, worker) = app.project("one of many").await;
    let bodies: Vec<_> =
        (0..16).map(|n| app.body(&project, &[("index.html", &*format!("page {n}"))])).collect();
    let ids = join_all(bodies.iter().map(|body| app.deploy(body))).await;
    for id in &ids {
        app.until_final(id).await;
    }
    let numbers = app.rows("SELECT seq FROM deployment ORDER BY seq");
    let wanted: Vec<Vec<String>> = (1..=16).map(|n| vec![n.to_string()]).collect();
    assert_eq!(numbers, wanted);
    let newest = app.one("SELECT id FROM deployment WHERE seq = 16");
    assert_eq!(app.status(&newest).await["status"], "completed");
    let at = ids.iter().position(|id| *id == newest).unwrap();
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), format!("page {at}"));
    assert_eq!(app.one("SELECT live_seq FROM project_target"), "16");
    let unfinished = "SELECT count(*) FROM deployment WHERE status NOT IN ('completed', 'cancelled')";
    assert_eq!(app.one(unfinished), "0");
    app.quota_balances();
}

#[tokio::test]
async fn names_wanted_by_many_at_once_go_to_one_each() {
    let app = TestApp::start().await;
    let body = json!({ "name": "wanted", "orgId": app.org });
    let made = join_all((0..12).map(|_| app.post("/api/v1/projects", &body))).await;
    let names: HashSet<String> = made
        .iter()
        .map(|(status, body)| {
            assert_eq!(*status, 201, "{body}");
            body["workerName"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names.len(), 12);
    assert!(names.contains("wanted"));
}

#[tokio::test]
async fn a_cancel_that_is_being_written_is_waited_for_by_the_switch() {
    let app = TestApp::start_with(&quick(&[
        ("LIBRA__PIPELINE__LEASE_SECONDS", "60"),
        // The heartbeat must not be what is seen waiting.
        ("LIBRA__PIPELINE__HEARTBEAT_SECONDS", "30"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "61"),
    ]))
    .await;
    let (project, worker) = app.project("undecided").await;
    app.hold("deploy.switch").await;
    let id = app.deploy(&app.body(&project, &[("index.html", "never")])).await;
    app.until_held(&id, "deploy").await;
    // Another server asks for the end and has not committed yet.
    let other =
        Other::begin(&app, &format!("UPDATE deployment SET cancel_requested_at = 1 WHERE id = '{id}'"));
    app.release("deploy.switch").await;
    if app.folder.ground.cluster().is_some() {
        app.wait("the switch waits", async || waiting(&app) >= 1).await;
    } else {
        app.wait("the switch was released", async || {
            let held = format!("http://{}/testing/held", app.server.operator);
            app.http.get(held).send().await.unwrap().text().await.unwrap() == "{}"
        })
        .await;
    }
    other.commit();
    let document = app.until_final(&id).await;
    assert_eq!(document["status"], "cancelled", "{document:#}");
    assert_eq!(app.switches(&id), "0");
    assert_eq!(app.worker(&worker, "/").await.status(), 404);
    app.quota_balances();
}

#[tokio::test]
async fn a_switch_that_is_being_written_is_waited_for_by_a_cancel() {
    let app = TestApp::start_with(&quick(&[
        ("LIBRA__PIPELINE__LEASE_SECONDS", "60"),
        ("LIBRA__PIPELINE__HEARTBEAT_SECONDS", "30"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "61"),
    ]))
    .await;
    let (project, worker) = app.project("decided").await;
    app.hold("deploy.switch").await;
    let id = app.deploy(&app.body(&project, &[("index.html", "live")])).await;
    app.until_held(&id, "deploy").await;
    let other = Other::begin(&app, &format!("UPDATE deployment SET switched_at = 1 WHERE id = '{id}'"));
    let path = format!("/api/v1/deployments/{id}/cancel");
    let nothing = json!({});
    let asked = app.post(&path, &nothing);
    let decided = async {
        if app.folder.ground.cluster().is_some() {
            app.wait("the cancel waits", async || waiting(&app) >= 1).await;
        }
        other.commit();
    };
    let ((status, answer), ()) = tokio::join!(asked, decided);
    assert_eq!((status.as_u16(), &answer["code"]), (409, &json!("CONFLICT")), "{answer}");
    assert_eq!(app.one("SELECT count(*) FROM deployment WHERE cancel_requested_at IS NOT NULL"), "0");
    app.release("deploy.switch").await;
    assert_eq!(app.until_final(&id).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "live");
}

#[tokio::test]
async fn a_claim_that_is_being_written_is_waited_for_by_another_servers_claim() {
    let app = TestApp::start_with(&quick(&[
        ("LIBRA__PIPELINE__CONCURRENCY", "1"),
        ("LIBRA__PIPELINE__LEASE_SECONDS", "60"),
        ("LIBRA__PIPELINE__HEARTBEAT_SECONDS", "30"),
        ("LIBRA__NATS__ACK_WAIT_SECONDS", "61"),
    ]))
    .await;
    let (project, _) = app.project("at work").await;
    app.hold(&format!("validate.begin@{project}")).await;
    let first = app.deploy(&app.body(&project, &[("index.html", "first")])).await;
    app.until_held(&first, "validate").await;
    // Nobody is free to take the second one; its ring lies in the queue.
    app.add_dead_builder(1);
    let (project_of_second, _) = app.project("wanted by two").await;
    let second = app.deploy(&app.body(&project_of_second, &[("index.html", "second")])).await;
    let of_second = |what: &str| app.one(&format!("SELECT {what} FROM deployment WHERE id = '{second}'"));
    app.wait("it is rung", async || of_second("rung_at IS NOT NULL") == "1").await;
    let claim = "UPDATE deployment SET status = 'in_progress', attempt = 1, fence = 1, lease_owner = 'other', \
                 lease_until = created_at + 3600000";
    let other = Other::begin(&app, &format!("{claim} WHERE id = '{second}'"));
    app.release(&format!("validate.begin@{project}")).await;
    if app.folder.ground.cluster().is_some() {
        app.wait("the claim waits", async || waiting(&app) >= 1).await;
    }
    other.commit();
    // One that comes after it was looked at.
    let (third, _) = app.project("behind").await;
    app.deploy_live(&app.body(&third, &[("index.html", "third")])).await;
    assert_eq!(of_second("attempt || ' ' || fence || ' ' || lease_owner"), "1 1 other");
}
