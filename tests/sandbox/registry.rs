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
        let server = HttpServer::new(move || {
            let (base, served, log) = (base.clone(), Arc::clone(&served), Arc::clone(&log));
            let corrupt = Arc::clone(&corrupt);
            App::new().default_service(web::to(move |request: HttpRequest| {
                let headers: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
                log.lock().unwrap().push(format!(
                    "{} {} {}",
                    request.method(),
                    request.uri(),
                    headers.join(",")
                ));
                let answer = answer(&request, &base, &served, &corrupt);
                async move { answer }
            }))
        })
        .workers(1)
        .disable_signals()
        .listen(listener)
        .unwrap()
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { url, seen, handle, tarball }
    }

    fn requests(&self, word: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|line| line.contains(word)).count()
    }
}

fn answer(request: &HttpRequest, base: &str, tarball: &[u8], corrupt: &AtomicU32) -> HttpResponse {
    match request.path() {
        "/tiny" => HttpResponse::Ok().json(document(base, "tiny", &integrity(tarball))),
        "/broken" => HttpResponse::Ok().json(document(base, "broken", &integrity(b"something else"))),
        "/odd/place/tiny-1.0.0.tgz" | "/tiny/-/tiny-1.0.0.tgz" => HttpResponse::Ok().body(tarball.to_vec()),
        "/odd/place/broken-1.0.0.tgz" => {
            corrupt.fetch_add(1, Ordering::Relaxed);
            HttpResponse::Ok().body(tarball.to_vec())
        }
        _ => HttpResponse::NotFound().finish(),
    }
}

fn document(base: &str, name: &str, integrity: &str) -> serde_json::Value {
    serde_json::json!({
        "name": name, "dist-tags": { "latest": "1.0.0" },
        "versions": { "1.0.0": { "name": name, "version": "1.0.0",
            "dist": { "tarball": format!("{base}odd/place/{name}-1.0.0.tgz"), "integrity": integrity } } }
    })
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
