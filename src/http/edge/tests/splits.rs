//! What caches between us and a client may keep while two versions are live.

use super::*;
use crate::routing::Split;

const OTHER: &str = "fedcba9876543210fedcba9876543210";

/// Everybody gets the other version, whose asset is the same.
async fn split_site() -> Site {
    let mut site = ordinary_site().await;
    let files: [(&str, &[u8]); 5] = [
        ("index.html", b"other"),
        ("docs/index.html", b"docs"),
        ("404.html", b"nothing"),
        ("assets/index-DiwrgTda.js", b"export {}"),
        ("_headers", b"/*.txt\n  Cache-Control: public, max-age=60\n"),
    ];
    let files = [&files[..], &[("digits.txt", b"0123456789")]].concat();
    let other = test_site::install(site._folder.path(), OTHER, "blog", &files).await;
    let tables = Tables::new();
    tables.publish_worker(WorkerRoute {
        worker: "blog".into(),
        org_id: "o".into(),
        project_id: "p".into(),
        live: Live::Split(Split { live: Arc::clone(&other), other, percent: 100 }.into()),
        epoch: 42,
    });
    tables.workers_are_at(42);
    site.state.tables = Arc::new(tables);
    site
}

#[tokio::test]
async fn what_depends_on_the_cookie_is_kept_by_no_cache_between() {
    let site = split_site().await;
    let cookie = format!("__libra_version={OTHER}");
    let set = format!("{cookie}; Path=/; HttpOnly; SameSite=Lax");
    let revalidate = "private, max-age=0, must-revalidate";
    for (path, status, kept) in [
        ("/", 200, revalidate),
        ("/docs", 307, revalidate),
        ("/nothing", 404, revalidate),
        ("/digits.txt", 200, "private, max-age=60"),
    ] {
        let first = send(&site, get(path)).await;
        assert_eq!((first.status, first.header("set-cookie")), (status, Some(&*set)), "{path}");
        let again = send(&site, get(path).header("cookie", &cookie)).await;
        assert_eq!((again.status, again.header("set-cookie")), (status, None), "{path}");
        for seen in [first, again] {
            assert_eq!(seen.header("cache-control"), Some(kept), "{path}");
            assert!(seen.lines.contains(&"vary: cookie".to_owned()), "{path}: {:?}", seen.lines);
        }
    }
    let tag = send(&site, get("/")).await.header("etag").unwrap().to_owned();
    let unchanged = send(&site, get("/").header("if-none-match", tag)).await;
    assert_eq!((unchanged.status, unchanged.header("set-cookie")), (304, Some(&*set)));
    assert_eq!(
        (unchanged.header("cache-control"), unchanged.header("vary")),
        (Some(revalidate), Some("cookie"))
    );
}

#[tokio::test]
async fn assets_named_by_content_and_refusals_carry_no_cookie() {
    let site = split_site().await;
    let asset = send(&site, get("/assets/index-DiwrgTda.js")).await;
    assert_eq!(asset.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert!(
        !asset.lines.iter().any(|l| l.starts_with("set-cookie") || l == "vary: cookie"),
        "{:?}",
        asset.lines
    );
    let refused = send(&site, get("/").method("POST")).await;
    assert_eq!((refused.status, refused.header("set-cookie")), (405, None));
    let sealed = send(&site, Request::get("/dispatch/blog/").header("host", "libra.localhost")).await;
    assert_eq!((sealed.status, sealed.header("set-cookie"), sealed.header("vary")), (200, None, None));
    assert_eq!(sealed.header("cache-control"), Some("private, max-age=0, must-revalidate"));
}
