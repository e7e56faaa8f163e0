//! Owns sending one request to an origin: on a kept connection or a new one, and to another origin where nothing was
//! sent yet.
//! Never sends a request twice that may have been acted on, unless its method says that this does no harm.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Response, response};
use http_body::Body;

use super::answer::OriginBody;
use super::choose::Turn;
use super::exchange::{Broken, Order};
use super::link::Link;
use super::socket::OriginSocket;
use super::{RequestBody, Trace, Upstream, socket};
use crate::domain::upstream::HostHeader;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No origin has room.
    #[error("every origin has as many requests as it may")]
    Full,
    #[error("no origin could be reached")]
    Unreachable(#[source] io::Error),
    #[error("the origin did not answer in time")]
    Timeout,
    #[error("the origin's answer was no HTTP, or it closed")]
    Broken(#[source] Broken),
    /// Not the origin's fault: its client left, or sent too slowly.
    #[error("the client did not send the whole request")]
    Client,
    #[error("the client's body is larger than it may be")]
    TooLarge,
}

/// What came of a request, of which the head is there.
#[derive(Debug)]
pub enum Answer {
    Http(Response<OriginBody>),
    Switched(response::Parts, Switched),
}

/// A connection that speaks another protocol from now on.
pub struct Switched {
    pub socket: OriginSocket,
    /// What the origin said of it already.
    pub early: Bytes,
    /// Its place at the origin, given back when dropped.
    pub turn: Turn,
}

enum Tried {
    Answered(Answer),
    /// Nothing reached the origin: the request is whole.
    Unsent {
        body: RequestBody,
        failure: Failure,
        was_kept: bool,
    },
    /// The connection ended without a byte of an answer.
    Unheard {
        failure: Failure,
        was_kept: bool,
    },
    Failed(Failure),
}

/// Sends a request. Connections and time are bounded by the upstream's policy.
pub async fn send(
    upstream: &Arc<Upstream>,
    order: &Order<'_>,
    body: RequestBody,
    trace: &mut Trace,
) -> Result<Answer, Failure> {
    let began = Instant::now();
    let sent = send_traced(upstream, order, body, trace).await;
    trace.ended(began, sent.as_ref().err());
    sent
}

async fn send_traced(
    upstream: &Arc<Upstream>,
    order: &Order<'_>,
    mut body: RequestBody,
    trace: &mut Trace,
) -> Result<Answer, Failure> {
    let may_repeat = is_idempotent(order.method) && body.is_end_stream();
    let mut tried = 0u64;
    let mut left = upstream.reuse.retries;
    loop {
        let turn = upstream.choose(tried).ok_or(Failure::Full)?;
        let at = turn.at;
        trace.origin = Some(at);
        let failure = match one(upstream, turn, order, body, trace).await {
            Tried::Answered(answer) => return Ok(answer),
            Tried::Unsent { body: back, failure, was_kept } => {
                // A kept connection that has just closed says nothing of its origin.
                if !was_kept {
                    tried |= 1 << (at % 64);
                }
                body = back;
                failure
            }
            Tried::Unheard { failure, was_kept } if may_repeat => {
                // The same origin again, where its connection had been closed while nobody looked; else another one.
                if !was_kept {
                    tried |= 1 << (at % 64);
                }
                body = RequestBody::empty();
                failure
            }
            Tried::Unheard { failure, .. } | Tried::Failed(failure) => return Err(failure),
        };
        let others = tried.count_ones() as usize >= upstream.origins.len().min(64);
        if left == 0 || others {
            return Err(failure);
        }
        left -= 1;
        trace.retries += 1;
    }
}

async fn one(
    upstream: &Arc<Upstream>,
    turn: Turn,
    order: &Order<'_>,
    body: RequestBody,
    trace: &mut Trace,
) -> Tried {
    let origin = &upstream.origins[turn.at];
    let take = |cx: &mut std::task::Context<'_>| Poll::Ready(origin.pool.take(upstream.reuse.keep_idle, cx));
    // A connection that changes its protocol is nobody else's, so it is a new one.
    let kept = if order.is_upgrade { None } else { poll_fn(take).await };
    let (mut link, was_kept) = match kept {
        Some(link) => {
            trace.reused += 1;
            (link, true)
        }
        None => {
            trace.opened += 1;
            // Boxed: opening is rare, and its state would make that of every request larger.
            match Box::pin(socket::connect(upstream, origin)).await {
                Ok(socket) => (Link::new(socket), false),
                Err(e) => {
                    upstream.failed(turn.at);
                    return Tried::Unsent { body, failure: Failure::Unreachable(e), was_kept: false };
                }
            }
        }
    };
    let host = match upstream.policy.host_header {
        HostHeader::Origin => origin.host.as_bytes(),
        _ => order.host,
    };
    link.begin(order, host, body);
    let head = match poll_fn(|cx| link.poll_answer(cx, &upstream.policy)).await {
        Ok(head) => head,
        Err(broken) => return failed(upstream, turn.at, link, broken, was_kept),
    };
    match head.parts.status.as_u16() {
        502..=504 => upstream.failed(turn.at),
        _ => upstream.succeeded(turn.at),
    }
    if order.is_upgrade && head.parts.status == http::StatusCode::SWITCHING_PROTOCOLS {
        let (socket, early) = link.into_socket();
        return Tried::Answered(Answer::Switched(head.parts, Switched { socket, early, turn }));
    }
    let mut held = Some((link, turn));
    let body = poll_fn(|cx| {
        let (link, turn) = held.take().expect("polled once: it is ready at once");
        Poll::Ready(OriginBody::new(link, turn, cx))
    });
    Tried::Answered(Answer::Http(Response::from_parts(head.parts, body.await)))
}

fn failed(upstream: &Upstream, at: usize, mut link: Box<Link>, broken: Broken, was_kept: bool) -> Tried {
    match broken {
        Broken::Client | Broken::ClientSilent => Tried::Failed(Failure::Client),
        Broken::TooLarge => Tried::Failed(Failure::TooLarge),
        Broken::Late => {
            upstream.failed(at);
            Tried::Failed(Failure::Timeout)
        }
        broken @ Broken::Io(_) if link.is_untouched() => {
            if !was_kept {
                upstream.failed(at);
            }
            Tried::Unsent { body: link.take_body(), failure: Failure::Broken(broken), was_kept }
        }
        // Closed or reset without a byte of an answer, as a server does that has just given up on an idle connection, or
        // that dies.
        broken @ (Broken::Closed | Broken::Io(_)) if link.has_heard_nothing() => {
            if !was_kept {
                upstream.failed(at);
            }
            Tried::Unheard { failure: Failure::Broken(broken), was_kept }
        }
        broken => {
            upstream.failed(at);
            Tried::Failed(Failure::Broken(broken))
        }
    }
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}

impl std::fmt::Debug for Switched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Switched").field(&self.turn).finish()
    }
}
