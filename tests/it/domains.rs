//! Custom domains: nothing is served before its proof, nobody serves what is another's, and a slip of
//! the name servers takes nothing away.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{Settings, TestApp, answer};
use crate::dns::{Mood, NameServer};
use crate::tenants::Member;

/// Short times, and the test's own name server.
const QUICK: Settings<'static> = &[
    ("LIBRA__DOMAINS__CHECKS__INTERVAL_MS", "50"),
    ("LIBRA__DOMAINS__CHECKS__PENDING_FIRST_SECONDS", "1"),
    ("LIBRA__DOMAINS__CHECKS__PENDING_LONGEST_SECONDS", "1"),
    ("LIBRA__DOMAINS__CHECKS__PROVED_SECONDS", "1"),
    ("LIBRA__DOMAINS__CHECKS__UNANSWERED_SECONDS", "1"),
    ("LIBRA__DOMAINS__CHECKS__LOST_CHECKS", "2"),
    ("LIBRA__DOMAINS__CHECKS__LOST_SECONDS", "1"),
    ("LIBRA__DOMAINS__CHECKS__ASKED_SECONDS", "0"),
    ("LIBRA__DOMAINS__DNS__TIMEOUT_MS", "300"),
    ("LIBRA__DOMAINS__DNS__ATTEMPTS", "1"),
];
/// Nothing is looked at by itself, but once when it is added.
pub const SLOW: Settings<'static> = &[
    ("LIBRA__DOMAINS__CHECKS__PENDING_FIRST_SECONDS", "3600"),
    ("LIBRA__DOMAINS__CHECKS__ASKED_SECONDS", "0"),
    ("LIBRA__DOMAINS__DNS__TIMEOUT_MS", "1000"),
];

pub async fn start(settings: Settings<'_>, more: Settings<'_>) -> (TestApp, NameServer) {
    let names = NameServer::start().await;
    let address = names.address.to_string();
    let mut all = vec![("LIBRA__DOMAINS__DNS__SERVERS", address.as_str())];
    all.extend(settings.iter().chain(more).copied());
    (TestApp::start_with(&all).await, names)
}

pub async fn add(app: &TestApp, project: &str, hostname: &str) -> Value {
    let (status, body) = try_add(app, &json!({ "projectId": project, "hostname": hostname })).await;
    assert_eq!(status, 201, "{body}");
    body
}

pub async fn try_add(app: &TestApp, body: &Value) -> (StatusCode, Value) {
    app.post("/api/v1/domains", body).await
}

async fn add_as(app: &TestApp, member: &Member, project: &str, hostname: &str) -> (StatusCode, Value) {
    let body = json!({ "projectId": project, "hostname": hostname });
    answer(member.request(app, Method::POST, "/api/v1/domains").json(&body).send().await.unwrap()).await
}

pub fn id(domain: &Value) -> String {
    domain["id"].as_str().unwrap().to_owned()
}

/// Name and value of the record that proves a domain.
pub fn proof(domain: &Value) -> (String, String) {
    let record = &domain["records"][0];
    assert_eq!(record["type"], "TXT", "{domain}");
    (record["name"].as_str().unwrap().to_owned(), record["value"].as_str().unwrap().to_owned())
}

pub fn prove(names: &NameServer, domain: &Value) {
    let (name, value) = proof(domain);
    names.set(&name, &[&[&value]]);
}

pub async fn verify(app: &TestApp, domain: &Value) -> (StatusCode, Value) {
    let path = format!("/api/v1/domains/{}/verify", id(domain));
    answer(app.request(Method::POST, &path).send().await.unwrap()).await
}

pub async fn get(app: &TestApp, domain: &Value) -> Value {
    app.get(&format!("/api/v1/domains/{}", id(domain))).await.1
}

async fn until(app: &TestApp, domain: &Value, status: &str) -> Value {
    app.wait(status, async || get(app, domain).await["status"] == status).await;
    get(app, domain).await
}

/// Status, and the body or the error's code, of `/` on a host.
async fn visit(app: &TestApp, host: &str) -> (u16, String) {
    let request = app.http.get(format!("http://{}/", app.server.address)).header("host", host);
    let (status, body) = answer(request.send().await.unwrap()).await;
    let said = body["error"].as_str().or(body.as_str()).unwrap().to_owned();
    (status.as_u16(), said)
}

async fn until_served(app: &TestApp, host: &str, page: &str) {
    app.wait("it is served", async || visit(app, host).await == (200, page.to_owned())).await;
}

async fn until_unknown(app: &TestApp, host: &str) {
    let unknown = (404, "Custom domain not found".to_owned());
    app.wait("it is not served", async || visit(app, host).await == unknown).await;
}

#[tokio::test]
async fn a_domain_is_served_once_its_record_is_there_and_not_before() {
    let (app, names) = start(SLOW, &[("LIBRA__DOMAINS__ADDRESSES", "192.0.2.7,2001:db8::7")]).await;
    let (project, worker) = app.project("shop").await;
    let domain = add(&app, &project, "Shop.Example.com.").await;
    assert_eq!((&domain["hostname"], &domain["status"]), (&json!("shop.example.com"), &json!("pending")));
    let (name, value) = proof(&domain);
    assert_eq!(name, "_libra.shop.example.com");
    assert!(value.starts_with("libra-domain-verification=") && value.len() > 60, "{value}");
    assert_eq!(
        domain["records"][1],
        json!({ "type": "CNAME", "name": "shop.example.com", "value": format!("{worker}.libra.localhost") })
    );
    let bare = add(&app, &project, "example.com").await;
    let kinds: Vec<_> =
        bare["records"].as_array().unwrap().iter().map(|r| (r["type"].clone(), r["value"].clone())).collect();
    assert_eq!(kinds[1..], [(json!("A"), json!("192.0.2.7")), (json!("AAAA"), json!("2001:db8::7"))]);

    assert_eq!(visit(&app, "shop.example.com").await, (404, "Custom domain not found".to_owned()));
    let (status, seen) = verify(&app, &domain).await;
    assert_eq!((status.as_u16(), &seen["status"]), (200, &json!("pending")));
    assert_eq!(seen["message"], "There is no TXT record at _libra.shop.example.com.");
    names.set(&name, &[&["v=spf1 -all"], &["libra-domain-verification=00"]]);
    let (_, seen) = verify(&app, &domain).await;
    assert!(seen["message"].as_str().unwrap().contains("another token"), "{seen}");
    names.mood(Mood::Fails);
    let (_, seen) = verify(&app, &domain).await;
    assert!(seen["message"].as_str().unwrap().contains("no answer"), "{seen}");
    names.mood(Mood::Answers);

    // One record of several, in several strings, and too many for one datagram.
    let filler = "x".repeat(200);
    let filler = [filler.as_str()];
    let mut records: Vec<&[&str]> = vec![&filler; 40];
    let parts = [&value[..20], &value[20..]];
    records.push(&parts);
    names.set(&name, &records);
    let (status, seen) = verify(&app, &domain).await;
    assert_eq!((status.as_u16(), &seen["status"]), (200, &json!("verified")), "{seen}");
    assert!(
        seen["verifiedAt"].is_string() && seen["provedAt"].is_string() && seen.get("expiresAt").is_none()
    );
    // Proved, and nothing deployed yet.
    let empty = (403, "Custom domain configuration invalid".to_owned());
    app.wait("the host is known", async || visit(&app, "shop.example.com").await == empty).await;
    app.deploy_live(&app.body(&project, &[("index.html", "the shop")])).await;
    until(&app, &domain, "active").await;
    until_served(&app, "shop.example.com", "the shop").await;
    until_served(&app, "SHOP.example.com.:8080", "the shop").await;

    // Added again it is the same one; given up it is nobody's.
    let (status, again) =
        try_add(&app, &json!({ "projectId": project, "hostname": "shop.example.com" })).await;
    assert_eq!((status.as_u16(), &again["id"]), (200, &domain["id"]));
    let path = format!("/api/v1/domains/{}", id(&domain));
    let removed = app.request(Method::DELETE, &path).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    assert_eq!(app.get(&path).await.0, 404);
    until_unknown(&app, "shop.example.com").await;
}

#[tokio::test]
async fn a_claim_is_looked_at_by_itself_and_told_what_was_seen() {
    let (app, names) = start(QUICK, &[]).await;
    let (project, _) = app.project("patient").await;
    app.deploy_live(&app.body(&project, &[("index.html", "here")])).await;
    let domain = add(&app, &project, "patient.example.com").await;
    app.wait("it was looked at", async || get(&app, &domain).await["message"].is_string()).await;
    prove(&names, &domain);
    until(&app, &domain, "active").await;
    until_served(&app, "patient.example.com", "here").await;
}

#[tokio::test]
async fn nobody_proves_a_domain_with_anothers_token() {
    let (app, names) = start(SLOW, &[]).await;
    let (project, _) = app.project("mine").await;
    let other = Member::of_new_organization(&app, "squatters");
    let theirs = other.project(&app, "theirs").await;
    // Both may claim it; each is shown a token of its own.
    let (status, squat) = add_as(&app, &other, &theirs, "contested.example.com").await;
    assert_eq!(status, 201, "{squat}");
    let mine = add(&app, &project, "contested.example.com").await;
    assert_ne!(proof(&squat).1, proof(&mine).1);
    // A token is bound to the name, too.
    let elsewhere = add(&app, &project, "elsewhere.example.com").await;
    names.set("_libra.elsewhere.example.com", &[&[&proof(&mine).1]]);
    assert_eq!(verify(&app, &elsewhere).await.1["status"], "pending");

    prove(&names, &mine);
    let path = format!("/api/v1/domains/{}/verify", id(&squat));
    let (_, seen) = answer(other.request(&app, Method::POST, &path).send().await.unwrap()).await;
    assert_eq!(seen["status"], "pending", "{seen}");
    assert_eq!(verify(&app, &mine).await.1["status"], "verified");
    // Even with both records: the name has its owner.
    let (name, value) = proof(&squat);
    names.set(&name, &[&[&value], &[&proof(&mine).1]]);
    let (status, refused) = answer(other.request(&app, Method::POST, &path).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("CONFLICT")), "{refused}");
    let (status, refused) = add_as(&app, &other, &theirs, "contested.example.com").await;
    assert_eq!(status, 409, "{refused}");
    // So has it for the organization's other projects, and for deployments.
    let (second, _) = app.project("second").await;
    assert_eq!(
        try_add(&app, &json!({ "projectId": second, "hostname": "contested.example.com" })).await.0,
        409
    );
    let mut body = other.body(&theirs);
    body["customDomain"] = json!("contested.example.com");
    let (status, refused) =
        answer(other.request(&app, Method::POST, "/deploy").json(&body).send().await.unwrap()).await;
    assert_eq!((status.as_u16(), &refused["code"]), (409, &json!("CONFLICT")), "{refused}");

    // What another organization has is as unknown as nothing, whatever is asked.
    let path = format!("/api/v1/domains/{}", id(&mine));
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/verify")),
    ] {
        let (status, body) = answer(other.request(&app, method, &path).send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &body["code"]), (404, &json!("CUSTOM_DOMAIN_NOT_FOUND")));
    }
    let (status, body) = add_as(&app, &other, &project, "new.example.com").await;
    assert_eq!((status.as_u16(), &body["code"]), (404, &json!("PROJECT_NOT_FOUND")));
}

#[tokio::test]
async fn a_lost_proof_ends_serving_and_silence_does_not() {
    let (app, names) = start(QUICK, &[]).await;
    let (project, _) = app.project("steady").await;
    app.deploy_live(&app.body(&project, &[("index.html", "steady")])).await;
    let domain = add(&app, &project, "steady.example.com").await;
    prove(&names, &domain);
    until(&app, &domain, "active").await;
    until_served(&app, "steady.example.com", "steady").await;

    for mood in [Mood::Fails, Mood::Silent] {
        names.mood(mood);
        let from = names.asked();
        app.wait("it was looked at again and again", async || {
            names.asked() > from + 8
                && get(&app, &domain).await["message"].as_str().unwrap().contains("no answer")
        })
        .await;
        let seen = get(&app, &domain).await;
        assert_eq!(seen["status"], "active", "{mood:?}: {seen}");
        assert!(seen.get("lostSince").is_none(), "{mood:?}: {seen}");
        assert_eq!(visit(&app, "steady.example.com").await.0, 200, "{mood:?}");
        names.mood(Mood::Answers);
    }
    until_message(&app, &domain, "was found").await;

    let (name, value) = proof(&domain);
    names.set(&name, &[&["somebody else's"]]);
    let lost = until(&app, &domain, "quarantined").await;
    let message = lost["message"].as_str().unwrap();
    assert!(message.contains("not served any more") && !message.contains("somebody"), "{lost}");
    assert!(lost["quarantinedAt"].is_string() && lost["expiresAt"].is_string(), "{lost}");
    until_unknown(&app, "steady.example.com").await;
    // The name is held for its owner, whose proof brings it back.
    names.set(&name, &[&[&value]]);
    let back = until(&app, &domain, "active").await;
    assert!(back.get("quarantinedAt").is_none() && back.get("expiresAt").is_none(), "{back}");
    until_served(&app, "steady.example.com", "steady").await;
}

async fn until_message(app: &TestApp, domain: &Value, part: &str) {
    app.wait(part, async || get(app, domain).await["message"].as_str().is_some_and(|m| m.contains(part)))
        .await;
}

#[tokio::test]
async fn a_proved_claim_takes_a_quarantined_name_over() {
    let (app, names) = start(QUICK, &[]).await;
    let (project, _) = app.project("seller").await;
    app.deploy_live(&app.body(&project, &[("index.html", "seller")])).await;
    let sold = add(&app, &project, "sold.example.com").await;
    prove(&names, &sold);
    until(&app, &sold, "active").await;
    names.set(&proof(&sold).0, &[]);
    until(&app, &sold, "quarantined").await;

    let buyer = Member::of_new_organization(&app, "buyers");
    let theirs = buyer.project(&app, "buyer").await;
    let deployed = buyer.request(&app, Method::POST, "/deploy").json(&buyer.body(&theirs));
    let (_, deployment) = answer(deployed.send().await.unwrap()).await;
    app.until_final(deployment["deploymentId"].as_str().unwrap()).await;
    let (status, bought) = add_as(&app, &buyer, &theirs, "sold.example.com").await;
    assert_eq!(status, 201, "{bought}");
    prove(&names, &bought);
    until_served(&app, "sold.example.com", "theirs").await;
    let before = get(&app, &sold).await;
    assert_eq!(before["status"], "failed", "{before}");
    assert!(before["message"].as_str().unwrap().contains("another project"), "{before}");
    let owners = "select count(*) from custom_domain where hostname = 'sold.example.com' \
                  and status in ('verified', 'active', 'quarantined')";
    assert_eq!(app.rows(owners), [["1"]]);
}

#[tokio::test]
async fn of_claims_proved_at_the_same_moment_one_has_the_name() {
    let (app, names) = start(SLOW, &[]).await;
    let mut claims = Vec::new();
    for n in 0..4 {
        let (project, _) = app.project(&format!("racer {n}")).await;
        claims.push(add(&app, &project, "race.example.com").await);
    }
    // All of one organization, so all with one token.
    prove(&names, &claims[0]);
    let answers = join_all(claims.iter().map(|claim| verify(&app, claim))).await;
    let mut statuses: Vec<u16> = answers.iter().map(|(status, _)| status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409], "{answers:?}");
    let owners = "select count(*) from custom_domain where status in ('verified', 'active')";
    assert_eq!(app.rows(owners), [["1"]]);
    // The table itself refuses what no statement of ours would write.
    let forced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        app.change("update custom_domain set status = 'active'");
    }));
    assert!(forced.is_err(), "two owners of one name were stored");
}

#[tokio::test]
async fn claims_end_when_they_are_not_proved_in_time() {
    let (app, _names) = start(QUICK, &[]).await;
    let (project, _) = app.project("late").await;
    let domain = add(&app, &project, "late.example.com").await;
    let week = 7 * 24 * 3_600 * 1_000;
    let column =
        |name: &str| app.rows(&format!("select {name} from custom_domain"))[0][0].parse::<i64>().unwrap();
    assert_eq!(column("expires_at") - column("created_at"), week);
    app.change("update custom_domain set expires_at = 1");
    let ended = until(&app, &domain, "failed").await;
    assert!(ended["message"].as_str().unwrap().contains("in time"), "{ended}");
    // Added again, it is the same claim with the same record.
    let (status, again) =
        try_add(&app, &json!({ "projectId": project, "hostname": "late.example.com" })).await;
    assert_eq!((status.as_u16(), &again["status"]), (200, &json!("pending")), "{again}");
    assert_eq!((&again["id"], proof(&again)), (&domain["id"], proof(&domain)));
    // A failed one is forgotten after a while.
    app.change("update custom_domain set expires_at = 1");
    until(&app, &domain, "failed").await;
    app.change("update custom_domain set expires_at = 1");
    app.wait("it is forgotten", async || app.rows("select count(*) from custom_domain") == [["0"]]).await;
}

#[tokio::test]
async fn a_suspended_projects_domain_answers_that_it_is() {
    let (app, names) = start(SLOW, &[]).await;
    let (project, _) = app.project("suspended").await;
    app.deploy_live(&app.body(&project, &[("index.html", "on")])).await;
    let domain = add(&app, &project, "off.example.com").await;
    app.change("update project set status = 'suspended'");
    prove(&names, &domain);
    assert_eq!(verify(&app, &domain).await.1["status"], "active");
    let invalid = (403, "Custom domain configuration invalid".to_owned());
    app.wait("it is known", async || visit(&app, "off.example.com").await == invalid).await;
}

#[tokio::test]
async fn servers_share_the_looks_and_each_is_done_once() {
    let names = NameServer::start().await;
    let address = names.address.to_string();
    let settings = [
        ("LIBRA__DOMAINS__DNS__SERVERS", address.as_str()),
        ("LIBRA__DOMAINS__DNS__TIMEOUT_MS", "5000"),
        ("LIBRA__DOMAINS__CHECKS__INTERVAL_MS", "50"),
        ("LIBRA__DOMAINS__CHECKS__CONCURRENCY", "8"),
        ("LIBRA__DOMAINS__CHECKS__PENDING_FIRST_SECONDS", "3600"),
    ];
    let app = TestApp::start_with(&settings).await;
    let _second = app.folder.serve(&settings);
    let (project, _) = app.project("many").await;
    let mut domains = Vec::new();
    for n in 0..30 {
        domains.push(add(&app, &project, &format!("d{n}.example.com")).await);
    }
    let left = "select count(*) from custom_domain where checked_at is null";
    app.wait("all were looked at", async || app.rows(left) == [["0"]]).await;
    // All are due at once, for both.
    for _ in 0..5 {
        app.change("update custom_domain set next_check_at = 0, checked_at = null");
        app.wait("all were looked at again", async || app.rows(left) == [["0"]]).await;
    }
    let logs = app.folder.logs();
    let looks = |domain: &Value| {
        logs.lines().filter(|l| l.contains("looked at a domain") && l.contains(&id(domain))).count()
    };
    for domain in &domains {
        assert_eq!(looks(domain), 6, "{domain}");
    }
}
