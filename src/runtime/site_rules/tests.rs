//! What the two files promise, tried with the lines that people and attackers write.

use http::HeaderMap;
use proptest::prelude::*;

use super::*;

fn redirects(text: &str) -> SiteRules {
    let (rules, report) = SiteRules::parse(Some(text.as_bytes()), None);
    assert_eq!(report.problems(), []);
    *rules.unwrap()
}

fn location(rules: &SiteRules, path: &str, query: Option<&str>) -> Option<(u16, String)> {
    match rules.redirect(path, query)? {
        RuleTarget::Redirect(Redirect { status, location: Location::Site(to) | Location::Elsewhere(to) }) => {
            Some((status.as_u16(), to))
        }
        RuleTarget::Rewrite { path, .. } => Some((200, path)),
        RuleTarget::NotFound { path, .. } => Some((404, path)),
    }
}

/// The problems of a `_redirects` file, as a user reads them.
fn refused(text: &str) -> Vec<String> {
    SiteRules::parse(Some(text.as_bytes()), None).1.lines().collect()
}

#[test]
fn lines_lead_where_they_say() {
    let rules = redirects(
        "# a comment\n\
        /home            /                      # and one behind a rule\n\
        /old/:id         /new/:id?from=old 301\n\
        /blog/*          https://blog.example/:splat 308\n\
        /both            /first 303\r\n\
        /b*              /second 307\n\
        \t/q\t/t?x=1#f  \n\
        /f               /page#top\n\
        /caf%c3%a9       /bar\n\
        /to              https://example.com\n\
        /app/*           /app.html 200\n\
        /*               /lost.html 404",
    );
    for (path, query, expected) in [
        ("/home", None, Some((302, "/"))),
        ("/home", Some("a=1&b"), Some((302, "/?a=1&b"))),
        ("/old/7", None, Some((301, "/new/7?from=old"))),
        ("/old/7", Some("a=1"), Some((301, "/new/7?from=old"))),
        ("/blog/2026/x", Some("a"), Some((308, "https://blog.example/2026/x?a"))),
        ("/both", None, Some((303, "/first"))),
        ("/bath", None, Some((307, "/second"))),
        ("/q", Some("y"), Some((302, "/t?x=1#f"))),
        ("/f", Some("y"), Some((302, "/page?y#top"))),
        ("/café", None, Some((302, "/bar"))),
        ("/to", None, Some((302, "https://example.com/"))),
        ("/app/x", None, Some((200, "/app.html"))),
        ("/home/", None, Some((404, "/lost.html"))),
    ] {
        let told = location(&rules, path, query);
        assert_eq!(told.as_ref().map(|(status, to)| (*status, &**to)), expected, "{path} {query:?}");
    }
}

#[test]
fn what_is_captured_names_no_other_host_and_no_header() {
    let rules = redirects("/r/* /:splat\n/s/* /:splat/x/");
    for path in [
        "/r//evil.example",
        "/r////evil.example/x",
        "/r/%2f/evil.example",
        "/r/\\evil.example",
        "/s//evil.example",
    ] {
        let (_, to) = location(&rules, path, None).unwrap();
        assert!(to.starts_with('/') && !to.starts_with("//") && !to.contains('\\'), "{path}: {to}");
    }
    let rules = redirects("/go/* https://example.com/:splat\n/bare/* https://example.com?u=:splat");
    for path in ["/go/@evil.example", "/go/.evil.example", "/go/%0d%0aX-A:%20b", "/bare/.evil.example"] {
        let (_, to) = location(&rules, path, Some("x=%0d%0a")).unwrap();
        assert!(to.starts_with("https://example.com/"), "{path}: {to}");
        assert!(!to.contains(['\r', '\n', ' ']), "{path}: {to:?}");
    }
}

#[test]
fn lines_that_cannot_be_used_are_named_and_the_others_hold() {
    let text = "/a\n/b /c 418\n/d ftp://x/\n/e //x.example\n/f https://x.example/ 200\n/g /g\n/h /i Country=us\n\
        /j id=:id /k/:id 301\n/l https://:m.example/\n/n/:m https://x.example:m/\nhttps://o.example/* /p\n\
        /q /r\n/q /s\n/*/* /t\n/u https://user@x.example/\n/v javascript:alert(1)\n/w /x 200?\n/y https://b\u{fc}cher.example/";
    let lines = refused(text);
    let numbers: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(
        numbers,
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "14", "15", "16", "17", "18", "13"]
    );
    assert_eq!(
        lines[4],
        "line 5 of _redirects is left out: 200 and 404 show files of this site; another host is never fetched"
    );
    assert_eq!(lines[16], "line 13 of _redirects is left out: line 12 has the same path and comes first");
    let (rules, _) = SiteRules::parse(Some(text.as_bytes()), None);
    assert_eq!(location(&rules.unwrap(), "/q", None), Some((302, "/r".to_owned())));
}

#[test]
fn bounds_hold_and_are_told() {
    let long = format!("/{} /x\n/y /z", "a".repeat(1_000));
    assert_eq!(refused(&long), ["line 1 of _redirects is left out: it has more than 1000 characters"]);
    assert_eq!(refused("/a\u{7} /b"), ["line 1 of _redirects is left out: it contains a control character"]);
    assert_eq!(refused("/a\r/b /c"), ["line 1 of _redirects is left out: it contains a control character"]);
    let (rules, report) = SiteRules::parse(Some(b"\xef\xbb\xbf/a /b\n/\xff /c"), None);
    assert_eq!(report.lines().count(), 1);
    assert!(rules.unwrap().redirect("/a", None).is_some());

    let many: String = (0..2_010).map(|at| format!("/a{at} /b\n")).collect();
    let (rules, report) = SiteRules::parse(Some(many.as_bytes()), None);
    assert_eq!((report.problems().len(), report.more()), (10, 0));
    let rules = rules.unwrap();
    assert!(rules.redirect("/a1999", None).is_some() && rules.redirect("/a2000", None).is_none());
    assert!(rules.memory_bytes() < 400_000, "{}", rules.memory_bytes());

    let many: String = (0..130).map(|at| format!("/a{at}/* /b\n")).collect();
    let (rules, report) = SiteRules::parse(Some(many.as_bytes()), None);
    assert_eq!((report.problems().len(), report.more()), (20, 10));
    assert!(rules.unwrap().redirect("/a100/x", None).is_none());

    let huge = "/a /b\n".repeat(MAX_FILE_BYTES / 6 + 10);
    let (rules, report) = SiteRules::parse(Some(huge.as_bytes()), Some(huge.as_bytes()));
    assert!(rules.is_some() && report.more() > 0);
}

#[test]
fn a_hostile_file_makes_no_request_slow_and_no_answer_large() {
    // Each pattern fits up to its end, and each target repeats all that was captured.
    let rule = format!("/*{}z /{}\n", "a/".repeat(100), ":splat".repeat(120));
    let rules = redirects(&rule.repeat(100));
    let path = format!("/{}", "a/".repeat(16_000));
    let started = std::time::Instant::now();
    assert_eq!(rules.redirect(&path, None), None);
    let amplified = format!("{path}{}z", "a/".repeat(100));
    assert_eq!(rules.redirect(&amplified, None), None, "a target of megabytes is not used");
    // A hundred times what an idle machine takes for it.
    assert!(started.elapsed() < std::time::Duration::from_millis(500), "{:?}", started.elapsed());

    let block = format!("/*\n{}", "  X-A: :splat:splat:splat\n".repeat(50));
    let (rules, report) = SiteRules::parse(None, Some(block.repeat(100).as_bytes()));
    assert_eq!(report.problems(), []);
    let mut headers = HeaderMap::new();
    rules.unwrap().apply_headers(&format!("/{}", "a".repeat(500)), &mut headers);
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(!headers.is_empty() && bytes <= 16 << 10, "{bytes}");
}

fn applied(text: &str, path: &str) -> Vec<String> {
    let (rules, report) = SiteRules::parse(None, Some(text.as_bytes()));
    assert_eq!(report.problems(), []);
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", "ours".parse().unwrap());
    headers.insert("vary", "accept-encoding".parse().unwrap());
    rules.unwrap().apply_headers(path, &mut headers);
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn matching_blocks_add_up_in_order() {
    let text = "# everywhere\n/*\n  X-Frame-Options: DENY\n  Cache-Control: no-store\n  Vary: Accept\n\n\
        /docs/:page\n  Link: </:page.css>; rel=preload\n  Cache-Control: private\n\n\
        /docs/open\n  ! X-Frame-Options\n/raw\n! cache-control";
    insta::assert_snapshot!(applied(text, "/docs/open").join("\n"), @r"
    cache-control: no-store
    cache-control: private
    link: </open.css>; rel=preload
    vary: Accept
    vary: accept-encoding
    ");
    insta::assert_snapshot!(applied(text, "/raw").join("\n"), @r"
    vary: Accept
    vary: accept-encoding
    x-frame-options: DENY
    ");
}

#[test]
fn headers_of_the_platform_and_broken_lines_are_refused() {
    let text = "X-Early: 1\n/a\n  Content-Length: 5\n  transfer-encoding: chunked\n  X-Request-Id: x\n  X-Libra-Version: 1\n\
        \x20 ETag: \"x\"\n  ! Vary\n  ! Date\n  no colon\n  b\u{fc}: 1\n  X-Empty:\n  X-Umlaut: \u{fc}\n/b\nhttps://x.example/c\n  X-Gone: 1\n/d\n  X-D: 1";
    let (rules, report) = SiteRules::parse(None, Some(text.as_bytes()));
    let lines: Vec<String> = report.lines().collect();
    let numbers: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(numbers, ["1", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]);
    assert_eq!(lines[1], "line 3 of _headers is left out: the header content-length belongs to the platform");
    let mut headers = HeaderMap::new();
    let rules = rules.unwrap();
    for path in ["/a", "/b", "/c"] {
        rules.apply_headers(path, &mut headers);
    }
    assert!(headers.is_empty(), "{headers:?}");
    rules.apply_headers("/d", &mut headers);
    assert_eq!(headers["x-d"], "1");
}

#[test]
fn a_site_without_rules_has_none() {
    for text in [None, Some(&b""[..]), Some(b"# nothing\n\n"), Some(b"/broken")] {
        assert!(SiteRules::parse(text, text).0.is_none());
    }
}

proptest! {
    #[test]
    fn no_file_and_no_path_panics_and_every_answer_fits_into_headers(
        redirects in "((/|\\*|:a|:splat|x|https://h|/[a-z]{1,3}| |\n| 301| 200!|\\PC){0,12}\n){0,4}",
        headers in "(/(\\*|:a)?\n( [A-Za-z-]{1,8}: ?(:splat|:a|\\PC){0,4}\n){0,2}){0,3}",
        path in "/(/|:|%|x|a|[a-z]{1,3}|\\PC){0,10}",
        query in proptest::option::of("\\PC{0,10}"),
    ) {
        let (rules, _) = SiteRules::parse(Some(redirects.as_bytes()), Some(headers.as_bytes()));
        let Some(rules) = rules else { return Ok(()) };
        rules.apply_headers(&path, &mut HeaderMap::new());
        if let Some(RuleTarget::Redirect(redirect)) = rules.redirect(&path, query.as_deref()) {
            match redirect.location {
                Location::Site(to) => {
                    prop_assert!(to.starts_with('/') && !to.starts_with("//"));
                    prop_assert!(to.bytes().all(|byte| byte.is_ascii_graphic()) && !to.contains('\\'));
                }
                Location::Elsewhere(to) => {
                    prop_assert!(to.starts_with("https://h/") || to.starts_with("http"));
                    prop_assert!(to.bytes().all(|byte| byte.is_ascii_graphic()));
                }
            }
        }
    }
}
