//! Who may know whom, read from the sources: the invariants of absence in ARCHITECTURE.md.

#![expect(clippy::unwrap_used, reason = "a test that can't go on says why and ends")]

use std::path::{Path, PathBuf};

/// Every Rust file beneath `folder`, with its text without comments and without its tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The code of a file: no comments, nothing after the first test module.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    product.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn beneath(path: &Path, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| path.starts_with(room) || path == Path::new(room))
}

/// Which files outside `rooms` name one of `words`.
fn strangers(words: &[&str], rooms: &[&str]) -> Vec<String> {
    sources("src")
        .into_iter()
        .filter(|(path, _)| !beneath(path, rooms))
        .filter(|(_, text)| words.iter().any(|word| code(text).contains(word)))
        .map(|(path, _)| path.display().to_string())
        .collect()
}

#[test]
fn only_the_store_knows_the_database() {
    assert_eq!(
        strangers(&["sea_orm", "use entity::", "(entity::", "use migration::"], &["src/store"]),
        Vec::<String>::new()
    );
}

#[test]
fn only_the_queue_knows_the_broker() {
    assert_eq!(strangers(&["async_nats"], &["src/queue"]), Vec::<String>::new());
}

#[test]
fn only_one_room_asks_name_servers() {
    assert_eq!(strangers(&["hickory"], &["src/dns"]), Vec::<String>::new());
}

#[test]
fn only_actors_and_the_composition_root_know_actix_actors() {
    let rooms = ["src/actors", "src/app", "src/http/api"];
    assert_eq!(strangers(&["actix::", "use actix;"], &rooms), Vec::<String>::new());
}

#[test]
fn only_the_front_door_knows_actix_web() {
    // The registry mirror speaks HTTP to builds, on a unix socket; `serve` gives the runtime.
    let rooms = ["src/http", "src/app", "src/sandbox/mirror", "src/cli/serve.rs"];
    assert_eq!(strangers(&["actix_web"], &rooms), Vec::<String>::new());
}

#[test]
fn the_domain_knows_no_framework_and_no_other_room() {
    let foreign = ["actix", "sea_orm", "async_nats", "reqwest", "tokio", "object_store"];
    for (path, text) in sources("src/domain") {
        let code = code(&text);
        for word in foreign {
            assert!(!code.contains(&format!("{word}::")), "{} knows {word}", path.display());
        }
        for line in code.lines().filter(|l| l.contains("crate::")) {
            assert!(line.contains("crate::domain"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn the_hot_path_asks_no_actor_store_queue_or_use_case() {
    for folder in ["src/routing", "src/http/edge", "src/runtime"] {
        for (path, text) in sources(folder) {
            let code = code(&text);
            for room in ["actors", "store::", "queue", "control", "blobs", "pipeline"] {
                let named = format!("crate::{room}");
                assert!(!code.contains(&named), "{} names {named}", path.display());
            }
        }
    }
}

#[test]
fn the_toolchain_knows_no_deployment() {
    for (path, text) in sources("src/toolchain") {
        for line in code(&text).lines().filter(|l| l.contains("crate::")) {
            let known = ["crate::sandbox::mirror", "crate::process"].iter().any(|room| line.contains(room));
            assert!(known, "{}: {line}", path.display());
        }
    }
}

#[test]
fn statuses_of_errors_stand_in_one_file() {
    let words = [
        "StatusCode::BAD",
        "StatusCode::NOT_FOUND",
        "StatusCode::FORBIDDEN",
        "StatusCode::UNAUTHORIZED",
        "StatusCode::CONFLICT",
        "StatusCode::PAYLOAD",
        "StatusCode::INTERNAL",
        "StatusCode::UNSUPPORTED",
        "StatusCode::TOO_MANY",
        "HttpResponse::BadRequest",
        "HttpResponse::InternalServerError",
    ];
    // The surface recognises what the framework refused; a site's own 404 page and ranges have their
    // statuses; the clients read what servers answered; mirror and egress proxy answer to builds, not to users;
    // and the routes for tests are nobody else's.
    let rooms = [
        "src/http/problem.rs",
        "src/http/surface.rs",
        "src/http/edge/site.rs",
        "src/http/edge/tests.rs",
        "src/cli",
        "src/sandbox/mirror",
        "src/sandbox/egress",
        "src/sandbox/remote",
        "src/app/testing.rs",
    ];
    assert_eq!(strangers(&words, &rooms), Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_owns_and_stays_readable() {
    for folder in ["src", "entity/src", "migration/src", "tests"] {
        for (path, text) in sources(folder) {
            assert!(text.starts_with("//!"), "{} does not say what it owns", path.display());
            let lines = text.lines().count();
            assert!(lines <= 450, "{} has {lines} lines; split it by what it owns", path.display());
        }
    }
}

#[test]
fn the_control_plane_has_no_shell() {
    let shells = ["\"sh\"", "\"bash\"", "sh -c"];
    assert_eq!(strangers(&shells, &[]), Vec::<String>::new());
}

/// A page that says "this test" must not say it of one that is gone.
#[test]
fn every_test_that_the_pipelines_page_names_exists() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let page = std::fs::read_to_string(root.join("docs/pipeline.md")).unwrap();
    let all: Vec<(PathBuf, String)> = [sources("src"), sources("tests")].concat();
    let mut named = 0;
    for name in page.split('`').filter(|word| word.contains("::")) {
        let (place, test) = name.rsplit_once("::").unwrap();
        let module = place.rsplit("::").find(|part| *part != "tests").unwrap();
        let exists = all.iter().any(|(path, text)| {
            path.file_stem().is_some_and(|stem| stem == module)
                && (test.is_empty() || text.contains(&format!("fn {test}(")))
        });
        assert!(exists, "{name}");
        named += 1;
    }
    assert!(named > 20, "{named}");
}
