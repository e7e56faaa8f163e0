//! Owns an answer's body on its way from its origin: it drives the connection that it comes on, gives it back when it
//! is over, and bounds the origin's silence.
//! Never gives a connection back whose answer was not read to its end.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::choose::Turn;
pub use super::exchange::OriginBodyError;
use super::link::Link;
use super::trailers;

/// What an origin answers.
pub struct OriginBody {
    /// Until it was given back.
    link: Option<Box<Link>>,
    /// Given back with it, or with the body.
    turn: Option<Turn>,
    /// When something came last, as far as anybody has had to wait since.
    last: Option<Instant>,
    /// Begun when its origin's time was over already, it may go on for as long again.
    late_until: Option<Instant>,
}

impl OriginBody {
    pub(super) fn new(link: Box<Link>, turn: Turn, cx: &mut Context<'_>) -> Self {
        let late_until = turn.late_until();
        let mut body = Self { link: Some(link), turn: Some(turn), last: None, late_until };
        // At once where there is no body to read: nobody would ask for one.
        body.settle(cx);
        body
    }

    fn settle(&mut self, cx: &mut Context<'_>) {
        if self.link.as_ref().is_some_and(|link| link.is_answered())
            && let (Some(link), Some(turn)) = (self.link.take(), self.turn.take())
            && link.is_reusable()
        {
            turn.origin().pool.keep(link, cx);
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
        let (Some(link), Some(turn)) = (&mut this.link, &this.turn) else { return Poll::Ready(None) };
        // Looked at when something comes, or should have come: nobody is woken for it.
        let stays_until = this.late_until.or_else(|| turn.stays_until());
        if stays_until.is_some_and(|until| until <= Instant::now()) {
            this.link = None;
            return Poll::Ready(Some(Err(OriginBodyError::Retired)));
        }
        match link.poll_piece(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(behind) = frame.trailers_mut() {
                    trailers::keep_allowed(behind);
                }
                this.last = None;
                this.settle(cx);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(e))) => {
                this.link = None;
                Poll::Ready(Some(Err(e)))
            }
            Poll::Ready(None) => {
                this.settle(cx);
                Poll::Ready(None)
            }
            Poll::Pending => {
                // An origin that answered early may wait for the whole request before it goes on.
                let last = *this.last.get_or_insert_with(Instant::now);
                let last = link.exchange.sent_last().map_or(last, |sent| last.max(sent));
                let due = last + turn.policy().idle_timeout;
                let (due, why) = match stays_until {
                    Some(until) if until < due => (until, OriginBodyError::Retired),
                    _ => (due, OriginBodyError::Silent),
                };
                if !link.alarm.is_over(cx, due) {
                    return Poll::Pending;
                }
                this.link = None;
                Poll::Ready(Some(Err(why)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.link.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.link.as_ref().map_or(Some(0), |link| link.exchange.left()) {
            Some(left) => SizeHint::with_exact(left),
            None => SizeHint::default(),
        }
    }
}

impl std::fmt::Debug for OriginBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OriginBody").field(&self.size_hint()).finish()
    }
}
