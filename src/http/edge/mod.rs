//! Owns answering requests that belong to Workers: by subdomain, custom domain, path and query. HOT.
//! Never names actors, store, queue or control, and writes no error by itself: refusals go to the function it was given.

pub mod body;
pub mod client;
pub mod conditional;
pub mod describe;
pub mod dispatch;
pub mod facts;
pub mod file_body;
mod forward;
mod frames;
pub mod host;
pub mod isolate;
pub mod negotiate;
mod outgoing;
mod proof;
pub mod range;
pub mod rates;
mod refuse;
pub mod request_id;
pub mod secure;
mod site;
mod split;
#[cfg(test)]
mod tests;
pub mod tunnel;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use tokio_util::sync::CancellationToken;

use crate::routing::probe::{self, ProbeKey};
use crate::routing::{BadRequest, EdgeRefusal, HostClass, HostRules, Live, Resolved, Tables, Target};
use crate::runtime::upstream::Upstream;
use crate::runtime::{BodyCache, SiteVersion};

pub use body::{Body, RequestBody};
pub use dispatch::Strategy;
pub use facts::Facts;
pub use host::TrustedProxies;
use proof::Proof;
pub use rates::Rates;
use refuse::{refusal_answer, refuse};
pub use request_id::RequestId;

/// Makes the answer to a refused request; `http/problem.rs` has the one mapping. The flag: a page for a browser.
pub type Refuse = fn(&RequestId, bool, EdgeRefusal) -> Response<Bytes>;

/// What a request needs, made once at start.
#[derive(Debug, Clone)]
pub struct EdgeState {
    pub tables: Arc<Tables>,
    pub rules: Arc<HostRules>,
    pub cache: Arc<BodyCache>,
    pub probe_key: ProbeKey,
    pub trusted_proxies: Arc<TrustedProxies>,
    pub limits: Limits,
    pub secure: Arc<secure::Secure>,
    pub rates: Arc<Rates>,
    /// Told to origins, so that a request which comes back by them is recognised.
    pub loop_mark: HeaderValue,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
    pub refuse: Refuse,
}

/// Bounds of one request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of a request to a Worker.
    pub body_bytes: u64,
    /// `/dispatch/{worker}/…` and `?worker=`.
    pub path_routing: bool,
    /// When sockets are closed from our side: each within this, at a moment of its own.
    pub socket_jitter: Duration,
}

/// What is known of the connection that a request came on.
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// `None` on a unix socket.
    pub peer: Option<SocketAddr>,
    pub is_tls: bool,
    /// It can let the system send parts of files.
    pub takes_files: bool,
}

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    Answered(Response<Body>),
    /// It is for the control surface, under this id.
    Platform(Request<RequestBody>, RequestId),
}

/// Answers a request, or says that the control surface has to. Every answer carries `X-Request-Id` and
/// `X-Content-Type-Options: nosniff`. `bad` is what the connection's guard found.
pub async fn serve(
    request: Request<RequestBody>,
    connection: Connection,
    bad: Option<BadRequest>,
    state: &EdgeState,
    is_saturated: bool,
    facts: &mut Facts,
) -> Outcome {
    let (mut head, body) = request.into_parts();
    let id = RequestId::from_headers(&head.headers);
    let unread = !body.is_empty() && head.version < Version::HTTP_2;
    let aimed = aim(&head, connection, bad, state, facts).and_then(|aim| match aim {
        // Operators must still get in when Workers have filled the house.
        Aim::Worker(_) if is_saturated => Err(EdgeRefusal::Saturated.into()),
        aim => Ok(aim),
    });
    let way = match aimed {
        Ok(Aim::Early(early)) => Way::Answer(early.answer()),
        Ok(Aim::Platform) => {
            facts.is_platform = true;
            return Outcome::Platform(Request::from_parts(head, body), id);
        }
        Ok(Aim::Worker(aimed)) => aimed.way(&head, &id, state, facts).await,
        Err(refused) => Way::Answer(refused.answer(&head, &id, state)),
    };
    let mut response = match way {
        Way::Answer(mut response) => {
            if unread {
                // What was not read can't be told from a next request, so the connection ends.
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
                .headers_mut()
                .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
        Way::Forward(forwarding) => {
            let accept = head.headers.get(header::ACCEPT).cloned();
            let version = head.version;
            match forwarding.send(&mut head, body, &id, state, facts).await {
                Ok(response) => response,
                Err(refusal) => refusal_answer(accept.as_ref(), version, &id, state, refusal),
            }
        }
    };
    let headers = response.headers_mut();
    headers.insert(request_id::NAME, id.into_value());
    // Whatever was answered there: a refusal is on the platform's origin too.
    if facts.strategy.is_some_and(Strategy::is_on_platform_origin) && !isolate::is_sealed(headers) {
        isolate::seal(headers);
    }
    Outcome::Answered(response)
}

/// What is to be done for a request that found its target.
enum Way {
    Answer(Response<Body>),
    Forward(forward::Forwarding),
}

enum Aim<'r> {
    Early(secure::Early),
    Platform,
    Worker(Aimed<'r>),
}

/// A request that found its target.
struct Aimed<'r> {
    target: Target,
    epoch: u64,
    is_probe: bool,
    strategy: Strategy,
    connection: Connection,
    authority: &'r str,
    from_trusted: bool,
    /// What the Worker sees.
    path: &'r str,
    query: Option<std::borrow::Cow<'r, str>>,
}

struct Refused {
    refusal: EdgeRefusal,
    is_probe: bool,
}

impl From<EdgeRefusal> for Refused {
    fn from(refusal: EdgeRefusal) -> Self {
        Self { refusal, is_probe: false }
    }
}

fn aim<'r>(
    head: &'r Parts,
    connection: Connection,
    bad: Option<BadRequest>,
    state: &EdgeState,
    facts: &mut Facts,
) -> Result<Aim<'r>, Refused> {
    if let Some(bad) = bad {
        return Err(EdgeRefusal::Malformed(bad).into());
    }
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(EdgeRefusal::MethodRefused.into());
    }
    let from_trusted = connection.peer.is_some_and(|peer| state.trusted_proxies.contains(peer.ip()));
    let authority = host::authority(head, from_trusted)?;
    let class = state.rules.classify(authority)?;
    let (path, query) = (head.uri.path(), head.uri.query());
    // Behind a proxy that speaks TLS for us, the client's scheme is what it says.
    let proto = head.headers.get("x-forwarded-proto").filter(|_| from_trusted);
    let is_tls = connection.is_tls || proto.is_some_and(|proto| proto == "https");
    let is_probe = is_probe(head, state, &class);
    if let Some(peer) = connection.peer.filter(|_| !is_probe) {
        let lines = head.headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
        // Collected where a proxy is believed only: nobody else's lines are looked at.
        let lines: Vec<&[u8]> = if from_trusted { lines.collect() } else { Vec::new() };
        state.rates.check_client(client::client(peer.ip(), lines.into_iter(), &state.trusted_proxies))?;
    }
    let met = secure::Met { head, connection, from_trusted, authority, class: &class };
    // Our own probes ask each listener as they find it.
    if let Some(early) = (!is_probe).then(|| state.secure.early(&met, &state.rules)).flatten() {
        return Ok(Aim::Early(early));
    }
    let connection = Connection { is_tls, ..connection };
    let strategy = match class {
        HostClass::Platform => {
            return by_path_or_query(head, connection, authority, from_trusted, state, facts);
        }
        HostClass::Worker(_) => Strategy::Subdomain,
        HostClass::Custom(_) => Strategy::CustomDomain,
    };
    facts.strategy = Some(strategy);
    match state.tables.resolve(&state.rules, &class) {
        Ok(Resolved { target, epoch }) => {
            let query = query.map(Into::into);
            Ok(Aim::Worker(Aimed {
                target,
                epoch,
                is_probe,
                strategy,
                connection,
                authority,
                from_trusted,
                path,
                query,
            }))
        }
        Err(refusal) => Err(Refused { refusal, is_probe }),
    }
}

fn by_path_or_query<'r>(
    head: &'r Parts,
    connection: Connection,
    authority: &'r str,
    from_trusted: bool,
    state: &EdgeState,
    facts: &mut Facts,
) -> Result<Aim<'r>, Refused> {
    let Some(found) = dispatch::find(&head.method, head.uri.path(), head.uri.query())? else {
        return Ok(Aim::Platform);
    };
    if !state.limits.path_routing {
        return Ok(Aim::Platform);
    }
    facts.strategy = Some(found.strategy);
    if isolate::is_service_worker(&head.headers) {
        return Err(EdgeRefusal::ServiceWorkerRefused.into());
    }
    let Resolved { target, epoch } = state.tables.resolve_label(&state.rules, &found.worker)?;
    let dispatch::Found { strategy, path, query, .. } = found;
    Ok(Aim::Worker(Aimed {
        target,
        epoch,
        is_probe: false,
        strategy,
        connection,
        authority,
        from_trusted,
        path,
        query,
    }))
}

impl Aimed<'_> {
    async fn way(self, head: &Parts, id: &RequestId, state: &EdgeState, facts: &mut Facts) -> Way {
        facts.epoch = self.epoch;
        if let Target::Worker(route) = &self.target {
            facts.worker = Some(Arc::clone(&route.worker));
            let checked = if self.is_probe { Ok(()) } else { state.rates.check_worker(&route.worker) };
            if let Err(refusal) = checked {
                return Way::Answer(refuse(head, id, state, refusal));
            }
        }
        let (version, sticky) = match &self.target {
            Target::Preview(version) => {
                facts.worker = Some(Arc::clone(version.owner()));
                (Arc::clone(version), None)
            }
            Target::Redirect(to) => {
                facts.is_redirect = true;
                return Way::Answer(redirect(head, self.connection, to));
            }
            Target::Worker(route) => match &route.live {
                Live::Site(version) => (Arc::clone(version), None),
                Live::Split(split) => split::choose(split, &head.headers, self.strategy),
                Live::Upstream(upstream) => {
                    let (upstream, worker) = (Arc::clone(upstream), Arc::clone(&route.worker));
                    return match self.forwarding(head, upstream, worker) {
                        Some(forwarding) => Way::Forward(forwarding),
                        None => Way::Answer(refuse(head, id, state, EdgeRefusal::InvalidHost)),
                    };
                }
                Live::Nothing => return Way::Answer(refuse(head, id, state, EdgeRefusal::WorkerNotFound)),
            },
        };
        facts.version = Some(Arc::clone(&version));
        Way::Answer(self.site_answer(version, sticky, head, id, state).await)
    }

    fn forwarding(
        self,
        head: &Parts,
        upstream: Arc<Upstream>,
        worker: Arc<str>,
    ) -> Option<forward::Forwarding> {
        let target = match self.strategy {
            Strategy::Subdomain | Strategy::CustomDomain => head.uri.path_and_query().cloned(),
            Strategy::Path | Strategy::Query => match &self.query {
                Some(query) => PathAndQuery::try_from(format!("{}?{query}", self.path)).ok(),
                None => PathAndQuery::try_from(self.path).ok(),
            },
        };
        Some(forward::Forwarding {
            upstream,
            worker,
            target: target.unwrap_or_else(|| PathAndQuery::from_static("/")),
            authority: HeaderValue::from_str(self.authority).ok()?,
            strategy: self.strategy,
            from_trusted: self.from_trusted,
            connection: self.connection,
        })
    }

    async fn site_answer(
        self,
        version: Arc<SiteVersion>,
        sticky: Option<HeaderValue>,
        head: &Parts,
        id: &RequestId,
        state: &EdgeState,
    ) -> Response<Body> {
        let prefix = self.prefix(head);
        let asked = site::Asked {
            method: &head.method,
            path: self.path,
            query: self.query.as_deref(),
            headers: &head.headers,
            prefix: &prefix,
            takes_files: self.connection.takes_files,
            ignores_rules: self.is_probe,
        };
        let (result, digest) = site::answer(&asked, &state.cache, &version).await;
        let mut response = result.unwrap_or_else(|refusal| refuse(head, id, state, refusal));
        if let Some(cookie) = sticky {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        if self.strategy.is_on_platform_origin() {
            isolate::seal(response.headers_mut());
        } else if self.strategy == Strategy::Subdomain && version.rules().is_some() {
            isolate::keep_to_own_host(response.headers_mut(), state.rules.base());
        }
        if self.is_probe {
            Proof { epoch: self.epoch, version: Some(version), digest }.write(response.headers_mut());
        }
        response
    }
}

impl Aimed<'_> {
    /// Where the Worker's own paths begin on the host that the client sees.
    fn prefix<'h>(&self, head: &'h Parts) -> std::borrow::Cow<'h, str> {
        let whole = head.uri.path();
        match (self.strategy, &self.target) {
            (Strategy::Path, _) => whole.strip_suffix(self.path).unwrap_or(whole).into(),
            // The one path that a query can ask for is the top; others are found by path.
            (Strategy::Query, Target::Worker(route)) => format!("/dispatch/{}", route.worker).into(),
            (Strategy::Query | Strategy::Subdomain | Strategy::CustomDomain, _) => "".into(),
        }
    }
}

impl Refused {
    fn answer(self, head: &Parts, id: &RequestId, state: &EdgeState) -> Response<Body> {
        let mut response = refuse(head, id, state, self.refusal);
        if self.is_probe {
            let proof = Proof { epoch: state.tables.epoch(), version: None, digest: None };
            proof.write(response.headers_mut());
        }
        response
    }
}

/// To another domain of the same project: what was asked stays as it is.
fn redirect(head: &Parts, connection: Connection, host: &str) -> Response<Body> {
    let scheme = if connection.is_tls { "https" } else { "http" };
    let asked = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    if let Ok(location) = HeaderValue::from_str(&format!("{scheme}://{host}{asked}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, describe::revalidate());
    response
}

fn is_probe(head: &Parts, state: &EdgeState, class: &HostClass<'_>) -> bool {
    let Some(value) = head.headers.get(probe::HEADER).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let host = match class {
        HostClass::Platform => return false,
        HostClass::Worker(label) => format!("{label}.{}", state.rules.base()),
        HostClass::Custom(host) => host.to_string(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    probe::verify(&state.probe_key, value, &host, head.uri.path(), now)
}
