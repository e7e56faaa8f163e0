//! Owns finding out for whom a request is: the control surface, a Worker, or nobody, and why. HOT.
//! Never answers: who it is for, or the refusal, is all that comes out.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, Response};

use super::dispatch::{self, Strategy};
use super::proof::Proof;
use super::refuse::refuse;
use super::{Body, Connection, EdgeState, Facts, RequestId, client, host, isolate, secure};
use crate::routing::{BadRequest, EdgeRefusal, HostClass, Resolved, Target, probe};

pub(super) enum Aim<'r> {
    Early(secure::Early),
    Platform,
    Worker(Aimed<'r>),
}

/// A request that found its target.
pub(super) struct Aimed<'r> {
    pub target: Target,
    pub epoch: u64,
    pub is_probe: bool,
    pub strategy: Strategy,
    pub connection: Connection,
    pub authority: &'r str,
    pub from_trusted: bool,
    /// What the Worker sees.
    pub path: &'r str,
    pub query: Option<Cow<'r, str>>,
}

pub(super) struct Refused {
    refusal: EdgeRefusal,
    is_probe: bool,
}

impl From<EdgeRefusal> for Refused {
    fn from(refusal: EdgeRefusal) -> Self {
        Self { refusal, is_probe: false }
    }
}

pub(super) fn aim<'r>(
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
    facts.is_platform_host = class == HostClass::Platform;
    if facts.is_platform_host && state.limits.path_routing {
        // Known before anything is refused: a refusal is on the platform's origin too.
        facts.strategy = dispatch::strategy(path);
    }
    // Behind a proxy that speaks TLS for us, the client's scheme is what it says.
    let proto = head.headers.get("x-forwarded-proto").filter(|_| from_trusted);
    let is_tls = connection.is_tls || proto.is_some_and(|proto| proto == "https");
    let is_probe = is_probe(head, state, &class);
    if let Some(peer) = connection.peer.filter(|_| !is_probe) {
        // Where a proxy is believed only: nobody else's lines are looked for.
        let lines = from_trusted.then(|| head.headers.get_all("x-forwarded-for").iter());
        let lines = lines.into_iter().flatten().map(HeaderValue::as_bytes);
        let client = client::client(peer.ip(), lines, &state.trusted_proxies);
        // A proxy that says not whom it asks for asks for many.
        if !from_trusted || !state.trusted_proxies.contains(client) {
            state.rates.check_client(client)?;
        }
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
    if !state.limits.path_routing {
        return Ok(Aim::Platform);
    }
    let Some(found) = dispatch::find(&head.method, head.uri.path(), head.uri.query())? else {
        facts.strategy = None;
        return Ok(Aim::Platform);
    };
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

impl Refused {
    pub fn answer(self, head: &Parts, id: &RequestId, state: &EdgeState, facts: &Facts) -> Response<Body> {
        let mut response = refuse(head, id, state, facts, self.refusal);
        if self.is_probe {
            let proof = Proof { epoch: state.tables.epoch(), version: None, digest: None };
            proof.write(response.headers_mut());
        }
        response
    }
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
