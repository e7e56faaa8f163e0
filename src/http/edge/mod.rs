//! Owns answering requests that belong to Workers: by subdomain, custom domain, path and query. HOT.
//! Never names actors, store, queue or control, and writes no error by itself: refusals go to the function it was given.

mod aim;
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
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Version};
use tokio_util::sync::CancellationToken;

use crate::routing::probe::ProbeKey;
use crate::routing::{BadRequest, EdgeRefusal, HostRules, Live, Tables, Target};
use crate::runtime::upstream::Upstream;
use crate::runtime::{BodyCache, SiteVersion};

use aim::{Aim, Aimed, aim};
pub use body::{Body, RequestBody};
pub use dispatch::Strategy;
pub use facts::Facts;
pub use host::TrustedProxies;
use proof::Proof;
pub use rates::Rates;
use refuse::refuse;
pub use request_id::RequestId;
use split::Stays;

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

/// What is known of a request beside its head.
struct Known<'s> {
    connection: Connection,
    bad: Option<BadRequest>,
    is_saturated: bool,
    state: &'s EdgeState,
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
    let known = Known { connection, bad, is_saturated, state };
    let answered = {
        // Polled where it lies: neither a box nor a copy for what next to no request needs.
        let mut answering = std::pin::pin!(answer(&mut head, body, &known, &id, facts));
        let polled =
            |cx: &mut Context<'_>| match catch_unwind(AssertUnwindSafe(|| answering.as_mut().poll(cx))) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            };
        std::future::poll_fn(polled).await
    };
    let mut response = match answered {
        Ok(Answered::Here(response)) => response,
        Ok(Answered::Platform(body)) => return Outcome::Platform(Request::from_parts(head, body), id),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(request.id = %id.as_str(), said, "a request was not answered: a panic in the edge");
            refuse(&head, &id, state, facts, EdgeRefusal::DispatchFailed)
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

enum Answered {
    Here(Response<Body>),
    Platform(RequestBody),
}

async fn answer(
    head: &mut Parts,
    body: RequestBody,
    known: &Known<'_>,
    id: &RequestId,
    facts: &mut Facts,
) -> Answered {
    let Known { connection, bad, is_saturated, state } = *known;
    let unread = !body.is_empty() && head.version < Version::HTTP_2;
    let aimed = aim(head, connection, bad, state, facts).and_then(|aim| match aim {
        // Operators must still get in when Workers have filled the house.
        Aim::Worker(_) if is_saturated => Err(EdgeRefusal::Saturated.into()),
        aim => Ok(aim),
    });
    let way = match aimed {
        Ok(Aim::Early(early)) => Way::Answer(early.answer()),
        Ok(Aim::Platform) => {
            facts.is_platform = true;
            return Answered::Platform(body);
        }
        Ok(Aim::Worker(aimed)) => aimed.way(head, id, state, facts).await,
        Err(refused) => Way::Answer(refused.answer(head, id, state, facts)),
    };
    Answered::Here(match way {
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
        Way::Forward(forwarding) => match forwarding.send(head, body, id, state, facts).await {
            Ok(response) => response,
            Err(refusal) => refuse(head, id, state, facts, refusal),
        },
    })
}

/// What is to be done for a request that found its target.
enum Way {
    Answer(Response<Body>),
    Forward(forward::Forwarding),
}

impl Aimed<'_> {
    async fn way(self, head: &Parts, id: &RequestId, state: &EdgeState, facts: &mut Facts) -> Way {
        facts.epoch = self.epoch;
        if let Target::Worker(route) = &self.target {
            facts.worker = Some(Arc::clone(&route.worker));
            let checked = if self.is_probe { Ok(()) } else { state.rates.check_worker(&route.worker) };
            if let Err(refusal) = checked {
                return Way::Answer(refuse(head, id, state, facts, refusal));
            }
        }
        let (version, stays) = match &self.target {
            Target::Preview(version) => {
                facts.worker = Some(Arc::clone(version.owner()));
                (Arc::clone(version), Stays::Whole)
            }
            Target::Redirect(to) => {
                facts.is_redirect = true;
                return Way::Answer(redirect(head, self.connection, to));
            }
            Target::Worker(route) => match &route.live {
                Live::Site(version) => (Arc::clone(version), Stays::Whole),
                Live::Split(split) => split::choose(split, &head.headers, self.strategy),
                Live::Upstream(upstream) => {
                    let (upstream, worker) = (Arc::clone(upstream), Arc::clone(&route.worker));
                    return match self.forwarding(head, upstream, worker) {
                        Some(forwarding) => Way::Forward(forwarding),
                        None => Way::Answer(refuse(head, id, state, facts, EdgeRefusal::InvalidHost)),
                    };
                }
                Live::Nothing => {
                    return Way::Answer(refuse(head, id, state, facts, EdgeRefusal::WorkerNotFound));
                }
            },
        };
        facts.version = Some(Arc::clone(&version));
        Way::Answer(self.site_answer((version, stays), head, id, state, facts).await)
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
        (version, stays): (Arc<SiteVersion>, Stays),
        head: &Parts,
        id: &RequestId,
        state: &EdgeState,
        facts: &Facts,
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
        let (result, file) = site::answer(&asked, &state.cache, &version).await;
        let mut response = match result {
            Ok(mut response) => {
                stays.mark(response.headers_mut(), file);
                response
            }
            Err(refusal) => refuse(head, id, state, facts, refusal),
        };
        let digest = file.map(|file| *file.digest());
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
