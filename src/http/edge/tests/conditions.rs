//! Conditions and ranges together: what is sent, what is not, and what is never looked up.

use super::*;

#[tokio::test]
async fn a_client_that_goes_on_with_another_copy_is_told() {
    let site = ordinary_site().await;
    let tag = send(&site, get("/digits.txt")).await.header("etag").unwrap().to_owned();
    for (name, value, status) in [
        ("if-match", tag.as_str(), 206),
        ("if-match", "*", 206),
        ("if-match", "\"other\"", 412),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:37 GMT", 206),
        ("if-unmodified-since", "Sun, 06 Nov 1994 08:49:36 GMT", 412),
    ] {
        let part = send(&site, get("/digits.txt").header(name, value).header("range", "bytes=0-1")).await;
        assert_eq!(part.status, status, "{name}: {value}");
    }
    // 412 comes before 304 (RFC 9110 §13.2.2).
    let both = get("/digits.txt").header("if-match", "\"other\"").header("if-none-match", &tag);
    assert_eq!(send(&site, both).await.status, 412);
}

/// The version is gone from disk: only what asks for no body can still be answered.
#[tokio::test]
async fn a_copy_that_is_still_good_is_told_before_any_body_is_looked_up() {
    let site = ordinary_site().await;
    let tag = {
        let head = send(&site, Request::head("/big.bin").header("host", HOST)).await;
        head.header("etag").unwrap().to_owned()
    };
    std::fs::remove_dir_all(site._folder.path()).unwrap();
    let same = send(&site, get("/big.bin").header("if-none-match", &tag)).await;
    assert_eq!((same.status, same.header("etag")), (304, Some(&*tag)));
    let since = get("/").header("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(send(&site, since).await.status, 304);
    assert_ne!(send(&site, get("/big.bin")).await.status, 200);
}

#[tokio::test]
async fn a_range_is_of_the_file_as_it_was_built_and_for_get_alone() {
    let site = ordinary_site().await;
    let path = "/assets/index-DiwrgTda.js";
    let plain = send(&site, get(path)).await;
    let part = get(path).header("accept-encoding", "br, gzip").header("range", "bytes=0-5");
    let part = send(&site, part).await;
    assert_eq!((part.status, &part.body[..]), (206, &b"export"[..]));
    assert_eq!((part.header("content-encoding"), part.header("vary")), (None, Some("accept-encoding")));
    assert_eq!(part.header("etag"), plain.header("etag"), "the tag of what the part is of");
    let (date, other) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT");
    for (if_range, status) in [(date, 206), (other, 200), ("*", 200)] {
        let req = get("/digits.txt").header("range", "bytes=0-1").header("if-range", if_range);
        assert_eq!(send(&site, req).await.status, status, "{if_range}");
    }
    let head = Request::head("/digits.txt").header("host", HOST).header("range", "bytes=0-1");
    assert_eq!(send(&site, head).await.status, 200);
    // Unchanged comes before the range (RFC 9110 §13.2.2).
    let tag = send(&site, get("/digits.txt")).await.header("etag").unwrap().to_owned();
    let both = get("/digits.txt").header("range", "bytes=0-1").header("if-none-match", tag);
    assert_eq!(send(&site, both).await.status, 304);
}
