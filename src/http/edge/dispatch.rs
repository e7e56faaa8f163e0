//! Owns reading which Worker a path or query of the platform's own host names, and what of it the Worker sees.
//! Never decodes or normalises: the Worker gets the rest of the path as the client wrote it.

use std::borrow::Cow;

use http::Method;

use crate::routing::EdgeRefusal;

/// How a request found its Worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    Subdomain,
    CustomDomain,
    Path,
    Query,
}

impl Strategy {
    /// The word for logs and for `X-Routing-Strategy`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subdomain => "subdomain",
            Self::CustomDomain => "custom_domain",
            Self::Path => "path",
            Self::Query => "query",
        }
    }

    /// Whether many tenants share the origin that the browser sees.
    pub const fn is_on_platform_origin(self) -> bool {
        matches!(self, Self::Path | Self::Query)
    }
}

/// A Worker named in the target.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'r> {
    /// In lower case, not yet checked against any rule.
    pub worker: Cow<'r, str>,
    pub strategy: Strategy,
    pub path: &'r str,
    pub query: Option<Cow<'r, str>>,
}

/// `None` where the target names no Worker and is the control surface's to answer.
pub fn find<'r>(
    method: &Method,
    path: &'r str,
    query: Option<&'r str>,
) -> Result<Option<Found<'r>>, EdgeRefusal> {
    let Some(rest) = rest(path) else { return Ok(None) };
    match rest.strip_prefix('/') {
        Some("") => by_query(method, query),
        Some(rest) => {
            let (worker, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
            let query = query.map(Cow::Borrowed);
            Ok(Some(Found { worker: lower(worker.into()), strategy: Strategy::Path, path, query }))
        }
        None if rest.is_empty() => by_query(method, query),
        None => Ok(None),
    }
}

/// By what a path of the platform's own host would lead to a Worker, if it would.
pub fn strategy(path: &str) -> Option<Strategy> {
    match rest(path)?.strip_prefix('/') {
        Some("") => Some(Strategy::Query),
        Some(_) => Some(Strategy::Path),
        None => path.ends_with("dispatch").then_some(Strategy::Query),
    }
}

fn rest(path: &str) -> Option<&str> {
    path.strip_prefix("/dispatch").or_else(|| path.strip_prefix("/api/dispatch"))
}

/// Whether a query names a Worker, be it more than one.
pub fn names_worker(query: &str) -> bool {
    query.split('&').any(is_worker)
}

/// Compared as whoever decodes the query reads it.
fn is_worker(pair: &str) -> bool {
    let key = pair.split('=').next().unwrap_or_default();
    key == "worker" || key.contains('%') && percent_encoding::percent_decode_str(key).eq(*b"worker")
}

fn by_query<'r>(method: &Method, query: Option<&'r str>) -> Result<Option<Found<'r>>, EdgeRefusal> {
    let pairs = query.unwrap_or_default().split('&');
    let mut named = pairs.clone().filter(|pair| is_worker(pair));
    let Some(worker) = named.next() else {
        // Who only asks what there is gets the namespace document.
        return match *method {
            Method::GET | Method::HEAD => Ok(None),
            _ => Err(EdgeRefusal::WorkerNotNamed),
        };
    };
    if named.next().is_some() {
        return Err(EdgeRefusal::WorkerNamedTwice);
    }
    let worker = worker.split_once('=').map_or("", |(_, value)| value);
    // A form writes what a name can't have anyway; decoded, the message says so.
    let worker = percent_encoding::percent_decode_str(worker).decode_utf8_lossy();
    let left: Vec<&str> = pairs.filter(|pair| !is_worker(pair)).collect();
    let query = (!left.is_empty()).then(|| Cow::Owned(left.join("&")));
    Ok(Some(Found { worker: lower(worker), strategy: Strategy::Query, path: "/", query }))
}

fn lower(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop, prop_assert, proptest};

    fn found(path: &str, query: Option<&str>) -> Option<String> {
        let found = find(&Method::GET, path, query).unwrap()?;
        let query = found.query.map_or_else(String::new, |q| format!("?{q}"));
        Some(format!("{} {} {}{query}", found.strategy.as_str(), found.worker, found.path))
    }

    #[test]
    fn the_worker_sees_the_rest() {
        for (path, query, expected) in [
            ("/dispatch/blog", None, Some("path blog /")),
            ("/dispatch/Blog/", None, Some("path blog /")),
            ("/dispatch/blog/a/b%2fc", Some("d=e&worker=f"), Some("path blog /a/b%2fc?d=e&worker=f")),
            ("/api/dispatch/blog//a", None, Some("path blog //a")),
            ("/dispatch/a%20b/c", None, Some("path a%20b /c")),
            ("/dispatch", Some("worker=Blog"), Some("query blog /")),
            ("/dispatch/", Some("worker=blog&a=b&&c"), Some("query blog /?a=b&&c")),
            ("/api/dispatch", Some("x=1&worker=a%2Fb"), Some("query a/b /?x=1")),
            ("/dispatch", Some("worker"), Some("query  /")),
            ("/dispatch", Some("%77orker=blog&a=b"), Some("query blog /?a=b")),
            ("/dispatch", Some("workers=a"), None),
            ("/dispatch", Some("%57orker=a&worke%=b&wo+rker=c"), None),
            ("/dispatch", None, None),
            ("/dispatcher/blog", None, None),
            ("/api/dispatched", None, None),
            ("/deploy", Some("worker=blog"), None),
        ] {
            assert_eq!(found(path, query).as_deref(), expected, "{path} {query:?}");
        }
    }

    #[test]
    fn two_names_and_none_are_refused() {
        let asked = |method, query| find(&method, "/dispatch", query);
        assert_eq!(asked(Method::GET, Some("worker=a&worker=a")), Err(EdgeRefusal::WorkerNamedTwice));
        for twice in ["worker=a&%77orker=b", "w%6Frke%72=a&worker=b", "%77%6f%72%6b%65%72=a&x&%77orker=a"] {
            assert_eq!(asked(Method::GET, Some(twice)), Err(EdgeRefusal::WorkerNamedTwice), "{twice}");
        }
        assert_eq!(asked(Method::POST, Some("a=b")), Err(EdgeRefusal::WorkerNotNamed));
        assert_eq!(asked(Method::POST, None), Err(EdgeRefusal::WorkerNotNamed));
    }

    proptest! {
        #[test]
        fn the_worker_gets_an_end_of_the_path_and_never_its_own_name_in_the_query(
            front in prop::sample::select(vec!["", "/dispatch", "/api/dispatch", "/dispatch/", "/dispatcher", "//dispatch"]),
            rest in "[a-zA-Z0-9/.%;\\\\-]{0,20}",
            query in prop::option::of("((worker|w%6frker|Worker|workers|a)?=?[a-zA-Z%0-9]{0,4}&?){0,4}"),
        ) {
            let path = format!("{front}{rest}");
            if let Ok(Some(found)) = find(&Method::GET, &path, query.as_deref()) {
                prop_assert!(path.starts_with("/dispatch") || path.starts_with("/api/dispatch"));
                prop_assert!(found.path.starts_with('/') && (found.path == "/" || path.ends_with(found.path)));
                prop_assert!(!found.worker.bytes().any(|byte| byte.is_ascii_uppercase()));
                match found.strategy {
                    Strategy::Query => {
                        let left = found.query.unwrap_or_default();
                        let decoded = percent_encoding::percent_decode_str(&left).decode_utf8_lossy();
                        prop_assert!(!names_worker(&left), "{}", left);
                        prop_assert!(decoded.split('&').all(|pair| pair.split('=').next() != Some("worker")));
                    }
                    _ => prop_assert!(!found.worker.contains('/') && found.query.as_deref() == query.as_deref()),
                }
            }
        }
    }
}
