//! The release before on this release's schema. `scripts/test-upgrade` builds that release and says
//! where it is; plain `cargo test` leaves this out.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on says why and ends")]
#![expect(dead_code, reason = "the rig is the one of tests/it, and one test needs little of it")]

#[path = "../it/app.rs"]
mod app;
#[path = "../it/failing.rs"]
mod failing;
#[path = "../it/parts/mod.rs"]
mod parts;

use std::path::PathBuf;

use app::{Folder, TestApp};

#[tokio::test]
async fn the_release_before_deploys_and_serves_on_this_releases_schema() {
    let previous = std::env::var_os("LIBRA_PREVIOUS_EXE").map(PathBuf::from);
    let previous = previous.expect("run scripts/test-upgrade: it builds the release before");
    let mut folder = Folder::new();
    let migrated = folder.libra(&[]).args(["migrate", "up"]).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));

    let current = std::mem::replace(&mut folder.program, previous);
    let server = folder.serve(&[]);
    let app = TestApp::on(folder, server);
    let (project, worker) = app.project("upgraded").await;
    let old = app.deploy_live(&app.body(&project, &[("index.html", "by the old one")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "by the old one");

    let TestApp { mut folder, server, .. } = app;
    assert!(server.stop().success());
    folder.program = current;
    let server = folder.serve(&[]);
    let app = TestApp::on(folder, server);
    assert_eq!(app.status(&old).await["status"], "completed");
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "by the old one");
    app.deploy_live(&app.body(&project, &[("index.html", "by the new one")])).await;
    assert_eq!(app.worker(&worker, "/").await.text().await.unwrap(), "by the new one");
}
