//! Owns sending one request to an origin: on a kept connection or a new one, and to another origin where nothing was
//! sent yet.
//! Never sends a request twice that may have been acted on, unless its method says that this does no harm.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::answer::OriginBody;
use super::body::{Progress, RequestBodyError};
use super::choose::Turn;
use super::link::Link;
use super::{RequestBody, Trace, Upstream, socket};
use crate::domain::upstream::HostHeader;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No origin has room.
    #[error("every origin has as many requests as it may")]
    Full,
    #[error("no origin could be reached")]
    Unreachable(#[source] std::io::Error),
    #[error("the origin did not answer in time")]
    Timeout,
    #[error("the origin's answer was no HTTP, or it closed")]
    Broken(#[source] hyper::Error),
    /// Not the origin's fault: its client left, or sent too slowly.
    #[error("the client did not send the whole request")]
    Client,
    #[error("the client's body is larger than it may be")]
    TooLarge,
}

/// An answer, of which the head is there.
#[derive(Debug)]
pub struct Sent {
    pub response: Response<OriginBody>,
}

enum Tried {
    Answered(Box<Response<OriginBody>>),
    /// Nothing reached the origin: the request is whole.
    Unsent {
        request: Box<Request<RequestBody>>,
        failure: Failure,
        was_kept: bool,
    },
    /// The kept connection ended without a byte of an answer.
    Stale(hyper::Error),
    Failed(Failure),
}

/// Sends a request. Connections and time are bounded by the upstream's policy.
pub async fn send(
    upstream: &Arc<Upstream>,
    request: Request<RequestBody>,
    trace: &mut Trace,
) -> Result<Sent, Failure> {
    let began = Instant::now();
    let sent = send_traced(upstream, request, trace).await;
    trace.ended(began, sent.as_ref().err());
    sent
}

async fn send_traced(
    upstream: &Arc<Upstream>,
    mut request: Request<RequestBody>,
    trace: &mut Trace,
) -> Result<Sent, Failure> {
    let may_repeat = is_idempotent(request.method()) && request.body().is_empty();
    let mut tried = 0u64;
    let mut left = upstream.reuse.retries;
    loop {
        let turn = upstream.choose(tried).ok_or(Failure::Full)?;
        let at = turn.at;
        trace.origin = Some(at);
        name_host(upstream, at, &mut request);
        let copy = may_repeat.then(|| copy(&request));
        let failure = match one(upstream, turn, request, may_repeat, trace).await {
            Tried::Answered(response) => return Ok(Sent { response: *response }),
            Tried::Unsent { request: back, failure, was_kept } => {
                // A kept connection that has just closed says nothing of its origin.
                if !was_kept {
                    tried |= 1 << (at % 64);
                }
                request = *back;
                failure
            }
            // The same origin again, on another connection: this one had been closed while nobody looked.
            Tried::Stale(e) => match copy {
                Some(copy) => {
                    request = copy;
                    Failure::Broken(e)
                }
                None => return Err(Failure::Broken(e)),
            },
            Tried::Failed(failure) => return Err(failure),
        };
        let others = tried.count_ones() as usize >= upstream.origins.len().min(64);
        if left == 0 || others {
            return Err(failure);
        }
        left -= 1;
        trace.retries += 1;
    }
}

/// Sends a request that asks for another protocol, on a connection of its own. Where the origin agrees, `switched` is
/// what the two sides speak over; else the answer is an ordinary one.
pub async fn upgrade(
    upstream: &Arc<Upstream>,
    request: Request<RequestBody>,
    trace: &mut Trace,
) -> Result<(Response<Incoming>, Switching), Failure> {
    let began = Instant::now();
    let upgraded = upgrade_traced(upstream, request, trace).await;
    trace.ended(began, upgraded.as_ref().err());
    upgraded
}

async fn upgrade_traced(
    upstream: &Arc<Upstream>,
    mut request: Request<RequestBody>,
    trace: &mut Trace,
) -> Result<(Response<Incoming>, Switching), Failure> {
    let mut tried = 0u64;
    let (mut link, turn) = loop {
        let turn = upstream.choose(tried).ok_or(Failure::Full)?;
        trace.origin = Some(turn.at);
        trace.opened += 1;
        let origin = &upstream.origins[turn.at];
        let opened = async { Link::open(socket::connect(upstream, &origin.address).await?).await };
        match opened.await {
            Ok(link) => break (link, turn),
            Err(e) => {
                upstream.failed(turn.at);
                tried |= 1 << (turn.at % 64);
                let retries = tried.count_ones() as usize;
                if retries > upstream.reuse.retries || retries >= upstream.origins.len().min(64) {
                    return Err(Failure::Unreachable(e));
                }
                trace.retries += 1;
            }
        }
    };
    name_host(upstream, turn.at, &mut request);
    let answered = link.sender.try_send_request(request);
    let Some(driver) = link.into_driver() else { return Err(Failure::Timeout) };
    // The connection hands its socket over, so it needs a task of its own. It ends with either side.
    let driver = tokio::spawn(async move { driver.with_upgrades().await });
    let switching = Switching { driver: driver.abort_handle(), turn };
    match timeout(upstream.policy.first_byte_timeout, answered).await {
        Ok(Ok(response)) => {
            upstream.succeeded(switching.turn.at);
            Ok((response, switching))
        }
        Ok(Err(e)) => {
            upstream.failed(switching.turn.at);
            Err(Failure::Broken(e.into_error()))
        }
        Err(_) => {
            upstream.failed(switching.turn.at);
            Err(Failure::Timeout)
        }
    }
}

/// The connection of an upgrade; dropped, it ends.
#[derive(Debug)]
pub struct Switching {
    driver: tokio::task::AbortHandle,
    turn: Turn,
}

impl Drop for Switching {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn one(
    upstream: &Arc<Upstream>,
    turn: Turn,
    request: Request<RequestBody>,
    may_repeat: bool,
    trace: &mut Trace,
) -> Tried {
    let origin = &upstream.origins[turn.at];
    let at = turn.at;
    let kept = poll_fn(|cx| Poll::Ready(origin.pool.take(upstream.reuse.keep_idle, cx))).await;
    let (mut link, was_kept) = match kept {
        Some(link) => {
            trace.reused += 1;
            (link, true)
        }
        None => {
            trace.opened += 1;
            let opened = async { Link::open(socket::connect(upstream, &origin.address).await?).await };
            match opened.await {
                Ok(link) => (link, false),
                Err(e) => {
                    upstream.failed(at);
                    let failure = Failure::Unreachable(e);
                    return Tried::Unsent { request: Box::new(request), failure, was_kept: false };
                }
            }
        }
    };
    let mut request = request;
    let progress = request.body_mut().progress();
    let mut answered = std::pin::pin!(link.sender.try_send_request(request));
    let waiting = poll_fn(|cx| {
        // The connection first: it moves the bytes that the answer is made of. Its end shows in the answer.
        let _ended = link.drive(cx);
        answered.as_mut().poll(cx)
    });
    match in_time(upstream, progress.as_deref(), waiting).await {
        Ok(Ok(response)) => {
            match response.status().as_u16() {
                502..=504 => upstream.failed(at),
                _ => upstream.succeeded(at),
            }
            let (head, incoming) = response.into_parts();
            let mut body = OriginBody::new(incoming, link, turn, Arc::clone(upstream));
            poll_fn(|cx| {
                body.settle(cx);
                Poll::Ready(())
            })
            .await;
            Tried::Answered(Box::new(Response::from_parts(head, body)))
        }
        Ok(Err(mut e)) => match e.take_message() {
            Some(request) => {
                if !was_kept {
                    upstream.failed(at);
                }
                let failure = Failure::Broken(e.into_error());
                Tried::Unsent { request: Box::new(request), failure, was_kept }
            }
            None => {
                let e = e.into_error();
                if let Some(failure) = of_client(&e) {
                    return Tried::Failed(failure);
                }
                if was_kept && may_repeat && e.is_incomplete_message() {
                    return Tried::Stale(e);
                }
                upstream.failed(at);
                Tried::Failed(Failure::Broken(e))
            }
        },
        Err(failure) => {
            if matches!(failure, Failure::Timeout) {
                upstream.failed(at);
            }
            Tried::Failed(failure)
        }
    }
}

/// Waits for an answer. Its time begins when the whole request was sent; until then the client's pieces have to come.
async fn in_time<T>(
    upstream: &Upstream,
    progress: Option<&Progress>,
    waiting: impl Future<Output = T>,
) -> Result<T, Failure> {
    let policy = &upstream.policy;
    let Some(progress) = progress else {
        return timeout(policy.first_byte_timeout, waiting).await.map_err(|_| Failure::Timeout);
    };
    let mut waiting = std::pin::pin!(waiting);
    let (mut seen, mut since) = (progress.moved(), Instant::now());
    let mut looked = since;
    loop {
        let due = match progress.ended() {
            Some(ended) => ended + policy.first_byte_timeout,
            // Looked at more often than the client's time lasts: the whole may have been sent meanwhile.
            None => looked + policy.idle_timeout.min(policy.first_byte_timeout),
        };
        tokio::select! {
            answered = waiting.as_mut() => return Ok(answered),
            () = tokio::time::sleep_until(due.into()) => {}
        }
        looked = Instant::now();
        let now = progress.moved();
        match progress.ended() {
            Some(ended) if ended.elapsed() >= policy.first_byte_timeout => return Err(Failure::Timeout),
            Some(_) => {}
            None if now != seen => (seen, since) = (now, Instant::now()),
            None if since.elapsed() >= policy.idle_timeout => return Err(Failure::Client),
            None => {}
        }
    }
}

/// Whether it was the client's body that failed.
fn of_client(error: &hyper::Error) -> Option<Failure> {
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        match e.downcast_ref::<RequestBodyError>() {
            Some(RequestBodyError::TooLarge) => return Some(Failure::TooLarge),
            Some(RequestBodyError::Client(_) | RequestBodyError::Late) => return Some(Failure::Client),
            None => cause = e.source(),
        }
    }
    None
}

/// The client's host is there already; an origin may want its own.
fn name_host(upstream: &Upstream, at: usize, request: &mut Request<RequestBody>) {
    if upstream.policy.host_header == HostHeader::Origin {
        request.headers_mut().insert(http::header::HOST, upstream.origins[at].host.clone());
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

/// Of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
