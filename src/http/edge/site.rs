//! Owns the answer of a static site to one request: which file, which copy, which part of it, or why not.
//! Never waits for anything but the disk, and only where the body is not in memory.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use crate::http::edge::{Body, conditional, describe, negotiate, range};
use crate::routing::EdgeRefusal;
use crate::runtime::cache::{Body as Held, etag};
use crate::runtime::lookup::Intent;
use crate::runtime::site::Extent;
use crate::runtime::site_rules::{self, Location};
use crate::runtime::{BodyCache, Decision, Encoding, File, Found, ReadError, SiteVersion, decide, find};

/// With the file behind the answer, where there is one.
pub(super) type Answer<'v> = (Result<Response<Body>, EdgeRefusal>, Option<File<'v>>);

/// What is asked of the site.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'r> {
    pub method: &'r Method,
    pub path: &'r str,
    pub query: Option<&'r str>,
    pub headers: &'r HeaderMap,
    /// Where the site's own paths begin on the host that the client sees; empty at the host's top.
    pub prefix: &'r str,
    /// The connection can let the system send parts of files.
    pub takes_files: bool,
    /// A deployment's probe asks for the files themselves, whatever the site's rules say.
    pub ignores_rules: bool,
}

pub(super) async fn answer<'v>(
    asked: &Asked<'_>,
    cache: &Arc<BodyCache>,
    version: &'v Arc<SiteVersion>,
) -> Answer<'v> {
    if !matches!(*asked.method, Method::GET | Method::HEAD) {
        return (Err(EdgeRefusal::MethodNotAllowed), None);
    }
    let path = asked.path;
    let wants = || intent(asked.headers);
    let found = if asked.ignores_rules {
        find(version, path, wants)
    } else {
        match decide(version, path, asked.query, wants) {
            Decision::Found(found) => found,
            Decision::Redirect(to) => return (Ok(redirect_by_rule(asked, &to)), None),
        }
    };
    let (file, status) = match found {
        Found::File(file) => (file, StatusCode::OK),
        Found::NotFoundPage(file) => (file, StatusCode::NOT_FOUND),
        Found::AddSlash => return (Ok(redirect(asked, &format!("./{}/", last_segment(path)))), None),
        Found::DropSlash => return (Ok(redirect(asked, &format!("../{}", last_segment(path)))), None),
        Found::Nothing => return (Err(EdgeRefusal::FileNotFound), None),
    };
    let sending = Sending { asked, cache, version, file };
    let mut result = match status {
        StatusCode::OK => sending.file().await,
        _ => sending.not_found_page().await,
    };
    if let (Ok(response), Some(rules)) = (&mut result, version.rules()) {
        rules.apply_headers(path, response.headers_mut());
    }
    (result.map_err(|error| refusal(&error)), Some(file))
}

/// One file on its way to one client.
struct Sending<'r> {
    asked: &'r Asked<'r>,
    cache: &'r Arc<BodyCache>,
    version: &'r Arc<SiteVersion>,
    file: File<'r>,
}

impl Sending<'_> {
    async fn file(&self) -> Result<Response<Body>, ReadError> {
        let headers = self.asked.headers;
        let encoding = negotiate::choose(headers, self.file);
        if headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_UNMODIFIED_SINCE) {
            // A range is always of the file as it was built, so that tag is good too.
            let tags = [etag(self.file, encoding), etag(self.file, Encoding::Identity)];
            if conditional::is_another(headers, &tags, self.version.created_at_seconds()) {
                return Ok(answer_with(StatusCode::PRECONDITION_FAILED, Body::empty()));
            }
        }
        if headers.contains_key(header::IF_NONE_MATCH) || headers.contains_key(header::IF_MODIFIED_SINCE) {
            let tag = etag(self.file, encoding);
            if conditional::is_unchanged(headers, &tag, self.version.created_at_seconds()) {
                return Ok(self.not_modified(tag));
            }
        }
        // RFC 9110 defines ranges for GET alone. They are of the file as it was built, not of a compressed copy.
        if let Some(value) = headers.get(header::RANGE).and_then(|value| value.to_str().ok())
            && *self.asked.method == Method::GET
        {
            let tag = etag(self.file, Encoding::Identity);
            if conditional::range_applies(headers, &tag, self.version.last_modified()) {
                match range::read(value, self.extent(Encoding::Identity).size) {
                    range::Wanted::Whole => {}
                    range::Wanted::Part { start, bytes } => return self.part(start, bytes, tag).await,
                    range::Wanted::Nothing => return Ok(self.unsatisfiable()),
                }
            }
        }
        let (body, tag) = self.body(encoding).await?;
        let mut response = answer_with(StatusCode::OK, body);
        let headers = response.headers_mut();
        describe::write(headers, self.file, encoding);
        describe::write_validators(headers, self.file, tag);
        describe::write_vary(headers, self.file);
        Ok(response)
    }

    /// The site's own page with status 404; it has no tag, because what it describes does not exist.
    async fn not_found_page(&self) -> Result<Response<Body>, ReadError> {
        let encoding = negotiate::choose(self.asked.headers, self.file);
        let (body, _) = self.body(encoding).await?;
        let mut response = answer_with(StatusCode::NOT_FOUND, body);
        let headers = response.headers_mut();
        describe::write(headers, self.file, encoding);
        headers.remove(header::ACCEPT_RANGES);
        headers.insert(header::CACHE_CONTROL, describe::revalidate());
        describe::write_vary(headers, self.file);
        Ok(response)
    }

    fn not_modified(&self, tag: Bytes) -> Response<Body> {
        let mut response = answer_with(StatusCode::NOT_MODIFIED, Body::empty());
        describe::write_validators(response.headers_mut(), self.file, tag);
        describe::write_vary(response.headers_mut(), self.file);
        response
    }

    fn unsatisfiable(&self) -> Response<Body> {
        let mut response = answer_with(StatusCode::RANGE_NOT_SATISFIABLE, Body::empty());
        let size = self.extent(Encoding::Identity).size;
        response.headers_mut().insert(header::CONTENT_RANGE, text(&format!("bytes */{size}")));
        response
    }

    async fn part(&self, start: u64, bytes: u64, tag: Bytes) -> Result<Response<Body>, ReadError> {
        let whole = self.extent(Encoding::Identity);
        let body = if self.is_held(whole) {
            let held = self.held(Encoding::Identity, whole).await?;
            Body::bytes(held.bytes.slice(start as usize..(start + bytes) as usize))
        } else {
            self.part_of_file(Extent { offset: whole.offset + start, size: bytes }).await?
        };
        let mut response = answer_with(StatusCode::PARTIAL_CONTENT, body);
        let headers = response.headers_mut();
        describe::write(headers, self.file, Encoding::Identity);
        describe::write_validators(headers, self.file, tag);
        describe::write_vary(headers, self.file);
        let (end, size) = (start + bytes - 1, whole.size);
        headers.insert(header::CONTENT_RANGE, text(&format!("bytes {start}-{end}/{size}")));
        Ok(response)
    }

    /// The whole body in this encoding, and its tag.
    async fn body(&self, encoding: Encoding) -> Result<(Body, Bytes), ReadError> {
        let extent = self.extent(encoding);
        if *self.asked.method == Method::HEAD {
            return Ok((Body::unsent(extent.size), etag(self.file, encoding)));
        }
        if self.is_held(extent) {
            let held = self.held(encoding, extent).await?;
            return Ok((Body::bytes(held.bytes), held.etag));
        }
        Ok((self.part_of_file(extent).await?, etag(self.file, encoding)))
    }

    async fn held(&self, encoding: Encoding, extent: Extent) -> Result<Held, ReadError> {
        match self.cache.get(self.file, encoding) {
            Some(body) => Ok(body),
            // Boxed, here and below: reading a disk is rare, and its state would make that of every request larger.
            None => Box::pin(self.cache.read(self.version, self.file, encoding, extent)).await,
        }
    }

    /// Whether it is sent from our memory.
    fn is_held(&self, extent: Extent) -> bool {
        self.cache.holds(extent) && !(self.asked.takes_files && self.cache.leaves_to_system(extent))
    }

    async fn part_of_file(&self, part: Extent) -> Result<Body, ReadError> {
        let part = Box::pin(self.cache.part(self.version, part)).await?;
        Ok(Body::file(part, Arc::clone(self.cache)))
    }

    /// `choose` gives only encodings that the file has.
    fn extent(&self, encoding: Encoding) -> Extent {
        self.file.extent(encoding).unwrap_or(Extent { offset: 0, size: 0 })
    }
}

fn answer_with(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn intent(headers: &HeaderMap) -> Intent {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    let accepts_html =
        accepted.any(|line| line.to_str().is_ok_and(|line| line.to_ascii_lowercase().contains("text/html")));
    if accepts_html { Intent::Navigation } else { Intent::Resource }
}

/// 307 like other static hosts: a permanent one would outlive the deployment in browsers. Relative to the request's
/// own folder, so that it also holds under `/dispatch/{worker}/…` and can't lead to another host.
fn redirect(asked: &Asked<'_>, target: &str) -> Response<Body> {
    let query = asked.query.map_or_else(String::new, |query| format!("?{query}"));
    let mut response = answer_with(StatusCode::TEMPORARY_REDIRECT, Body::empty());
    response.headers_mut().insert(header::LOCATION, text(&format!("{target}{query}")));
    response.headers_mut().insert(header::CACHE_CONTROL, describe::revalidate());
    response
}

/// Even a permanent one is asked for again each time: it would outlive the deployment in browsers.
fn redirect_by_rule(asked: &Asked<'_>, to: &site_rules::Redirect) -> Response<Body> {
    let mut response = answer_with(to.status, Body::empty());
    let location = match &to.location {
        Location::Site(path) => text(&format!("{}{path}", asked.prefix)),
        Location::Elsewhere(address) => text(address),
    };
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, describe::revalidate());
    response
}

/// The last segment of a path, still encoded, whether or not a slash follows it.
fn last_segment(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Numbers, and parts of a request line that was parsed as one, always fit into a header.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn refusal(error: &ReadError) -> EdgeRefusal {
    match error {
        ReadError::Overloaded { .. } => EdgeRefusal::Overloaded,
        ReadError::Disk { version, source } => {
            tracing::error!(version.id = %version, error = %source, "a version's bytes could not be read");
            EdgeRefusal::ReadFailed
        }
    }
}
