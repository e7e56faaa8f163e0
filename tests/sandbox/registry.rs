//! The registry mirror from inside a sandbox, with a small registry of our own behind it: what can be
//! reached, what can't, and what goes on while the registry is away.

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use base64::Engine;
use sha2::Digest;

use crate::yard::{Yard, command, node, run};

/// What reached the registry: method, path with query, and header names.
type Seen = Arc<Mutex<Vec<String>>>;

struct Registry {
    url: String,
    seen: Seen,
    handle: actix_web::dev::ServerHandle,
    tarball: Arc<Vec<u8>>,
    /// Requests for `/gated…` wait until there are permits.
    gate: Arc<tokio::sync::Semaphore>,
}

impl Registry {
    /// Serves one package, `tiny` 1.0.0, whose tarball lies at an odd path.
    fn start() -> Self {
        let tarball = Arc::new(tarball());
        let seen = Seen::default();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (base, served, log) = (url.clone(), Arc::clone(&tarball), Arc::clone(&seen));
        let corrupt = Arc::new(AtomicU32::new(1));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let gates = Arc::clone(&gate);
        let server = HttpServer::new(move || {
            let (base, served, log) = (base.clone(), Arc::clone(&served), Arc::clone(&log));
            let (corrupt, gates) = (Arc::clone(&corrupt), Arc::clone(&gates));
            App::new().default_service(web::to(move |request: HttpRequest| {
                let headers: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
                log.lock().unwrap().push(format!(
                    "{} {} {}",
                    request.method(),
                    request.uri(),
                    headers.join(",")
                ));
                let answer = answer(&request, &base, &served, &corrupt);
                let gate = request.path().starts_with("/gated").then(|| Arc::clone(&gates));
                async move {
                    if let Some(gate) = gate {
                        drop(gate.acquire().await);
                    }
                    answer
                }
            }))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap()
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, seen, handle, tarball, gate }
    }

    fn requests(&self, word: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.contains(word)).count()
    }
}

fn answer(request: &HttpRequest, base: &str, tarball: &[u8], corrupt: &AtomicU32) -> HttpResponse {
    match request.path() {
        "/tiny" => HttpResponse::Ok().json(document(base, "tiny", &integrity(tarball))),
        "/broken" => HttpResponse::Ok().json(document(base, "broken", &integrity(b"something else"))),
        "/bare" => HttpResponse::Ok().json(described(base, "bare", serde_json::json!({}))),
        "/old" => {
            HttpResponse::Ok().json(described(base, "old", serde_json::json!({ "shasum": shasum(tarball) })))
        }
        "/forged" => {
            HttpResponse::Ok().json(described(base, "forged", serde_json::json!({ "shasum": shasum(b"") })))
        }
        "/odd/place/bare-1.0.0.tgz" | "/odd/place/old-1.0.0.tgz" | "/odd/place/forged-1.0.0.tgz" => {
            HttpResponse::Ok().body(tarball.to_vec())
        }
        "/near" => HttpResponse::Found().insert_header(("location", "/tiny")).finish(),
        "/round" => HttpResponse::Found().insert_header(("location", "/round")).finish(),
        "/away" => {
            let elsewhere = base.replace("127.0.0.1", "localhost");
            HttpResponse::Found().insert_header(("location", format!("{elsewhere}secret"))).finish()
        }
        "/secret" => HttpResponse::Ok().json(document(base, "secret", "")),
        "/odd/place/tiny-1.0.0.tgz" | "/tiny/-/tiny-1.0.0.tgz" => HttpResponse::Ok().body(tarball.to_vec()),
        "/odd/place/broken-1.0.0.tgz" => {
            corrupt.fetch_add(1, Ordering::Relaxed);
            HttpResponse::Ok().body(tarball.to_vec())
        }
        _ => HttpResponse::NotFound().finish(),
    }
}

fn document(base: &str, name: &str, integrity: &str) -> serde_json::Value {
    described(base, name, serde_json::json!({ "integrity": integrity }))
}

fn described(base: &str, name: &str, mut dist: serde_json::Value) -> serde_json::Value {
    dist["tarball"] = format!("{base}odd/place/{name}-1.0.0.tgz").into();
    serde_json::json!({
        "name": name, "dist-tags": { "latest": "1.0.0" },
        "versions": { "1.0.0": { "name": name, "version": "1.0.0", "dist": dist } }
    })
}

fn shasum(bytes: &[u8]) -> String {
    hex::encode(sha1::Sha1::digest(bytes))
}

fn integrity(bytes: &[u8]) -> String {
    format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(sha2::Sha512::digest(bytes)))
}

/// A package as npm packs it: a gzipped tar with two files beneath `package/`.
fn tarball() -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, content) in [
        ("package/package.json", r#"{"name":"tiny","version":"1.0.0","main":"index.js"}"#),
        ("package/index.js", "module.exports = 'tiny works';"),
    ] {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"00000000000\0");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().div_ceil(512) * 512, 0);
    }
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    gzip.finish().unwrap()
}

fn project(registry: &Registry) -> Vec<(String, bytes::Bytes)> {
    let lock = serde_json::json!({
        "name": "p", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {
            "": { "name": "p", "version": "1.0.0", "dependencies": { "tiny": "1.0.0" } },
            // A registry of the author's own, which exists nowhere here.
            "node_modules/tiny": { "version": "1.0.0", "integrity": integrity(&registry.tarball),
                "resolved": "https://registry.example.invalid/tiny/-/tiny-1.0.0.tgz" }
        }
    });
    vec![
        ("package.json".into(), r#"{"name":"p","version":"1.0.0","dependencies":{"tiny":"1.0.0"}}"#.into()),
        ("package-lock.json".into(), lock.to_string().into()),
    ]
}

#[tokio::test]
async fn npm_installs_through_the_mirror_and_again_while_the_registry_is_away() {
    let registry = Registry::start();
    let yard = Yard::with(|settings| {
        settings.mirror.registry_url = registry.url.clone();
        settings.mirror.document_fresh_seconds = 0;
    });
    for (id, install, stop) in [
        ("npm.1", "ci", false),
        ("npm.2", "install", true),
        ("npm.3", "ci", false),
        ("npm.4", "install", false),
    ] {
        let mut sandbox = yard.sandbox(id).await;
        let mut files = project(&registry);
        if install == "install" {
            files.truncate(1);
        }
        sandbox.write_files(files).await.unwrap();
        let mut order = command(&["npm", install]);
        order.network = true;
        run(&mut *sandbox, order).await.must_succeed();
        let ran = run(&mut *sandbox, node("console.log(require('tiny'))")).await;
        assert!(ran.must_succeed().output.contains("tiny works"), "{}", ran.output);
        sandbox.destroy().await.unwrap();
        if stop {
            registry.handle.stop(false).await;
        }
    }
    assert_eq!(registry.requests("tiny-1.0.0.tgz"), 1, "{:?}", registry.seen.lock().unwrap());
    assert!(registry.seen.lock().unwrap().iter().all(|line| line.starts_with("GET ")));
}

#[tokio::test]
async fn the_mirror_reads_and_nothing_else() {
    let registry = Registry::start();
    let yard = Yard::with(|settings| settings.mirror.registry_url = registry.url.clone());
    let mut sandbox = yard.sandbox("read.1").await;
    let script = r#"(async () => {
        const base = "http://127.0.0.1:4873";
        const ask = async (method, path, init = {}) => {
            const answer = await fetch(base + path, { method, ...init });
            console.log(method, path, answer.status, (await answer.text()).length);
        };
        for (const method of ["PUT", "POST", "DELETE", "PATCH"]) await ask(method, "/tiny", { body: "stolen" });
        await ask("GET", "/tiny?leak=secret", { headers: { "x-leak": "secret", authorization: "Bearer secret" } });
        await ask("HEAD", "/tiny");
        for (const path of ["/", "/..%2f..%2fetc%2fpasswd", "/-/v1/search?text=x", "/absent", "/tiny/-/..%2f..%2fx.tgz"]) await ask("GET", path);
        await Promise.all(Array.from({ length: 20 }, () => ask("GET", "/tiny/-/tiny-1.0.0.tgz")));
        await ask("GET", "/broken"); await ask("GET", "/broken/-/broken-1.0.0.tgz"); await ask("GET", "/broken/-/broken-1.0.0.tgz");
        console.log(JSON.parse(await (await fetch(base + "/tiny")).text()).versions["1.0.0"].dist.tarball);
    })()"#;
    let mut order = node(script);
    order.network = true;
    let ran = run(&mut *sandbox, order).await;
    ran.must_succeed();
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        assert!(ran.output.contains(&format!("{method} /tiny 405")), "{}", ran.output);
    }
    for line in [
        "GET /tiny?leak=secret 200",
        "HEAD /tiny 200 0",
        "GET / 404",
        "etc%2fpasswd 404",
        "search?text=x 404",
        "GET /absent 404",
        "..%2fx.tgz 404",
        "broken-1.0.0.tgz 502",
        "http://127.0.0.1:4873/tiny/-/tiny-1.0.0.tgz\n",
    ] {
        assert!(ran.output.contains(line), "{line}: {}", ran.output);
    }
    assert_eq!(ran.output.matches("tiny-1.0.0.tgz 200 ").count(), 20, "{}", ran.output);
    // Twenty at once are one fetch; what does not match its digest is never kept.
    assert_eq!(registry.requests("tiny-1.0.0.tgz"), 1);
    assert_eq!(registry.requests("broken-1.0.0.tgz"), 2);
    let seen = registry.seen.lock().unwrap().join("\n");
    assert!(!seen.contains("leak") && !seen.contains("authorization") && !seen.contains("passwd"), "{seen}");
    sandbox.destroy().await.unwrap();
    registry.handle.stop(false).await;
}

/// A build that asks the mirror for each path in turn and prints what it gets.
fn asking(paths: &[&str]) -> libra::sandbox::ExecOrder {
    let script = format!(
        r#"(async () => {{ for (const path of {paths:?}) {{
            const answer = await fetch("http://127.0.0.1:4873" + path);
            console.log(path, answer.status, (await answer.text()).length);
        }} }})()"#
    );
    let mut order = node(&script);
    order.network = true;
    order
}

#[tokio::test]
async fn redirects_lead_nowhere_but_to_the_registry_itself() {
    let registry = Registry::start();
    let yard = Yard::with(|settings| settings.mirror.registry_url = registry.url.clone());
    let mut sandbox = yard.sandbox("redirect.1").await;
    let ran = run(&mut *sandbox, asking(&["/near", "/away", "/round"])).await;
    for line in ["/near 200", "/away 502", "/round 502"] {
        assert!(ran.must_succeed().output.contains(line), "{line}: {}", ran.output);
    }
    assert_eq!(registry.requests("/secret"), 0);
    assert!(registry.requests("/round") <= 4);
    sandbox.destroy().await.unwrap();
    registry.handle.stop(false).await;
}

#[tokio::test]
async fn a_tarball_is_kept_only_once_its_document_vouches_for_it() {
    let registry = Registry::start();
    let yard = Yard::with(|settings| settings.mirror.registry_url = registry.url.clone());
    let mut sandbox = yard.sandbox("vouch.1").await;
    let asked = ["tiny", "old", "bare", "broken", "forged", "unknown"]
        .map(|name| format!("/{name}/-/{name}-1.0.0.tgz"));
    let twice: Vec<&str> = asked.iter().chain(&asked).map(String::as_str).collect();
    let ran = run(&mut *sandbox, asking(&twice)).await;
    let expected = [
        ("tiny", 200, 1),
        ("old", 200, 1),
        ("bare", 200, 2),
        ("broken", 502, 2),
        ("forged", 502, 2),
        ("unknown", 404, 0),
    ];
    for (name, status, fetches) in expected {
        let line = format!("/{name}/-/{name}-1.0.0.tgz {status} ");
        assert_eq!(ran.must_succeed().output.matches(&line).count(), 2, "{line}: {}", ran.output);
        assert_eq!(registry.requests(&format!("/{name}-1.0.0.tgz")), fetches, "{name}");
    }
    let kept = |name: &str| yard.paths.mirror.join(format!("tarballs/{name}/{name}-1.0.0.tgz")).exists();
    assert!(kept("tiny") && kept("old") && !kept("bare") && !kept("broken") && !kept("forged"));
    assert!(std::fs::read_dir(yard.paths.mirror.join("temporary")).unwrap().next().is_none());
    sandbox.destroy().await.unwrap();
    registry.handle.stop(false).await;
}

#[tokio::test]
async fn one_build_cannot_take_every_place_at_the_registry() {
    let registry = Registry::start();
    let yard = Yard::with(|settings| {
        settings.mirror.registry_url = registry.url.clone();
        settings.mirror.upstream_requests = 3;
        settings.mirror.sandbox_requests = 2;
    });
    let mut greedy =
        yard.limited("greedy.1", |limits| limits.wall = std::time::Duration::from_secs(60)).await;
    // Giving up at once must not free a place for the next request either.
    let script = r#"for (let i = 0; i < 20; i++) fetch("http://127.0.0.1:4873/gated" + i, { signal: AbortSignal.timeout(100 * i) }).catch(() => {}); setInterval(() => {}, 1000)"#;
    let mut order = node(script);
    order.network = true;
    let cancel = tokio_util::sync::CancellationToken::new();
    let token = cancel.clone();
    let running = tokio::spawn(async move {
        crate::yard::try_run(&mut *greedy, order, token).await.unwrap();
        greedy.destroy().await.unwrap();
    });
    crate::yard::wait_until("it holds its places", || registry.requests("/gated") == 2).await;
    let mut modest =
        yard.limited("modest.1", |limits| limits.wall = std::time::Duration::from_secs(20)).await;
    let ran = run(&mut *modest, asking(&["/tiny"])).await;
    assert!(ran.must_succeed().output.contains("/tiny 200"), "{}", ran.output);
    assert_eq!(registry.requests("/gated"), 2);
    registry.gate.add_permits(1000);
    cancel.cancel();
    running.await.unwrap();
    modest.destroy().await.unwrap();
    registry.handle.stop(false).await;
}
