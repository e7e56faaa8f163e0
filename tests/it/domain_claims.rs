//! Which domains may be claimed, how many, where they may redirect to, and the same by hand.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::domains::{SLOW, add, get, id, proof, prove, start, try_add, verify};

#[tokio::test]
async fn names_that_are_nobodys_to_claim_are_refused() {
    let (app, _names) = start(SLOW, &[("LIBRA__DOMAINS__PLATFORM_HOSTS", "console.platform.example")]).await;
    let (project, _) = app.project("greedy").await;
    let long = format!("{}.example.com", vec!["a".repeat(59); 4].join("."));
    for hostname in [
        "",
        "libra.localhost",
        "blog.libra.localhost",
        "localhost",
        "console.platform.example",
        "platform.example",
        "x.console.platform.example",
        "com",
        "co.uk",
        "github.io",
        "127.0.0.1",
        "[::1]",
        "127.1",
        "a..example.com",
        "-a.example.com",
        "a_b.example.com",
        "example.com:443",
        "https://example.com",
        "user@example.com",
        "*.example.com",
        "xn--a.com",
        "a b.example.com",
        "example.com..",
        "\u{0}.example.com",
        long.as_str(),
    ] {
        let (status, body) = try_add(&app, &json!({ "projectId": project, "hostname": hostname })).await;
        assert_eq!((status.as_u16(), &body["code"]), (400, &json!("VALIDATION_ERROR")), "{hostname}: {body}");
        assert_eq!(body["details"][0]["field"], "hostname", "{hostname}: {body}");
    }
    for (spelt, stored) in [
        ("BÜCHER.Example.com", "xn--bcher-kva.example.com"),
        ("Trailing.Example.com.", "trailing.example.com"),
        ("shop.co.uk", "shop.co.uk"),
    ] {
        assert_eq!(add(&app, &project, spelt).await["hostname"], stored);
    }
    for body in [
        json!({ "projectId": project }),
        json!({ "projectId": project, "hostname": 7 }),
        json!({ "projectId": "x", "hostname": "a.example.com" }),
        json!({ "projectId": project, "hostname": "a.example.com", "redirectTo": "com" }),
        json!({ "projectId": project, "hostname": "a.example.com", "more": 1 }),
        json!([]),
    ] {
        assert_eq!(try_add(&app, &body).await.0, 400, "{body}");
    }
    // In pages, of one project, by name.
    let (_, page) = app.get("/api/v1/domains?limit=2").await;
    let next = page["nextCursor"].as_str().unwrap();
    assert_eq!(page["domains"].as_array().unwrap().len(), 2);
    let (_, rest) = app.get(&format!("/api/v1/domains?limit=2&cursor={next}")).await;
    assert_eq!(rest["domains"].as_array().unwrap().len(), 1);
    assert!(rest.get("nextCursor").is_none(), "{rest}");
    let (_, named) = app.get(&format!("/api/v1/domains?projectId={project}&hostname=SHOP.co.uk")).await;
    assert_eq!(named["domains"][0]["hostname"], "shop.co.uk");
    let (second, _) = app.project("without").await;
    assert_eq!(app.get(&format!("/api/v1/domains?projectId={second}")).await.1, json!({ "domains": [] }));
}

#[tokio::test]
async fn claims_are_bounded_and_asking_is_too() {
    let limits = [
        ("LIBRA__DOMAINS__CLAIMS__PER_PROJECT", "2"),
        ("LIBRA__DOMAINS__CLAIMS__PER_ORGANIZATION", "3"),
        ("LIBRA__DOMAINS__CHECKS__ASKED_SECONDS", "60"),
    ];
    let (app, _names) = start(&[], &limits).await;
    let (project, _) = app.project("one").await;
    let (second, _) = app.project("two").await;
    let first = add(&app, &project, "a.example.com").await;
    add(&app, &project, "b.example.com").await;
    let limited = |(status, body): (StatusCode, Value)| (status.as_u16(), body["code"].clone());
    let refused = (429, json!("QUOTA_EXCEEDED"));
    let claim = |project: &str, name: &str| json!({ "projectId": project, "hostname": name });
    assert_eq!(limited(try_add(&app, &claim(&project, "c.example.com")).await), refused);
    add(&app, &second, "c.example.com").await;
    assert_eq!(limited(try_add(&app, &claim(&second, "d.example.com")).await), refused);
    // A deployment's claim counts like any other, and a refused one leaves nothing behind.
    let mut body = app.body(&second, &[("index.html", "x")]);
    body["customDomain"] = json!("d.example.com");
    assert_eq!(limited(app.post("/deploy", &body).await), refused);
    assert_eq!(app.rows("select count(*) from deployment"), [["0"]]);
    body["customDomain"] = json!("c.example.com");
    app.deploy(&body).await;

    assert_eq!(verify(&app, &first).await.0, 200);
    let path = format!("/api/v1/domains/{}/verify", id(&first));
    let response = app.request(Method::POST, &path).send().await.unwrap();
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() <= 61);
}

#[tokio::test]
async fn a_domain_redirects_to_a_sibling_and_to_nothing_else() {
    let (app, names) = start(SLOW, &[]).await;
    let (project, _) = app.project("site").await;
    let (second, _) = app.project("stranger").await;
    let redirect = |project: &str, from: &str, to: &str| json!({ "projectId": project, "hostname": from, "redirectTo": to });
    let www = add(&app, &project, "www.example.com").await;
    add(&app, &second, "other.example.com").await;
    for (from, to) in [
        ("example.com", "example.com"),
        ("example.com", "missing.example.com"),
        // Another project's.
        ("example.com", "other.example.com"),
    ] {
        let (status, body) = try_add(&app, &redirect(&project, from, to)).await;
        assert_eq!(
            (status.as_u16(), &body["details"][0]["field"]),
            (400, &json!("redirectTo")),
            "{from} {to}"
        );
    }
    let (status, bare) = try_add(&app, &redirect(&project, "example.com", "www.example.com")).await;
    assert_eq!((status.as_u16(), &bare["redirectTo"]), (201, &json!("www.example.com")), "{bare}");
    // No chain, from either end, and no loop.
    for (from, to) in [("m.example.com", "example.com"), ("www.example.com", "example.com")] {
        let (status, body) = try_add(&app, &redirect(&project, from, to)).await;
        assert_eq!(status, 400, "{from} {to}: {body}");
    }
    add(&app, &project, "m.example.com").await;
    let (status, body) = try_add(&app, &redirect(&project, "www.example.com", "m.example.com")).await;
    assert_eq!(status, 400, "{body}");
    // What is served changes with it, so the epoch does.
    for domain in [&www, &bare] {
        prove(&names, domain);
        assert_eq!(verify(&app, domain).await.1["status"], "verified");
    }
    let epoch = || app.rows("select epoch from route_epoch")[0][0].parse::<i64>().unwrap();
    let before = epoch();
    let (status, body) = try_add(&app, &json!({ "projectId": project, "hostname": "example.com" })).await;
    assert_eq!(status, 200, "{body}");
    assert!(body.get("redirectTo").is_none() && epoch() > before, "{body}");
    try_add(&app, &redirect(&project, "example.com", "www.example.com")).await;
    // Nobody redirects to what is gone.
    let path = format!("/api/v1/domains/{}", id(&www));
    assert_eq!(app.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    assert!(get(&app, &bare).await.get("redirectTo").is_none());
}

// The name server answers while a command runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_prints_the_records_and_says_what_was_seen() {
    let (app, names) = start(SLOW, &[]).await;
    let (project, worker) = app.project("by hand").await;
    let run = |arguments: &[&str]| {
        let output = app.cli(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    };
    let (code, said) = run(&["domains", "add", "hand.example.com", "--project", "by hand"]);
    assert_eq!(code, 0, "{said}");
    let (_, page) = app.get("/api/v1/domains").await;
    let (name, value) = proof(&page["domains"][0]);
    for part in [name.as_str(), value.as_str(), "CNAME", &format!("{worker}.libra.localhost")] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = run(&["domains", "verify", "Hand.example.com"]);
    assert!(code == 0 && said.contains("no TXT record at _libra.hand.example.com"), "{said}");
    names.set(&name, &[&[&value]]);
    let (code, said) = run(&["domains", "verify", "hand.example.com", "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["status"], &shown["projectId"]), (0, &json!("verified"), &json!(project)));
    let (code, said) = run(&["domains", "list", "--project", &project]);
    assert!(code == 0 && said.contains("hand.example.com") && said.contains("verified"), "{said}");
    let (code, said) = run(&["domains", "add", "example.com", "--project", &project, "--json"]);
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 0);
    assert!(shown["hint"].as_str().unwrap().contains("ALIAS"), "{shown}");
    let (code, said) = run(&["domains", "add", "com", "--project", &project]);
    assert!(code == 1 && said.contains("hostname: is a public suffix"), "{code} {said}");
    let (code, said) = run(&["domains", "remove", "hand.example.com"]);
    assert!(code == 0 && said.contains("removed"), "{said}");
    let (code, said) = run(&["domains", "verify", "hand.example.com"]);
    assert!(code == 2 && said.contains("was not added"), "{code} {said}");
}
