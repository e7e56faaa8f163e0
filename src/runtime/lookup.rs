//! Owns which file of a site answers a request path.
//! Never joins a path to a folder: names are looked up in the manifest's list, so nothing can lead out of the site.
//!
//! The order is that of Cloudflare's and Vercel's static hosting: the exact file; `/dir/` → `dir/index.html`;
//! `/about` → `about.html`; `/dir` → redirect to `/dir/` and `/about/` → redirect to `/about` where only the other
//! spelling exists; then the nearest `404.html`; then, for a navigation, the shell of a single-page site.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::runtime::site::{File, SiteVersion};

/// The answer to a path.
#[derive(Debug, Clone, Copy)]
pub enum Found<'v> {
    File(File<'v>),
    /// Same path with a slash at the end.
    AddSlash,
    /// Same path without the slash at the end.
    DropSlash,
    /// The site's own page for "not found".
    NotFoundPage(File<'v>),
    Nothing,
}

/// Whether the client would show the answer as a page: `GET` or `HEAD` that accepts HTML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Navigation,
    Resource,
}

/// What single-page sites answer with where no file does, in order: the page that a build made for it, else
/// the root page. SvelteKit's manual calls it `200.html`, React Router and TanStack Start have names of their own.
const SHELLS: [&str; 4] = ["200.html", "__spa-fallback.html", "_shell.html", "index.html"];

/// `raw_path` is the path of the request line, still percent-encoded, beginning with `/`.
/// `intent` is asked only where no file answers.
pub fn find<'v>(site: &'v SiteVersion, raw_path: &str, intent: impl Fn() -> Intent) -> Found<'v> {
    let Some(path) = decode(raw_path) else {
        return site.file("404.html").map_or(Found::Nothing, Found::NotFoundPage);
    };
    let path: &str = &path;
    if path.is_empty() {
        if let Some(file) = site.file("index.html").or_else(|| shell_of(site)) {
            return Found::File(file);
        }
    } else if let Some(folder) = path.strip_suffix('/') {
        if let Some(file) = file_at(site, path, "index.html") {
            return Found::File(file);
        }
        if !folder.ends_with('/') && (site.file(folder).is_some() || file_at(site, folder, ".html").is_some())
        {
            return Found::DropSlash;
        }
    } else {
        if let Some(file) = site.file(path).or_else(|| file_at(site, path, ".html")) {
            return Found::File(file);
        }
        if file_at(site, path, "/index.html").is_some() {
            return Found::AddSlash;
        }
    }
    missing(site, path, intent)
}

fn missing<'v>(site: &'v SiteVersion, path: &str, intent: impl Fn() -> Intent) -> Found<'v> {
    let mut folder = path;
    // At most one step per segment of a path that the server's header limit bounds.
    while let Some(end) = folder.rfind('/') {
        folder = &folder[..end];
        if let Some(page) = file_at(site, folder, "/404.html") {
            return Found::NotFoundPage(page);
        }
    }
    let own = site.file("404.html");
    let names_a_file = path.rsplit('/').next().is_some_and(|last| last.contains('.'));
    let shell = if names_a_file { None } else { shell_of(site) };
    match (own, shell) {
        // The shell under another name, as for hosts that know nothing else: it is the page, and found.
        (Some(page), Some(shell)) if page.digest() == shell.digest() && intent() == Intent::Navigation => {
            Found::File(shell)
        }
        (Some(page), _) => Found::NotFoundPage(page),
        (None, Some(shell)) if intent() == Intent::Navigation => Found::File(shell),
        (None, _) => Found::Nothing,
    }
}

fn shell_of(site: &SiteVersion) -> Option<File<'_>> {
    SHELLS.iter().find_map(|name| site.file(name))
}

/// The path as the manifest writes it: decoded once, without the first slash.
/// `None` for what no file can be called: an encoded slash or backslash, NUL, bytes that are no UTF-8.
fn decode(raw_path: &str) -> Option<Cow<'_, str>> {
    let raw = raw_path.strip_prefix('/')?;
    if !raw.contains(['%', '\0', '\\']) {
        return Some(Cow::Borrowed(raw));
    }
    let encoded_separator = raw
        .as_bytes()
        .windows(3)
        .any(|code| code[0] == b'%' && matches!(&code[1..], b"2f" | b"2F" | b"5c" | b"5C"));
    if encoded_separator {
        return None;
    }
    let decoded = percent_decode_str(raw).decode_utf8().ok()?;
    (!decoded.contains(['\0', '\\'])).then_some(decoded)
}

/// The file at `front` + `back`, joined on the stack: this runs for every page without its extension.
fn file_at<'v>(site: &'v SiteVersion, front: &str, back: &str) -> Option<File<'v>> {
    let mut joined = [0u8; crate::domain::tree_path::MAX_PATH_BYTES];
    let length = front.len() + back.len();
    joined.get_mut(..front.len())?.copy_from_slice(front.as_bytes());
    joined.get_mut(front.len()..length)?.copy_from_slice(back.as_bytes());
    site.file(std::str::from_utf8(&joined[..length]).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::manifest::{FORMAT, Manifest, ManifestBody, ManifestFile};
    use crate::runtime::site::Encoding;
    use proptest::prelude::*;

    /// Each file differs from the others.
    fn site(paths: &[&str]) -> SiteVersion {
        let of: Vec<(&str, u8)> = paths.iter().copied().zip(0..).collect();
        site_of(&of)
    }

    /// Paths with what stands in the file.
    fn site_of(files: &[(&str, u8)]) -> SiteVersion {
        let mut files = files.to_vec();
        files.sort_unstable();
        let files = files
            .into_iter()
            .map(|(path, content)| ManifestFile {
                path: path.to_owned(),
                digest: hex::encode([content; 32]),
                size: 0,
                media_type: "text/html".to_owned(),
                bodies: vec![ManifestBody { encoding: Encoding::Identity, offset: 0, size: 0 }],
            })
            .collect();
        let manifest = Manifest { version: FORMAT, files, pack_digest: "00".repeat(32), pack_size: 0 };
        SiteVersion::new("v", "w".into(), "/nowhere".into(), 0, &manifest).unwrap()
    }

    fn told(site: &SiteVersion, path: &str) -> String {
        match find(site, path, || Intent::Navigation) {
            Found::File(file) => file.path().to_owned(),
            Found::AddSlash => "+/".to_owned(),
            Found::DropSlash => "-/".to_owned(),
            Found::NotFoundPage(file) => format!("404 {}", file.path()),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn a_site_with_pages_and_its_own_404() {
        let site = site(&[
            "index.html",
            "about.html",
            "docs/index.html",
            "404.html",
            "docs/404.html",
            "a b.txt",
            "ü.txt",
        ]);
        for (path, expected) in [
            ("/", "index.html"),
            ("/index.html", "index.html"),
            ("/about", "about.html"),
            ("/about.html", "about.html"),
            ("/about/", "-/"),
            ("/docs/", "docs/index.html"),
            ("/docs", "+/"),
            ("/a%20b.txt", "a b.txt"),
            ("/%C3%BC.txt", "ü.txt"),
            ("/docs/x/y", "404 docs/404.html"),
            ("/nothing", "404 404.html"),
            ("//docs", "404 404.html"),
            ("//", "404 404.html"),
            ("/docs//", "404 docs/404.html"),
            ("/a%2520b.txt", "404 404.html"),
        ] {
            assert_eq!(told(&site, path), expected, "{path}");
        }
    }

    #[test]
    fn a_single_page_site_falls_back_for_navigations_only() {
        let site = site(&["index.html", "assets/app.js"]);
        assert_eq!(told(&site, "/users/7"), "index.html");
        assert_eq!(told(&site, "/assets/gone.js"), "404");
        assert_eq!(told(&site, "/users/"), "index.html");
        assert!(matches!(find(&site, "/users/7", || Intent::Resource), Found::Nothing));
    }

    #[test]
    fn the_page_that_a_build_made_for_it_answers_for_unknown_paths() {
        for shell in ["200.html", "__spa-fallback.html", "_shell.html"] {
            let prerendered = site(&["index.html", "app.js", shell]);
            assert_eq!(told(&prerendered, "/"), "index.html");
            assert_eq!(told(&prerendered, "/users/7"), shell);
            assert_eq!(told(&prerendered, "/gone.js"), "404");
            // Nothing was prerendered: the shell is the home page too, whoever asks.
            let bare = site(&["404.html", "app.js", shell]);
            assert!(matches!(find(&bare, "/", || Intent::Resource), Found::File(f) if f.path() == shell));
        }
    }

    /// `cp dist/index.html dist/404.html` is in many a build script.
    #[test]
    fn a_shell_that_is_also_the_404_page_is_found() {
        let copied = site_of(&[("404.html", 7), ("index.html", 7)]);
        assert_eq!(told(&copied, "/users/7"), "index.html");
        assert_eq!(told(&copied, "/gone.js"), "404 404.html");
        assert!(matches!(find(&copied, "/users/7", || Intent::Resource), Found::NotFoundPage(_)));
        let own = site_of(&[("404.html", 8), ("index.html", 7)]);
        assert_eq!(told(&own, "/users/7"), "404 404.html");
    }

    #[test]
    fn hostile_paths_find_nothing() {
        let site = site(&["index.html", "etc/passwd"]);
        for path in [
            "/..%2fetc/passwd",
            "/%2e%2e%2Fetc",
            "/etc%2fpasswd",
            "/a%00b",
            "/%ff",
            "/a%5cb",
            "/a\\b",
            "/%00",
            "/etc%5Cpasswd",
            "*",
            "",
        ] {
            assert_eq!(told(&site, path), "404", "{path}");
        }
        assert_eq!(told(&site, "/../etc/passwd.txt"), "404");
        assert_eq!(told(&site, "/%2e%2e/etc/passwd.txt"), "404");
    }

    proptest! {
        #[test]
        fn no_path_panics_and_what_is_found_is_in_the_site(path in "/[a-z%0-9/.]{0,40}") {
            let site = site(&["index.html", "a/index.html", "b.html"]);
            if let Found::File(file) | Found::NotFoundPage(file) = find(&site, &path, || Intent::Navigation) {
                prop_assert!(site.file(file.path()).is_some());
            }
        }
    }
}
