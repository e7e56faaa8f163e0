//! Build variables: sealed at rest, given to the build only, masked wherever output goes.

use std::path::Path;

use base64::Engine as _;
use serde_json::json;

use crate::app::TestApp;
use crate::blocked;

const SECRET: &str = "s3cret/value+of=this-test";

/// Every file beneath `folder` that holds one of `needles`.
fn files_with(folder: &Path, needles: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // Folders come and go while a server works.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).unwrap_or_default();
                if needles.iter().any(|n| bytes.windows(n.len()).any(|w| w == n.as_slice())) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    found
}

#[tokio::test]
async fn a_build_variable_is_nowhere_but_in_its_build() {
    let app = TestApp::start().await;
    let (project, _) = app.project("secretive").await;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let prints = "const s = process.env.API_TOKEN_NAME;\n\
         console.log('plain ' + s + ' end'); console.error('error ' + s);\n\
         console.log('base64 ' + Buffer.from(s).toString('base64'));\n\
         console.log('url ' + encodeURIComponent(s));\n\
         console.log('length ' + s.length);";
    let mut body = blocked::body(&app, &project, prints);
    body["env"] = json!({ "API_TOKEN_NAME": SECRET });
    let id = blocked::start(&app, &body).await;
    let sealed = format!("select env_sealed from deployment where id = '{id}'");
    let stored = app.rows(&sealed)[0][0].clone();
    assert!(stored.len() > 20 && !stored.contains(SECRET) && !stored.contains("API_TOKEN_NAME"), "{stored}");

    let log = app.log_of(&id).await;
    assert!(
        log.contains("plain *** end") && log.contains("error ***") && log.contains("base64 ***"),
        "{log}"
    );
    assert!(log.contains("url ***"), "{log}");
    assert!(log.contains(&format!("length {}", SECRET.len())), "the build has the value itself: {log}");
    let needles: Vec<Vec<u8>> =
        [SECRET, &encoded, "API_TOKEN_NAME\":"].map(|n| n.as_bytes().to_vec()).to_vec();
    let looked = |when: &str| {
        // The database with its log, the broker's store, blobs, versions, work folders, the server's own log.
        let found = files_with(app.folder.path(), &needles);
        assert_eq!(found, Vec::<String>::new(), "{when}");
        assert!(!app.server.log().contains(SECRET), "{when}");
    };
    looked("while the build runs");
    for path in
        [format!("/deploy-status?id={id}"), format!("/api/v1/deployments/{id}"), "/api/v1/deployments".into()]
    {
        let shown = app.get(&path).await.1.to_string();
        assert!(!shown.contains(SECRET) && !shown.contains("API_TOKEN_NAME"), "{path}: {shown}");
    }
    blocked::end(&app, &id).await;
    assert_eq!(app.rows(&format!("{sealed} and env_sealed is not null")), Vec::<Vec<String>>::new());
    looked("afterwards");
}
