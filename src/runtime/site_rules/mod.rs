//! Owns a site's own rules: `_redirects` and `_headers`, read once and asked for each request.
//! Never fails for what stands in the files: a line that can't be used is left out and named in the [`Report`].
//! Never fetches anything, and never names another host but in a redirect.
//!
//! The subset of Cloudflare's and Netlify's files that is understood stands in docs/static-sites.md.
//! Bounds hold for hostile files too: exact paths are found by binary search, patterns are few and are
//! matched in one pass without going back, and what a rule makes of a path is bounded.

mod headers;
mod pattern;
mod redirects;
mod report;
#[cfg(test)]
mod tests;
mod text;

use http::HeaderMap;

pub use redirects::{Location, Redirect, RuleTarget};
pub use report::{Problem, ProblemKind, Report};

/// The files' places, at the top of the site. Neither is served.
pub const REDIRECTS_FILE: &str = "_redirects";
pub const HEADERS_FILE: &str = "_headers";
/// Bytes of one file that are read; what stands behind is left out.
pub const MAX_FILE_BYTES: usize = 256 * 1024;

/// Whether this is a file of rules, which no address shows.
pub fn is_rules_file(path: &str) -> bool {
    path == REDIRECTS_FILE || path == HEADERS_FILE
}

/// The rules of one version.
#[derive(Debug)]
pub struct SiteRules {
    redirects: redirects::Redirects,
    headers: headers::Headers,
}

impl SiteRules {
    /// Reads both files; `None` where neither leaves a rule.
    pub fn parse(redirects: Option<&[u8]>, headers: Option<&[u8]>) -> (Option<Box<SiteRules>>, Report) {
        let mut report = Report::default();
        let redirects = redirects::Redirects::parse(redirects.unwrap_or_default(), &mut report);
        let headers = headers::Headers::parse(headers.unwrap_or_default(), &mut report);
        let is_empty = redirects.is_empty() && headers.is_empty();
        ((!is_empty).then(|| Box::new(SiteRules { redirects, headers })), report)
    }

    /// What the first matching rule of `_redirects` says. `path` is that of the request line, still
    /// percent-encoded.
    pub fn redirect(&self, path: &str, query: Option<&str>) -> Option<RuleTarget> {
        self.redirects.find(&text::path(path), query)
    }

    /// Adds, replaces and removes what `_headers` says for this path of a request line.
    pub fn apply_headers(&self, path: &str, headers: &mut HeaderMap) {
        self.headers.apply(&text::path(path), headers);
    }

    /// Whether [`SiteRules::apply_headers`] can do anything at all.
    pub fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    /// Bytes of memory the rules take, without the allocator's own share.
    pub fn memory_bytes(&self) -> usize {
        size_of::<SiteRules>() + self.redirects.heap_bytes() + self.headers.heap_bytes()
    }
}
