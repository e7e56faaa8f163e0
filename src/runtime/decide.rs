//! Owns what a site answers to a path when its own rules are asked too: which file, or where to instead.
//! Never answers with anything but the site's own files; a rule's target is looked up like any path.
//!
//! The first line of `_redirects` that matches speaks. A redirect wins over files, as on Cloudflare; a rewrite
//! (200) or a page for "not found" (404) steps in only where no file answers, unless it is forced with `!`, as on
//! Netlify: so `/* /index.html 200` makes a single-page site and hides nothing.

use crate::runtime::lookup::{Found, Intent, find};
use crate::runtime::site::{File, SiteVersion};
use crate::runtime::site_rules::{Redirect, RuleTarget};

/// The answer to a path, rules included.
#[derive(Debug)]
pub enum Decision<'v> {
    Found(Found<'v>),
    Redirect(Redirect),
}

/// `raw_path` and `query` as in the request line; `intent` is asked only where no file answers.
pub fn decide<'v>(
    site: &'v SiteVersion,
    raw_path: &str,
    query: Option<&str>,
    intent: impl Fn() -> Intent,
) -> Decision<'v> {
    let target = site.rules().and_then(|rules| rules.redirect(raw_path, query));
    let page = match target {
        None => None,
        Some(RuleTarget::Redirect(redirect)) => return Decision::Redirect(redirect),
        Some(
            RuleTarget::Rewrite { is_forced: false, .. } | RuleTarget::NotFound { is_forced: false, .. },
        ) if answers(site, raw_path) => None,
        Some(RuleTarget::Rewrite { path, .. }) => shown(site, &path, &intent).map(Found::File),
        Some(RuleTarget::NotFound { path, .. }) => shown(site, &path, &intent).map(Found::NotFoundPage),
    };
    Decision::Found(page.unwrap_or_else(|| find(site, raw_path, intent)))
}

/// Whether a file answers: not a page for "not found", and not the shell that answers for everything.
fn answers(site: &SiteVersion, raw_path: &str) -> bool {
    match find(site, raw_path, || Intent::Resource) {
        Found::File(_) | Found::AddSlash | Found::DropSlash => true,
        Found::NotFoundPage(_) | Found::Nothing => false,
    }
}

/// The file that a path of the site shows. With or without a slash at its end makes no difference here: nobody
/// sees this path.
fn shown<'v>(site: &'v SiteVersion, path: &str, intent: &impl Fn() -> Intent) -> Option<File<'v>> {
    let found = match find(site, path, intent) {
        Found::AddSlash => find(site, &format!("{path}/"), intent),
        Found::DropSlash => find(site, path.trim_end_matches('/'), intent),
        found => found,
    };
    match found {
        Found::File(file) => Some(file),
        Found::AddSlash | Found::DropSlash | Found::NotFoundPage(_) | Found::Nothing => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::test_site::install;

    const ID: &str = "0123456789abcdef";

    async fn told(files: &[(&str, &str)], rules: &str, paths: &[(&str, &str)]) {
        let folder = tempfile::tempdir().unwrap();
        let mut all: Vec<(&str, &[u8])> = files.iter().map(|(path, body)| (*path, body.as_bytes())).collect();
        all.push(("_redirects", rules.as_bytes()));
        let site = install(folder.path(), ID, "blog", &all).await;
        for (target, expected) in paths {
            let (path, query) = target.split_once('?').map_or((*target, None), |(p, q)| (p, Some(q)));
            let told = match decide(&site, path, query, || Intent::Navigation) {
                Decision::Redirect(redirect) => {
                    format!("{} {:?}", redirect.status.as_u16(), redirect.location)
                }
                Decision::Found(Found::File(file)) => file.path().to_owned(),
                Decision::Found(Found::NotFoundPage(file)) => format!("404 {}", file.path()),
                Decision::Found(Found::AddSlash) => "+/".to_owned(),
                Decision::Found(Found::DropSlash) => "-/".to_owned(),
                Decision::Found(Found::Nothing) => "404".to_owned(),
            };
            assert_eq!(told, *expected, "{target}");
        }
    }

    const FILES: &[(&str, &str)] = &[
        ("index.html", "home"),
        ("about.html", "about"),
        ("docs/index.html", "docs"),
        ("app.js", "app"),
        ("404.html", "missing"),
        ("shop/404.html", "sold out"),
    ];

    #[tokio::test]
    async fn redirects_win_over_files_and_rewrites_do_not() {
        let rules = "/about /team\n/app.js /old.js 200\n/app.js /never 301\n/docs/ /about 200!\n/x /docs 200\n\
            /y /docs/index.html/ 200\n/z /about/ 200\n/gone /shop/404 404\n/index.html /about 404!\n/w /nowhere 200";
        let paths = [
            ("/about?a=1", "302 Site(\"/team?a=1\")"),
            ("/app.js", "app.js"),
            ("/docs/", "about.html"),
            ("/docs", "+/"),
            ("/x", "docs/index.html"),
            ("/y", "docs/index.html"),
            ("/z", "about.html"),
            ("/gone", "404 shop/404.html"),
            ("/index.html", "404 about.html"),
            ("/w", "404 404.html"),
            ("/", "index.html"),
        ];
        told(FILES, rules, &paths).await;
    }

    #[tokio::test]
    async fn the_usual_line_of_single_page_sites_hides_nothing() {
        let paths = [
            ("/", "index.html"),
            ("/users/7", "index.html"),
            ("/app.js", "app.js"),
            ("/gone.js", "index.html"),
        ];
        told(FILES, "/* /index.html 200", &paths).await;
    }

    #[tokio::test]
    async fn a_redirect_of_everything_into_a_folder_ends() {
        let files = [("en/index.html", "en"), ("en/about.html", "about"), ("maintenance.html", "soon")];
        let paths = [
            ("/", "302 Site(\"/en/\")"),
            ("/about", "302 Site(\"/en/about\")"),
            ("/en/about", "en/about.html"),
            ("/en/", "en/index.html"),
        ];
        told(&files, "/* /en/:splat 302", &paths).await;
        let paths = [("/x", "302 Site(\"/maintenance.html\")"), ("/maintenance.html", "maintenance.html")];
        told(&files, "/* /maintenance.html", &paths).await;
        // What grows shorter is no circle.
        let paths = [("/blog/x", "301 Site(\"/x\")"), ("/blog/blog/x", "301 Site(\"/blog/x\")")];
        told(&files, "/blog/* /:splat 301", &paths).await;
    }

    #[tokio::test]
    async fn files_of_rules_are_not_shown() {
        let paths = [
            ("/_redirects", "404 404.html"),
            ("/_redirects/", "404 404.html"),
            ("/%5Fredirects", "404 404.html"),
            ("/_headers", "404 404.html"),
            ("/x", "404 404.html"),
        ];
        told(&[FILES, &[("_headers", "/*\n  X-A: b")]].concat(), "/x /_redirects 200!", &paths).await;
    }
}
