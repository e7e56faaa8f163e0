//! Owns the body of an origin's answer: it drives its connection while it is read, and gives it back when it is over.
//! Never reads ahead of the client: the origin is slowed down instead. Dropped early, it closes the connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::Upstream;
use super::choose::Turn;
use super::link::Link;
use super::trailers;

/// What an origin answers.
pub struct OriginBody {
    incoming: Incoming,
    /// Until it was given back.
    link: Option<Link>,
    turn: Option<Turn>,
    upstream: Arc<Upstream>,
    alarm: Option<Pin<Box<Sleep>>>,
    last: Instant,
}

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum OriginBodyError {
    #[error("the origin's answer ended early")]
    Broken(#[from] hyper::Error),
    #[error("the origin fell silent in the middle of its answer")]
    Silent,
}

impl OriginBody {
    pub(super) fn new(incoming: Incoming, link: Link, turn: Turn, upstream: Arc<Upstream>) -> Self {
        Self { incoming, link: Some(link), turn: Some(turn), upstream, alarm: None, last: Instant::now() }
    }

    /// Gives the connection back at once where there is no body to read: nobody would ask for one.
    pub(super) fn settle(&mut self, cx: &mut Context<'_>) {
        if self.incoming.is_end_stream() {
            self.give_back(cx);
        }
    }

    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let idle = self.upstream.policy.idle_timeout;
        loop {
            let due = self.last + idle;
            // Set once and looked at when it rings: most answers end before it ever does.
            let alarm = self.alarm.get_or_insert_with(|| {
                Box::pin(tokio::time::sleep_until(tokio::time::Instant::from_std(due)))
            });
            if alarm.as_mut().poll(cx).is_pending() {
                return false;
            }
            if due <= Instant::now() {
                return true;
            }
            alarm.as_mut().reset(tokio::time::Instant::from_std(due));
        }
    }

    fn give_back(&mut self, cx: &mut Context<'_>) {
        if let (Some(link), Some(turn)) = (self.link.take(), self.turn.take()) {
            self.upstream.origins[turn.at].pool.keep(link, cx);
        }
    }
}

impl Body for OriginBody {
    type Data = Bytes;
    type Error = OriginBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OriginBodyError>>> {
        let this = self.get_mut();
        if let Some(link) = &mut this.link {
            // Its end shows in the body.
            let _ended = link.drive(cx);
        }
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(behind) = frame.trailers_mut() {
                    trailers::keep_allowed(behind);
                }
                this.last = Instant::now();
                // Whether this was the last piece shows only when the connection has looked for the next.
                if let Some(link) = &mut this.link {
                    let _ended = link.drive(cx);
                }
                if this.incoming.is_end_stream() {
                    this.give_back(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                this.link = None;
                Poll::Ready(Some(Err(e.into())))
            }
            Poll::Ready(None) => {
                this.give_back(cx);
                Poll::Ready(None)
            }
            Poll::Pending if this.is_silent(cx) => {
                this.link = None;
                Poll::Ready(Some(Err(OriginBodyError::Silent)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        // While the link is held, whoever asks must read on, or it could not be given back.
        self.link.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl std::fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OriginBody").field(&self.size_hint()).finish()
    }
}
