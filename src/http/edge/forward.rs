//! Owns passing a request on to an HTTP origin and its answer back, and what an origin may not say to a browser.
//! Never tells a client why there is no answer.

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Response, Version};
use hyper::upgrade::OnUpgrade;

use super::body::{Body, RequestBody};
use super::dispatch::Strategy;
use super::outgoing::{self, Named};
use super::{Connection, EdgeState, Facts, RequestId, isolate, proof, tunnel};
use crate::routing::EdgeRefusal;
use crate::runtime::upstream::{self, Answer, Failure, Order, Upstream, trailers};

/// A request on its way to an origin.
pub(super) struct Forwarding {
    pub upstream: Arc<Upstream>,
    pub worker: Arc<str>,
    /// What the Worker sees.
    pub target: PathAndQuery,
    /// The host that the client meant.
    pub authority: HeaderValue,
    pub strategy: Strategy,
    pub from_trusted: bool,
    pub connection: Connection,
}

impl Forwarding {
    pub async fn send(
        self,
        head: &mut Parts,
        body: RequestBody,
        id: &RequestId,
        state: &EdgeState,
        facts: &mut Facts,
    ) -> Result<Response<Body>, EdgeRefusal> {
        facts.upstream = Some(Arc::clone(&self.upstream));
        let named = Named::of(&head.headers);
        if outgoing::has_passed(&head.headers, &state.loop_mark) {
            return Err(EdgeRefusal::Loop);
        }
        let limit_bytes = state.limits.body_bytes;
        // What says its size is refused before the origin hears of it; what does not is cut off at the limit.
        if http_body::Body::size_hint(&body).exact().is_some_and(|bytes| bytes > limit_bytes) {
            return Err(EdgeRefusal::BodyTooLarge { limit_bytes });
        }
        let client = tunnel::asked_for(head).then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        let fields = |line: &mut Vec<u8>| {
            outgoing::pass(line, &head.headers, &named, self.strategy);
            outgoing::sign(line, &self, head, id, &state.loop_mark);
            if client.is_some() {
                line.extend_from_slice(tunnel::OFFER);
            }
        };
        let order = Order {
            method: &head.method,
            target: self.target.as_str(),
            host: self.authority.as_bytes(),
            fields: &fields,
            is_upgrade: client.is_some(),
        };
        let body = body.limited(limit_bytes).without_trailers(named.names());
        let sent = upstream::send(&self.upstream, &order, body, &mut facts.trace).await;
        let mut response = match (sent.map_err(|e| refusal(&e, &self, limit_bytes))?, client) {
            (Answer::Http(response), _) => response.map(Body::origin),
            (Answer::Switched(mut head, switched), Some(client)) => {
                let ending = tunnel::Ending {
                    stopping: state.stopping.clone(),
                    retired: self.upstream.retired().clone(),
                    drain: self.upstream.drain(),
                    jitter: state.limits.socket_jitter,
                };
                self.restrain(&mut head.headers, state, false);
                return Ok(tunnel::open(head, client, switched, ending));
            }
            // Only who asked for it is answered so.
            (Answer::Switched(..), None) => return Err(EdgeRefusal::WorkerUnreachable),
        };
        self.restrain(response.headers_mut(), state, true);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    /// Takes out what an origin may not say to the browser, and where `ends_hop` what it says to us alone.
    fn restrain(&self, headers: &mut HeaderMap, state: &EdgeState, ends_hop: bool) {
        let named = if ends_hop { Named::of(headers) } else { Named::default() };
        let is_dropped = |name: &&HeaderName| (ends_hop && named.ends(name)) || is_ours(name.as_str());
        let dropped: Vec<HeaderName> = headers.keys().filter(is_dropped).cloned().collect();
        for name in dropped {
            headers.remove(name);
        }
        if headers.contains_key(header::TRAILER) {
            match trailers::announced(headers, named.names()).map(HeaderValue::try_from) {
                Some(Ok(announced)) => drop(headers.insert(header::TRAILER, announced)),
                _ => drop(headers.remove(header::TRAILER)),
            }
        }
        match self.strategy {
            Strategy::Subdomain => isolate::keep_to_own_host(headers, state.rules.base()),
            Strategy::CustomDomain => {}
            Strategy::Path | Strategy::Query => isolate::seal(headers),
        }
    }
}

/// What only we say of an answer.
fn is_ours(name: &str) -> bool {
    matches!(name, proof::VERSION_TEXT | proof::DIGEST_TEXT | proof::EPOCH_TEXT)
}

fn refusal(failure: &Failure, forwarding: &Forwarding, limit_bytes: u64) -> EdgeRefusal {
    let refusal = match failure {
        Failure::Full => EdgeRefusal::WorkerBusy,
        Failure::Timeout => EdgeRefusal::WorkerTimeout,
        Failure::TooLarge => EdgeRefusal::BodyTooLarge { limit_bytes },
        Failure::Client => EdgeRefusal::ClientSilent,
        Failure::Unreachable(_) | Failure::Broken(_) => EdgeRefusal::WorkerUnreachable,
    };
    tracing::debug!(worker = %forwarding.worker, error = %crate::domain::cause::chain(failure), "an origin gave no answer");
    refusal
}
