//! What a browser gets from a Worker's host, through the real front door.

use std::io::Read;

use base64::Engine as _;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::app::{BASE, TestApp, answer};

const PAGE: &str = "<!doctype html><title>Site</title><h1>It works</h1>";

/// A site with one of everything: what it is called, and its big file.
async fn site(app: &TestApp) -> (String, String, Vec<u8>) {
    let (project, worker) = app.project("serving").await;
    let script = "export const answer = 42;\n".repeat(200);
    // Larger than what the memory cache holds whole, so it is streamed.
    let big: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut body = app.body(
        &project,
        &[
            ("index.html", PAGE),
            ("about.html", "about"),
            ("docs/index.html", "the site's own docs"),
            ("404.html", "the site's own 404"),
            ("assets/index-DiwrgTda.js", &script),
        ],
    );
    body["initFiles"].as_array_mut().unwrap().push(json!({
        "path": "big.bin",
        "content": base64::engine::general_purpose::STANDARD.encode(&big),
        "encoding": "base64",
    }));
    let id = app.deploy_live(&body).await;
    (worker, id, big)
}

async fn ask(app: &TestApp, label: &str, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = app.http.request(method, format!("http://{}{path}", app.server.address));
    request = request.header("host", format!("{label}.{BASE}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_site_answers_as_http_demands() {
    let app = TestApp::start().await;
    let (worker, id, big) = site(&app).await;
    let get =
        async |path: &str, headers: &[(&str, &str)]| ask(&app, &worker, Method::GET, path, headers).await;
    bodies_and_heads(&app, &worker).await;
    conditions(&get).await;
    ranges(&get, &big).await;
    encodings(&get).await;

    let missing = get("/nowhere", &[]).await;
    assert_eq!(
        (missing.status().as_u16(), missing.text().await.unwrap().as_str()),
        (404, "the site's own 404")
    );
    assert_eq!(get("/about", &[]).await.text().await.unwrap(), "about");
    let moved = get("/about/?a=1", &[]).await;
    assert_eq!((moved.status().as_u16(), header(&moved, "location")), (307, "../about?a=1"));

    // Control paths belong to the Worker on its own host, with or without a file of that name.
    assert_eq!(get("/docs/", &[]).await.text().await.unwrap(), "the site's own docs");
    for path in ["/health", "/livez", "/deploy-status?id=x", "/api/v1/projects", "/openapi.json", "/dispatch"]
    {
        let response = get(path, &[("authorization", &format!("Bearer {}", app.token))]).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.text().await.unwrap(), "the site's own 404", "{path}");
    }

    let preview = format!("{}--{worker}", &id[..12]);
    let shown = ask(&app, &preview, Method::GET, "/", &[]).await;
    assert_eq!((shown.status().as_u16(), shown.text().await.unwrap().as_str()), (200, PAGE));
    let (status, gone) =
        answer(ask(&app, &format!("{}--{worker}", "0".repeat(12)), Method::GET, "/", &[]).await).await;
    assert_eq!((status.as_u16(), &gone["code"]), (404, &json!("DEPLOYMENT_NOT_FOUND")));

    // What only a signed probe may learn.
    let plain = get("/", &[("x-libra-probe", "v1.0.0")]).await;
    for secret in ["x-libra-version", "x-libra-digest", "x-libra-epoch"] {
        assert!(!plain.headers().contains_key(secret), "{secret}");
    }
}

async fn bodies_and_heads(app: &TestApp, worker: &str) {
    let whole = ask(app, worker, Method::GET, "/", &[]).await;
    let head = ask(app, worker, Method::HEAD, "/", &[]).await;
    assert_eq!(head.status(), 200);
    for name in ["content-length", "content-type", "etag", "last-modified", "cache-control", "accept-ranges"]
    {
        assert!(!header(&whole, name).is_empty(), "{name}");
        assert_eq!(header(&head, name), header(&whole, name), "{name}");
    }
    assert_eq!(header(&whole, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&whole, "cache-control"), "public, max-age=0, must-revalidate");
    assert_eq!(header(&whole, "x-content-type-options"), "nosniff");
    assert!(head.text().await.unwrap().is_empty());
    assert_eq!(whole.text().await.unwrap(), PAGE);
    let script = ask(app, worker, Method::GET, "/assets/index-DiwrgTda.js", &[]).await;
    assert_eq!(header(&script, "cache-control"), "public, max-age=31536000, immutable");

    for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let refused = ask(app, worker, method.clone(), "/", &[]).await;
        assert_eq!((refused.status().as_u16(), header(&refused, "allow")), (405, "GET, HEAD"), "{method}");
        let (_, document) = answer(refused).await;
        assert_eq!(document["code"], "METHOD_NOT_ALLOWED", "{method}");
    }
    let kept = ask(app, worker, Method::GET, "/", &[("x-request-id", "abc.DEF-1_2")]).await;
    assert_eq!(header(&kept, "x-request-id"), "abc.DEF-1_2");
    for invalid in ["a b", "", "a/b", &"a".repeat(129)] {
        let replaced = ask(app, worker, Method::GET, "/", &[("x-request-id", invalid)]).await;
        assert_eq!(header(&replaced, "x-request-id").len(), 32, "{invalid:?}");
    }
}

async fn conditions(get: &impl AsyncFn(&str, &[(&str, &str)]) -> Response) {
    let first = get("/", &[]).await;
    let (tag, time) = (header(&first, "etag").to_owned(), header(&first, "last-modified").to_owned());
    assert!(tag.starts_with('"') && tag.ends_with('"'), "strong: {tag}");
    for headers in [
        &[("if-none-match", tag.as_str())][..],
        &[("if-none-match", "*")],
        &[("if-modified-since", time.as_str())],
    ] {
        let same = get("/", headers).await;
        assert_eq!((same.status().as_u16(), header(&same, "etag")), (304, tag.as_str()), "{headers:?}");
        assert!(same.bytes().await.unwrap().is_empty());
    }
    // A tag that differs counts, whatever the time says.
    let changed = get("/", &[("if-none-match", "\"other\""), ("if-modified-since", &time)]).await;
    assert_eq!(changed.status(), 200);
}

async fn ranges(get: &impl AsyncFn(&str, &[(&str, &str)]) -> Response, big: &[u8]) {
    let size = big.len();
    let cases = [
        ("/", "bytes=0-8", PAGE.as_bytes()[..9].to_vec(), format!("bytes 0-8/{}", PAGE.len())),
        ("/big.bin", "bytes=1000-1999", big[1000..2000].to_vec(), format!("bytes 1000-1999/{size}")),
        (
            "/big.bin",
            "bytes=-500",
            big[size - 500..].to_vec(),
            format!("bytes {}-{}/{size}", size - 500, size - 1),
        ),
    ];
    for (path, range, bytes, described) in cases {
        let part = get(path, &[("range", range)]).await;
        assert_eq!((part.status().as_u16(), header(&part, "content-range")), (206, described.as_str()));
        assert_eq!(part.bytes().await.unwrap(), bytes, "{range}");
    }
    let behind = get("/big.bin", &[("range", "bytes=3000000-")]).await;
    assert_eq!((behind.status().as_u16(), header(&behind, "content-range")), (416, "bytes */3000000"));
    for headers in [
        &[("range", "bytes=0-8"), ("if-range", "\"other\"")][..],
        &[("range", "bytes=0-1,4-5")],
        &[("range", "lines=1-2")],
    ] {
        let whole = get("/big.bin", headers).await;
        assert_eq!((whole.status().as_u16(), whole.bytes().await.unwrap().len()), (200, size), "{headers:?}");
    }
}

async fn encodings(get: &impl AsyncFn(&str, &[(&str, &str)]) -> Response) {
    let path = "/assets/index-DiwrgTda.js";
    let plain = get(path, &[]).await;
    assert!(!plain.headers().contains_key("content-encoding"));
    assert_eq!(header(&plain, "vary"), "accept-encoding");
    let mut tags = vec![header(&plain, "etag").to_owned()];
    let text = plain.text().await.unwrap();
    for (accepted, sent) in [("gzip, deflate, br, zstd", "br"), ("zstd", "zstd"), ("gzip;q=0.5", "gzip")] {
        let packed = get(path, &[("accept-encoding", accepted)]).await;
        assert_eq!(header(&packed, "content-encoding"), sent);
        assert_eq!(header(&packed, "vary"), "accept-encoding");
        tags.push(header(&packed, "etag").to_owned());
        let bytes = packed.bytes().await.unwrap();
        assert!(bytes.len() < text.len());
        let mut unpacked = String::new();
        match sent {
            "br" => brotli::Decompressor::new(&bytes[..], 4096).read_to_string(&mut unpacked).unwrap(),
            "zstd" => zstd::Decoder::new(&bytes[..]).unwrap().read_to_string(&mut unpacked).unwrap(),
            _ => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut unpacked).unwrap(),
        };
        assert_eq!(unpacked, text, "{sent}");
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "each copy has a strong tag of its own: {tags:?}");
}

#[tokio::test]
async fn every_host_leads_where_the_contract_says() {
    let app = TestApp::start().await;
    let long = "a".repeat(64);
    let cases: &[(&str, u16, &str, &str)] = &[
        ("nobody.libra.localhost", 404, "WORKER_NOT_FOUND", "Worker not found"),
        ("a.b.libra.localhost", 400, "INVALID_WORKER_NAME", "Invalid worker name"),
        (".libra.localhost", 400, "INVALID_WORKER_NAME", "Invalid worker name"),
        ("api.libra.localhost", 400, "RESERVED_SUBDOMAIN", "Subdomain 'api' is reserved"),
        ("WWW.libra.localhost", 400, "RESERVED_SUBDOMAIN", "Subdomain 'www' is reserved"),
        ("xn--bcher-kva.libra.localhost", 400, "RESERVED_SUBDOMAIN", "Subdomain 'xn--bcher-kva' is reserved"),
        ("0123456789ab--x.libra.localhost", 404, "DEPLOYMENT_NOT_FOUND", "Deployment not found"),
        (
            "a_b.libra.localhost",
            400,
            "INVALID_WORKER_NAME",
            "Subdomain can only contain letters, numbers, and hyphens",
        ),
        ("-a.libra.localhost", 400, "INVALID_WORKER_NAME", "Subdomain cannot start or end with a hyphen"),
        ("shop.example.com", 404, "CUSTOM_DOMAIN_NOT_FOUND", "Custom domain not found"),
        ("evil-libra.localhost", 404, "CUSTOM_DOMAIN_NOT_FOUND", "Custom domain not found"),
        ("a_b.example.com", 400, "INVALID_REQUEST", "Invalid request"),
    ];
    let long_host = format!("{long}.libra.localhost");
    let too_long =
        (long_host.as_str(), 400, "INVALID_WORKER_NAME", "Subdomain must be 63 characters or less");
    for (host, status, code, error) in cases.iter().chain([&too_long]) {
        for path in ["/", "/health", "/api/v1/projects"] {
            let url = format!("http://{}{path}", app.server.address);
            let response = app.http.get(url).header("host", *host).send().await.unwrap();
            let id = header(&response, "x-request-id").to_owned();
            assert_eq!(header(&response, "vary"), "Accept", "{host}");
            let (got, document) = answer(response).await;
            assert_eq!(
                (got.as_u16(), &document["code"], &document["error"]),
                (*status, &json!(code), &json!(error)),
                "{host}"
            );
            assert_eq!((document["requestId"].as_str(), id.len()), (Some(id.as_str()), 32), "{host}");
        }
        let page = app.http.get(format!("http://{}/", app.server.address)).header("host", *host);
        let page = page.header("accept", "text/html,*/*").send().await.unwrap();
        assert_eq!(
            (page.status().as_u16(), header(&page, "content-type")),
            (*status, "text/html; charset=utf-8")
        );
        let (id, text) = (header(&page, "x-request-id").to_owned(), page.text().await.unwrap());
        for fact in [*code, &id] {
            assert!(text.contains(fact), "{host}: {text}");
        }
    }
    for host in ["libra.localhost", "LIBRA.localhost.:3008", "localhost", "127.0.0.1:1", "[::1]:80"] {
        let url = format!("http://{}/", app.server.address);
        let response = app.http.get(url).header("host", host).header("x-forwarded-host", "x.libra.localhost");
        let (status, document) = answer(response.send().await.unwrap()).await;
        assert_eq!((status.as_u16(), &document["service"]), (200, &json!("Libra")), "{host}");
    }
    // Whatever is in its name, markup never comes back as markup.
    let page = app.http.get(format!("http://{}/", app.server.address)).header("host", "<b>.libra.localhost");
    let page = page.header("accept", "text/html").send().await.unwrap().text().await.unwrap();
    assert!(!page.contains("<b>"), "{page}");
    let listed: Value = app.get("/").await.1;
    assert!(listed["endpoints"].as_array().unwrap().len() > 15);
}
