//! Blobs on S3: the same product, and a store that is slow, away, cut off or gone in the middle.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{Folder, TestApp};
use crate::failing::quick;
use crate::parts::s3::{S3, Wire};
use crate::parts::{all, borrowed};

/// Patience for a store that fails, short enough for a test.
const IMPATIENT: &[(&str, &str)] = &[
    ("LIBRA__BLOBS__RETRIES", "2"),
    ("LIBRA__BLOBS__RETRY_BACKOFF_MIN_MS", "20"),
    ("LIBRA__BLOBS__RETRY_BACKOFF_MAX_MS", "50"),
    ("LIBRA__BLOBS__RETRY_TOTAL_SECONDS", "3"),
    ("LIBRA__BLOBS__READ_TIMEOUT_MS", "1000"),
    ("LIBRA__BLOBS__CONNECT_TIMEOUT_MS", "1000"),
];

const PAGE: &[(&str, &str)] = &[("index.html", "<h1>on S3</h1>")];

#[tokio::test]
async fn a_site_is_deployed_from_s3_and_a_new_edge_fetches_it_from_there() {
    let s3 = S3::shared();
    let place = s3.settings("fetched");
    let place = borrowed(&place);
    let settings = quick(&place);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("on s3").await;
    app.deploy_live(&app.body(&project, PAGE)).await;
    assert!(
        app.folder.data().join("blobs").read_dir().unwrap().next().is_none(),
        "nothing lies on this disk"
    );
    assert!(s3.object("fetched").is_dir());
    app.wait("health probes it", async || app.health().await["checks"]["blobs"]["status"] == "healthy").await;
    assert_eq!(app.health().await["checks"]["blobs"]["store"], "s3");
    // Nothing of the version is on the disk of a new edge: it comes from S3.
    let TestApp { folder, server, .. } = app;
    server.kill();
    std::fs::remove_dir_all(folder.data().join("edge")).unwrap();
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    app.wait("the new edge serves it", async || app.worker(&worker, "/").await.status() == 200).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>on S3</h1>");
    // Secrets are in no log and no answer.
    assert!(!app.server.log().contains(s3.secret()));
    let shown = app.folder.libra(&settings).args(["config", "show"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("blobs.secret_access_key = ***") && !shown.contains(s3.secret()), "{shown}");
}

#[tokio::test]
async fn a_store_that_is_slow_only_takes_longer() {
    let s3 = S3::start();
    let place = s3.settings("slow");
    let app = TestApp::start_with(&quick(&borrowed(&place))).await;
    let (project, worker) = app.project("slow").await;
    s3.wire(Wire::Slow(Duration::from_millis(300)));
    let id = app.deploy_live(&app.body(&project, PAGE)).await;
    assert_eq!(app.status(&id).await["attempt"], 1);
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "<h1>on S3</h1>");
}

#[tokio::test]
async fn a_post_while_the_store_is_away_is_refused_whole_and_can_be_made_again() {
    let s3 = S3::start();
    let place = s3.settings("refused");
    let app = TestApp::start_with(&quick(&all(&[&borrowed(&place), IMPATIENT]))).await;
    let (project, _) = app.project("refused").await;
    for wire in [Wire::Unavailable, Wire::Gone, Wire::Silent, Wire::CutOff(0)] {
        s3.wire(wire);
        let asked = Instant::now();
        let page = format!("<h1>{wire:?}</h1>");
        let body = app.body(&project, &[("index.html", page.as_str())]);
        let (status, answer) = app.post("/deploy", &body).await;
        // A PUT has no body in its answer: cut off, it is a good one.
        if wire != Wire::CutOff(0) {
            assert_eq!((status.as_u16(), &answer["code"]), (503, &json!("OVERLOADED")), "{wire:?}: {answer}");
            assert!(asked.elapsed() < Duration::from_secs(30), "{wire:?} took {:?}", asked.elapsed());
            assert!(!answer.to_string().contains("127.0.0.1"), "{answer}");
        }
    }
    s3.wire(Wire::Gone);
    app.wait("health tells", async || app.health().await["checks"]["blobs"]["status"] == "unhealthy").await;
    s3.wire(Wire::Well);
    app.deploy_live(&app.body(&project, PAGE)).await;
    app.wait("health tells", async || app.health().await["checks"]["blobs"]["status"] == "healthy").await;
    app.quota_balances();
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_of_a_deployment_costs_an_attempt_and_loses_nothing() {
    let s3 = S3::start();
    let place = s3.settings("middle");
    let more = [
        ("LIBRA__PIPELINE__CONCURRENCY", "5"),
        // Time to mend the store before the second and the third attempt.
        ("LIBRA__PIPELINE__RETRY_FIRST_SECONDS", "3"),
        ("LIBRA__PIPELINE__RETRY_SECOND_SECONDS", "30"),
    ];
    let app = TestApp::start_with(&quick(&all(&[&borrowed(&place), IMPATIENT, &more]))).await;
    // Sync and build read and write it; the steps after them don't need it.
    let places = [("sync", 2), ("build", 2), ("deploy", 1), ("cleanup", 1)];
    for wire in [Wire::Unavailable, Wire::CutOff(3), Wire::Gone] {
        let mut held = Vec::new();
        for (step, attempt) in places {
            let (project, worker) = app.project(&format!("{step} {wire:?}")).await;
            app.hold(&format!("{step}.begin@{project}")).await;
            let page = format!("<h1>{step} {wire:?}</h1>");
            let id = app.deploy(&app.body(&project, &[("index.html", page.as_str())])).await;
            app.until_held(&id, step).await;
            held.push((id, project, step, attempt, worker, page));
        }
        s3.wire(wire);
        for (_, project, step, ..) in &held {
            app.release(&format!("{step}.begin@{project}")).await;
        }
        for (id, _, _, attempt, ..) in &held {
            // Failed once, or done without the store.
            app.until(id, |d| {
                let failed_once = d["attempt"] == 2 || (d["status"] == "queued" && d["attempt"] == 1);
                if *attempt == 2 { failed_once } else { d["status"] == "completed" }
            })
            .await;
        }
        s3.wire(Wire::Well);
        for (id, _, step, attempt, worker, page) in &held {
            let document = app.until_final(id).await;
            assert_eq!(document["status"], "completed", "{step} {wire:?}: {document:#}");
            let made = document["attempt"].as_i64().unwrap();
            assert!(made >= *attempt && made <= 3, "{step} {wire:?}: {document:#}");
            assert_eq!(app.switches(id), "1", "{step} {wire:?}");
            assert_eq!(&app.worker(worker, "/").await.text().await.unwrap(), page);
        }
    }
    app.quota_balances();
    assert!(app.letters().await.is_empty());
}

#[tokio::test]
async fn a_blob_that_stays_cut_off_is_the_platforms_failure_and_is_read_a_bounded_number_of_times() {
    let s3 = S3::start();
    let place = s3.settings("damaged");
    // What the server put there a moment ago it would not read again.
    let forgetful = [("LIBRA__BLOBS__MEMORY_BYTES", "0"), ("LIBRA__BLOBS__MEMORY_BLOB_BYTES", "0")];
    let app = TestApp::start_with(&quick(&all(&[&borrowed(&place), IMPATIENT, &forgetful]))).await;
    let (project, _) = app.project("damaged").await;
    app.hold(&format!("build.begin@{project}")).await;
    let id = app.deploy(&app.body(&project, PAGE)).await;
    app.until_held(&id, "build").await;
    // What lies in the store is shorter than what was put: every reading of it comes complete, and wrong.
    let digest = libra::domain::Digest::of("<h1>on S3</h1>".as_bytes()).to_string();
    let object = s3.object("damaged").join(&app.org).join("sha256").join(&digest[..2]).join(&digest);
    std::fs::write(&object, "<h1>on").unwrap();
    app.release(&format!("build.begin@{project}")).await;
    let document = app.until_final(&id).await;
    assert_eq!((&document["status"], &document["cause"]["class"]), (&json!("failed"), &json!("platform")));
    assert_eq!(document["attempt"], 3, "{document:#}");
    let letters = app.letters().await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(app.server.log().contains("does not hold what its name says"));
    // Deployed again, the whole blob is written over the short one.
    app.deploy_live(&app.body(&project, PAGE)).await;
    assert_eq!(std::fs::read_to_string(&object).unwrap(), "<h1>on S3</h1>");
}

#[tokio::test]
async fn doctor_tells_the_truth_about_the_store() {
    let s3 = S3::start();
    let folder = Folder::new();
    let place = s3.settings("doctor");
    let wrong = [("LIBRA__BLOBS__SECRET_ACCESS_KEY", "wrong"), ("LIBRA__BLOBS__RETRIES", "0")];
    let said = |more: &[(&'static str, &'static str)]| {
        let settings = all(&[&borrowed(&place), more]);
        let output = folder.libra(&settings).args(["doctor", "--json"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|l| l.contains("\"blob store\"")).unwrap().to_owned();
        let finding: serde_json::Value = serde_json::from_str(&line).unwrap();
        (finding["ok"].as_bool().unwrap(), finding["message"].as_str().unwrap().to_owned())
    };
    let (ok, line) = said(&[]);
    assert!(ok && line.contains("s3://libra at http://127.0.0.1:"), "{line}");
    let (ok, line) = said(&wrong);
    assert!(!ok && line.contains("check blobs.access_key_id"), "{line}");
    s3.wire(Wire::Gone);
    let (ok, line) = said(&[("LIBRA__BLOBS__RETRIES", "0")]);
    assert!(!ok && line.contains("is away"), "{line}");
}

/// Writes 12 MiB that no packing makes smaller, and says which.
const LARGE: &str = r#"const fs = require("fs"), { createHash, randomBytes } = require("crypto");
    const large = randomBytes(12 << 20); fs.mkdirSync("dist"); fs.writeFileSync("dist/large.bin", large);
    fs.writeFileSync("dist/index.html", createHash("sha256").update(large).digest("hex"));"#;

#[tokio::test]
async fn a_large_version_is_sent_in_parts_and_a_cut_upload_leaves_none_behind() {
    let s3 = S3::start();
    let place = s3.settings("parts");
    let small = [("LIBRA__BLOBS__PART_BYTES", "5242880"), ("LIBRA__BLOBS__PART_PARALLEL", "2")];
    let settings = all(&[&borrowed(&place), IMPATIENT, &small]);
    let settings = quick(&settings);
    let app = TestApp::start_with(&settings).await;
    let (project, worker) = app.project("large").await;
    let files = [("package.json", r#"{"scripts":{"build":"node build.js"}}"#), ("build.js", LARGE)];
    // The second part is lost on its way, and then the word that all are there.
    for (attempt, words) in [(1, "partNumber=2"), (2, "POST /libra/parts")] {
        s3.wire(Wire::Refusing(words));
        let id = app.deploy(&app.body(&project, &files)).await;
        let failed =
            |d: &serde_json::Value| d["attempt"] == 2 || (d["status"] == "queued" && d["attempt"] == 1);
        app.until(&id, failed).await;
        app.wait("nothing is left of the upload", async || s3.open_uploads().is_empty()).await;
        s3.wire(Wire::Well);
        let document = app.until_final(&id).await;
        assert_eq!(document["status"], "completed", "{attempt}: {document:#}");
        assert!(s3.open_uploads().is_empty(), "{attempt}");
    }
    // From the store to a new edge, which looks at the digest of the whole.
    let TestApp { folder, server, .. } = app;
    server.kill();
    std::fs::remove_dir_all(folder.data().join("edge")).unwrap();
    let server = folder.serve(&settings);
    let app = TestApp::on(folder, server);
    app.wait("the new edge serves it", async || app.worker(&worker, "/").await.status() == 200).await;
    let digest = app.worker(&worker, "/").await.text().await.unwrap();
    let large = app.worker(&worker, "/large.bin").await.bytes().await.unwrap();
    assert_eq!((large.len(), libra::domain::Digest::of(&large).to_string()), (12 << 20, digest));
}
