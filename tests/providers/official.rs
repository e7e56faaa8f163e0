//! The official clients of the providers, driven against the test server: what they understand is the
//! protocol, and what they send is what ours must send for the same purpose.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use libra::sandbox::CollectLimits;
use serde_json::{Value, json};

use crate::bench::{Bench, node, run, script};
use crate::server::{KEY, Protocol, Server, Shape};

/// Where `make install-test` puts the clients.
fn clients() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("LIBRA_TEST_CLIENTS").map_or_else(|| root.join(".libra/provider-clients"), PathBuf::from)
}

/// Runs a script of the clients' folder and answers what it printed, and what it asked.
async fn drive(protocol: Protocol, name: &str) -> (Value, Vec<Shape>) {
    let folder = clients();
    assert!(folder.join("node_modules").is_dir(), "{} is missing: make install-test", folder.display());
    let server = Server::start(protocol, &node());
    // Beside the packages, where Node looks for them.
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/providers/clients").join(name);
    let copy = folder.join(format!("{}-{name}", uuid::Uuid::new_v4().simple()));
    std::fs::copy(&source, &copy).unwrap();
    let mut command = tokio::process::Command::new(node().join("bin/node"));
    command
        .arg(&copy)
        .env_clear()
        .env("TEST_URL", server.url())
        .env("TEST_KEY", KEY)
        .env("HOME", server.url());
    let output = command.kill_on_drop(true).output().await.unwrap();
    std::fs::remove_file(&copy).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{errors}");
    let asked = server.asked();
    (serde_json::from_str(said.lines().last().unwrap()).unwrap(), asked)
}

/// One shape per method and path, the first of each; bodies of the same purpose are alike.
fn by_purpose(asked: Vec<Shape>) -> BTreeMap<String, Shape> {
    let mut shapes = BTreeMap::new();
    for shape in asked {
        shapes.entry(format!("{} {}", shape.method, shape.path)).or_insert(shape);
    }
    shapes
}

/// A whole life of a sandbox, as a build has it.
async fn a_life(bench: &Bench) {
    let mut sandbox = bench.sandbox("life.1").await;
    let files = vec![("a.txt".to_owned(), Bytes::from("one")), ("dist/b.txt".to_owned(), Bytes::from("two"))];
    sandbox.write_files(files).await.unwrap();
    run(&mut *sandbox, script("console.log('x')")).await.must_succeed();
    let limits = CollectLimits { files: 9, total_bytes: 99, file_bytes: 99 };
    sandbox.collect("dist", &bench.home().join("out"), limits).await.unwrap();
    std::mem::forget(sandbox);
    let again = bench.provider.reconnect(bench.order("life.1")).await.unwrap().unwrap();
    again.destroy().await.unwrap();
}

/// Fields of the published protocol that the official client has no use for.
const PUBLISHED: &[&str] = &["tag"];

/// For each purpose that both have: the same headers and parameters, and no field that theirs has not.
/// Answers the purposes that only ours has.
fn compare(ours: BTreeMap<String, Shape>, theirs: &BTreeMap<String, Shape>) -> Vec<String> {
    let mut alone = Vec::new();
    for (purpose, shape) in ours {
        let Some(official) = theirs.get(&purpose) else {
            alone.push(purpose);
            continue;
        };
        // Their HTTP library names a type also of nothing.
        let typed = |header: &&String| !(official.body.is_empty() && header.starts_with("content-type: "));
        let headers: Vec<&String> = official.headers.iter().filter(typed).collect();
        assert_eq!(shape.headers.iter().filter(typed).collect::<Vec<_>>(), headers, "{purpose}");
        assert_eq!(shape.query, official.query, "{purpose}");
        for (field, kind) in shape.body.iter().filter(|(field, _)| !PUBLISHED.contains(&field.as_str())) {
            assert_eq!(Some(kind), official.body.get(field), "{purpose}: {field} in {official:?}");
        }
    }
    alone
}

#[tokio::test]
async fn the_official_e2b_client_understands_the_server_and_ours_speaks_like_it() {
    let (said, asked) = drive(Protocol::E2b, "e2b.mjs").await;
    let expected = json!({
        "twice": false, "written": 2, "stdout": "onetwo", "stderr": "from-env\n", "code": 0, "pieces": "onetwo",
        "failed": 3, "listed": 1, "killed": true, "signal": true, "text": "one", "there": true, "missing": false,
        "still": "two", "found": ["official.1"], "gone": true, "refused": "AuthenticationError",
    });
    assert_eq!(said, expected);
    let theirs = by_purpose(asked);
    insta::assert_json_snapshot!("e2b", theirs);
    let bench = Bench::new("e2b");
    a_life(&bench).await;
    assert_eq!(compare(by_purpose(bench.server().asked()), &theirs), Vec::<String>::new());
}

#[tokio::test]
async fn the_official_daytona_client_understands_the_server_and_ours_speaks_like_it() {
    let (said, asked) = drive(Protocol::Daytona, "daytona.mjs").await;
    let expected = json!({
        "code": 3, "stdout": "one", "stderr": "to-err\n", "listed": [["a.txt", false], ["deep", true]],
        "text": "one", "again": "started", "found": ["official.1"], "refused": 401,
    });
    assert_eq!(said, expected);
    let theirs = by_purpose(asked);
    insta::assert_json_snapshot!("daytona", theirs);
    let bench = Bench::with("daytona", |s| s.daytona.target = "t".into());
    a_life(&bench).await;
    // One file is fetched whole and plain; the official client fetches several in one answer.
    assert_eq!(compare(by_purpose(bench.server().asked()), &theirs), ["GET /toolbox/{id}/files/download"]);
}
