//! Servers that share a database see each other's custom domains come, go and change hands, and read no more than
//! what changed; whoever can't know what changed reads everything.

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::app::{Server, Settings, TestApp, answer};
use crate::domains::{SLOW, add, id, proof, prove, start, verify};
use crate::tenants::Member;

/// A proof that is gone withdraws a domain at the second look.
const LOSING: Settings<'static> = &[
    ("LIBRA__DOMAINS__CHECKS__PENDING_FIRST_SECONDS", "3600"),
    ("LIBRA__DOMAINS__CHECKS__ASKED_SECONDS", "0"),
    ("LIBRA__DOMAINS__CHECKS__LOST_CHECKS", "2"),
    ("LIBRA__DOMAINS__CHECKS__LOST_SECONDS", "0"),
    ("LIBRA__DOMAINS__DNS__TIMEOUT_MS", "1000"),
];

async fn page(app: &TestApp, server: &Server, host: &str) -> (u16, String) {
    let http =
        reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let request = http.get(format!("http://{}/", server.address)).header("host", host);
    let response = request.send().await.unwrap_or_else(|e| panic!("{e}: {}", app.folder.logs()));
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Waits until both servers answer so; an empty text is any.
async fn both(app: &TestApp, second: &Server, host: &str, status: u16, text: &str) {
    for server in [&app.server, second] {
        app.wait(&format!("{host} answers {status} {text}"), async || {
            let (seen, said) = page(app, server, host).await;
            seen == status && said.contains(text)
        })
        .await;
    }
}

fn whole_readings(server: &Server) -> usize {
    server.log().matches("all custom domains were read").count()
}

fn changes_read(server: &Server) -> usize {
    server.log().matches("changed custom domains were read").count()
}

async fn remove(app: &TestApp, domain: &serde_json::Value) -> u16 {
    let removed = app.request(Method::DELETE, &format!("/api/v1/domains/{}", id(domain)));
    removed.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn another_server_sees_every_change_and_reads_only_what_changed() {
    let (app, names) = start(LOSING, &[]).await;
    let address = names.address.to_string();
    let mut settings = vec![("LIBRA__DOMAINS__DNS__SERVERS", address.as_str())];
    settings.extend(LOSING.iter().copied());
    let second = app.folder.serve(&settings);
    let (project, _) = app.project("first").await;
    app.deploy_live(&app.body(&project, &[("index.html", "first")])).await;

    // Added and proved.
    let shop = add(&app, &project, "shop.example.com").await;
    prove(&names, &shop);
    assert_eq!(verify(&app, &shop).await.1["status"], "active");
    both(&app, &second, "shop.example.com", 200, "first").await;

    // One that redirects follows its target: gone with it, back with it.
    let body =
        json!({ "projectId": project, "hostname": "www.example.com", "redirectTo": "shop.example.com" });
    let (status, www) = app.post("/api/v1/domains", &body).await;
    assert_eq!(status, 201, "{www}");
    prove(&names, &www);
    assert_eq!(verify(&app, &www).await.1["status"], "active");
    both(&app, &second, "www.example.com", 308, "").await;

    // The proof is lost.
    names.set(&proof(&shop).0, &[]);
    verify(&app, &shop).await;
    assert_eq!(verify(&app, &shop).await.1["status"], "quarantined");
    both(&app, &second, "shop.example.com", 404, "").await;
    both(&app, &second, "www.example.com", 200, "first").await;

    // Another organization proves the name.
    let buyer = Member::of_new_organization(&app, "buyers");
    let theirs = buyer.project(&app, "buyer").await;
    let deployed = buyer.request(&app, Method::POST, "/deploy").json(&buyer.body(&theirs));
    let (_, deployment) = answer(deployed.send().await.unwrap()).await;
    app.until_final(deployment["deploymentId"].as_str().unwrap()).await;
    let body = json!({ "projectId": theirs, "hostname": "shop.example.com" });
    let claimed = buyer.request(&app, Method::POST, "/api/v1/domains").json(&body);
    let (status, bought) = answer(claimed.send().await.unwrap()).await;
    assert_eq!(status, 201, "{bought}");
    prove(&names, &bought);
    let path = format!("/api/v1/domains/{}/verify", id(&bought));
    let (_, seen) = answer(buyer.request(&app, Method::POST, &path).send().await.unwrap()).await;
    assert_eq!(seen["status"], "active", "{seen}");
    both(&app, &second, "shop.example.com", 200, "theirs").await;
    both(&app, &second, "www.example.com", 200, "first").await;

    // Removed.
    assert_eq!(remove(&app, &www).await, 204);
    both(&app, &second, "www.example.com", 404, "").await;

    for server in [&app.server, &second] {
        assert_eq!(whole_readings(server), 1, "{}", server.log());
        assert!(changes_read(server) >= 4, "{}", server.log());
    }
}

#[tokio::test]
async fn what_a_program_changes_that_marks_nothing_is_seen_by_a_whole_reading() {
    let (app, _names) = start(SLOW, &[]).await;
    let (project, _) = app.project("older").await;
    app.deploy_live(&app.body(&project, &[("index.html", "older")])).await;
    app.wait("it has read", async || whole_readings(&app.server) == 1).await;
    // As the release before writes it: the epoch and the domain, no mark.
    app.change(&format!(
        "INSERT INTO custom_domain (id, org_id, project_id, hostname, status, token, created_at) \
         VALUES ('{:032}', '{}', '{project}', 'old.example.com', 'active', 't', 1); \
         UPDATE route_epoch SET epoch = epoch + 1",
        7, app.org
    ));
    let seen = async || page(&app, &app.server, "old.example.com").await;
    app.wait("it is served", async || seen().await == (200, "older".to_owned())).await;
    app.change(
        "DELETE FROM custom_domain WHERE hostname = 'old.example.com'; \
         UPDATE route_epoch SET epoch = epoch + 1",
    );
    app.wait("it is gone", async || seen().await.0 == 404).await;
    assert_eq!(whole_readings(&app.server), 3, "{}", app.server.log());
}

#[tokio::test]
async fn a_server_that_slept_longer_than_changes_are_remembered_reads_everything() {
    let (app, names) = start(SLOW, &[]).await;
    let address = names.address.to_string();
    let mut settings = vec![("LIBRA__DOMAINS__DNS__SERVERS", address.as_str())];
    settings.extend(SLOW.iter().copied());
    let second = app.folder.serve(&settings);
    let (project, _) = app.project("slept").await;
    app.deploy_live(&app.body(&project, &[("index.html", "slept")])).await;
    let gone = add(&app, &project, "gone.example.com").await;
    prove(&names, &gone);
    assert_eq!(verify(&app, &gone).await.1["status"], "active");
    both(&app, &second, "gone.example.com", 200, "slept").await;

    app.wait("the second one sleeps, and not within a transaction of its own", async || {
        second.signal(Signal::SIGSTOP);
        let is_removed = remove(&app, &gone).await == 204;
        if !is_removed {
            second.signal(Signal::SIGCONT);
        }
        is_removed
    })
    .await;
    let seen = async || page(&app, &app.server, "gone.example.com").await.0;
    app.wait("the other one has read it", async || seen().await == 404).await;
    // A sweep of either forgets it; while the second sleeps, the first one does.
    app.change("UPDATE host_change SET changed_at = 1");
    app.wait("it is forgotten", async || app.rows("SELECT count(*) FROM host_change") == [["0"]]).await;
    second.signal(Signal::SIGCONT);
    both(&app, &second, "gone.example.com", 404, "").await;
    assert_eq!(whole_readings(&second), 2, "{}", second.log());
    assert_eq!(whole_readings(&app.server), 1, "who was awake has read it in time: {}", app.server.log());
}
