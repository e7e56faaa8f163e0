//! What a client sees of a site's `_redirects` and `_headers`.

use super::*;

const REDIRECTS: &str = "/ /home\n/old/* /new/:splat 301\n/away https://example.com/x 308\n/app/* /about 200\n\
    /gone /about.html 404\n/about /team\n/docs/ /team 200!";
const HEADERS: &str = "/*\n  X-Frame-Options: DENY\n  Set-Cookie: a=b; Domain=libra.localhost\n  Set-Cookie: c=d\n\
    /assets/*\n  Cache-Control: public, max-age=60\n  Access-Control-Allow-Origin: *\n/digits.txt\n  Content-Type: text/x-digits\n  ! Last-Modified";

async fn ruled_site() -> Site {
    let script = "export const answer = 42;\n".repeat(100);
    site(&[
        ("_headers", HEADERS.as_bytes()),
        ("_redirects", REDIRECTS.as_bytes()),
        ("404.html", b"nothing here"),
        ("about.html", b"about"),
        ("assets/app.js", script.as_bytes()),
        ("digits.txt", b"0123456789"),
        ("docs/index.html", b"docs"),
        ("index.html", PAGE.as_bytes()),
        ("team.html", b"team"),
    ])
    .await
}

#[tokio::test]
async fn redirects_and_rewrites_are_answered_and_the_files_of_rules_are_not_shown() {
    let site = ruled_site().await;
    for (path, status, told) in [
        ("/?a=1", 302, "/home?a=1"),
        ("/old/a/b?c", 301, "/new/a/b?c"),
        ("/old//evil.example", 301, "/new//evil.example"),
        ("/away", 308, "https://example.com/x"),
        ("/about", 302, "/team"),
        ("/app/x/y", 200, "about"),
        ("/docs/", 200, "team"),
        ("/gone", 404, "about"),
        ("/digits.txt", 200, "0123456789"),
        ("/_redirects", 404, "nothing here"),
        ("/_headers", 404, "nothing here"),
    ] {
        let seen = send(&site, get(path)).await;
        let body = String::from_utf8(seen.body.clone()).unwrap();
        assert_eq!((seen.status, seen.header("location").unwrap_or(&body)), (status, told), "{path}");
        let is_page = matches!(seen.status, 200 | 404);
        assert_eq!(seen.header("x-frame-options"), is_page.then_some("DENY"), "{path}");
    }
    let posted = send(&site, Request::post("/old/x").header("host", HOST)).await;
    assert_eq!(posted.status, 405);
}

#[tokio::test]
async fn headers_of_a_site_reach_its_own_answers_and_nobody_elses_host() {
    let site = ruled_site().await;
    let script = send(&site, get("/assets/app.js").header("accept-encoding", "br")).await;
    insta::assert_snapshot!(
        script.lines.iter().filter(|l| !l.starts_with("etag")).cloned().collect::<Vec<_>>().join("\n"), @r"
    access-control-allow-origin: *
    cache-control: public, max-age=60
    content-encoding: br
    content-type: text/javascript; charset=utf-8
    last-modified: Sun, 06 Nov 1994 08:49:37 GMT
    set-cookie: c=d
    vary: accept-encoding
    x-content-type-options: nosniff
    x-frame-options: DENY
    x-request-id: r1
    ");
    let tag = script.header("etag").unwrap();
    let again = get("/assets/app.js").header("accept-encoding", "br").header("if-none-match", tag);
    let again = send(&site, again).await;
    assert_eq!((again.status, again.header("cache-control")), (304, Some("public, max-age=60")));
    let digits = send(&site, get("/digits.txt").header("range", "bytes=0-1")).await;
    assert_eq!((digits.status, digits.header("content-type")), (206, Some("text/x-digits")));
    assert!(digits.header("last-modified").is_some(), "a validator is not the site's to remove");
    // On the platform's own origin all of it is sealed.
    let sealed =
        send(&site, Request::get("/dispatch/blog/assets/app.js").header("host", "libra.localhost")).await;
    assert_eq!((sealed.status, sealed.header("set-cookie")), (200, None));
    assert_eq!(sealed.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_redirect_stays_with_its_worker_on_the_platforms_own_host() {
    let site = ruled_site().await;
    for (path, location) in [
        ("/dispatch/blog/old/x?a", "/dispatch/blog/new/x?a"),
        ("/api/dispatch/blog/about", "/api/dispatch/blog/team"),
        ("/dispatch/blog", "/dispatch/blog/home"),
        ("/dispatch/blog/", "/dispatch/blog/home"),
        ("/dispatch?worker=blog&a=1", "/dispatch/blog/home?a=1"),
        ("/dispatch/blog/away", "https://example.com/x"),
    ] {
        let seen = send(&site, Request::get(path).header("host", "libra.localhost")).await;
        assert_eq!(seen.header("location"), Some(location), "{path}");
    }
}

#[tokio::test]
async fn a_probe_gets_the_file_whatever_the_rules_say() {
    let site = ruled_site().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = probe::sign(&site.state.probe_key, now, "n1", HOST, "/");
    let seen = send(&site, get("/").header(probe::HEADER, signed)).await;
    let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(PAGE));
    assert_eq!((seen.status, seen.header("x-libra-digest")), (200, Some(&*digest)));
    assert_eq!(send(&site, get("/").header(probe::HEADER, "v1.0.0")).await.status, 302);
}
