//! Owns one request and its answer on a connection to an origin: both directions go on at the same time.
//! Never reads past its own answer: what comes behind it was not asked for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Method;
use http_body::{Body, Frame};
use tokio::time::Instant;

use super::RequestBody;
use super::answer_body::{At, BadBody, Next};
use super::answer_head::{self, AnswerHead, BadHead};
use super::body::RequestBodyError;
use super::link::Link;
use crate::domain::upstream::UpstreamPolicy;

/// Heads with 1xx before the answer proper.
const MAX_INFORMATIONAL: u8 = 16;

/// What is asked of an origin. Can be written again for another one for as long as its body is whole.
pub struct Order<'r> {
    pub method: &'r Method,
    pub target: &'r str,
    /// The host that the client meant; an origin may want its own.
    pub host: &'r [u8],
    /// Writes all other lines of the head but those about the body.
    pub fields: &'r dyn Fn(&mut Vec<u8>),
    /// Asks for another protocol.
    pub is_upgrade: bool,
}

/// How far an exchange is.
#[derive(Debug, Default)]
pub struct Exchange {
    method: Method,
    is_upgrade: bool,
    sending: Option<Sending>,
    reading: At,
    keeps_alive: bool,
    informational: u8,
    /// Since when nothing has moved towards the origin, or the whole was sent.
    since: Option<Instant>,
    has_sent: bool,
    has_body: bool,
    /// A piece of the client's body was taken: it can't be given back.
    has_taken: bool,
}

#[derive(Debug)]
struct Sending {
    body: RequestBody,
    /// What is left of the length that was announced; `None` where chunks say it.
    left: Option<u64>,
    /// Whether it is the client that we wait for.
    owes: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection to the origin failed")]
    Io(#[source] io::Error),
    #[error("the origin closed without an answer")]
    Closed,
    #[error("the origin's answer can't be read")]
    Head(#[source] BadHead),
    #[error("the origin answered with 1xx only")]
    Informational,
    #[error("the origin switched protocols unasked")]
    Switched,
    #[error("the client did not send the whole request")]
    Client,
    #[error("the client's body is larger than it may be")]
    TooLarge,
    /// Nobody is to blame but time.
    #[error("the origin did not answer in time")]
    Late,
    #[error("the client fell silent in the middle of its request")]
    ClientSilent,
}

/// Why an answer ended early.
#[derive(Debug, thiserror::Error)]
pub enum OriginBodyError {
    #[error("the connection to the origin failed")]
    Io(#[source] io::Error),
    #[error("the origin's answer ended early")]
    Short,
    #[error("the origin's answer can't be read")]
    Body(#[from] BadBody),
    #[error("the origin fell silent in the middle of its answer")]
    Silent,
    #[error("no route leads to the origin any more, and the drain time is over")]
    Retired,
}

impl Exchange {
    /// Something went on its way to the origin.
    pub(super) fn moved(&mut self) {
        self.has_sent = true;
        if self.has_body {
            self.since = Some(Instant::now());
        }
    }

    /// When something of the request moved last.
    pub(super) fn sent_last(&self) -> Option<Instant> {
        self.since
    }

    /// What the answer has left, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.reading.left()
    }
}

impl Link {
    /// Makes the request ready to be sent. `host` is what the origin is told.
    pub(super) fn begin(&mut self, order: &Order<'_>, host: &[u8], body: RequestBody) {
        let output = &mut self.output;
        output.extend_from_slice(order.method.as_str().as_bytes());
        output.push(b' ');
        if !order.target.starts_with('/') && order.target != "*" {
            // An absolute target may have a query and no path.
            output.push(b'/');
        }
        output.extend_from_slice(order.target.as_bytes());
        output.extend_from_slice(b" HTTP/1.1\r\nhost: ");
        output.extend_from_slice(host);
        output.extend_from_slice(b"\r\n");
        (order.fields)(output);
        let exact = body.size_hint().exact();
        let sending = if body.is_end_stream() {
            // Without a body these would be incomplete; all others are whole without a word.
            if matches!(*order.method, Method::POST | Method::PUT | Method::PATCH) {
                output.extend_from_slice(b"content-length: 0\r\n");
            }
            None
        } else if let Some(bytes) = exact {
            output.extend_from_slice(b"content-length: ");
            output.extend_from_slice(bytes.to_string().as_bytes());
            output.extend_from_slice(b"\r\n");
            Some(Sending { body, left: Some(bytes), owes: false })
        } else {
            output.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Some(Sending { body, left: None, owes: false })
        };
        output.extend_from_slice(b"\r\n");
        self.exchange = Exchange {
            method: order.method.clone(),
            is_upgrade: order.is_upgrade,
            has_body: sending.is_some(),
            sending,
            since: Some(Instant::now()),
            ..Exchange::default()
        };
    }

    /// Waits for the head of the answer, within the policy's times.
    pub(super) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        policy: &UpstreamPolicy,
    ) -> Poll<Result<AnswerHead, Broken>> {
        let unsent = match self.poll_send(cx) {
            Poll::Ready(Err(Unsent::Body(e))) => return Poll::Ready(Err(e)),
            // It may have answered before it closed.
            Poll::Ready(Err(Unsent::Io(e))) => Some(e),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        };
        loop {
            match answer_head::take(&mut self.input, &self.exchange.method) {
                Ok(Some(head)) => match self.judge(head) {
                    Some(judged) => return Poll::Ready(judged),
                    None => continue,
                },
                Ok(None) => {}
                Err(e) => return Poll::Ready(Err(Broken::Head(e))),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) if self.input.is_empty() && self.exchange.informational == 0 => {
                    return Poll::Ready(Err(unsent.map_or(Broken::Closed, Broken::Io)));
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Broken::Io(e))),
                Poll::Pending => break,
            }
        }
        if let Some(e) = unsent {
            return Poll::Ready(Err(Broken::Io(e)));
        }
        let since = self.exchange.since.unwrap_or_else(Instant::now);
        let (limit, late) = match &self.exchange.sending {
            None => (policy.first_byte_timeout, Broken::Late),
            // Unless it is the origin that does not take what is there.
            Some(sending) if sending.owes && self.is_flushed() => (policy.idle_timeout, Broken::ClientSilent),
            Some(_) => (policy.idle_timeout, Broken::Late),
        };
        if self.alarm.is_over(cx, since + limit) { Poll::Ready(Err(late)) } else { Poll::Pending }
    }

    /// `None`: the answer proper is still to come.
    fn judge(&mut self, head: AnswerHead) -> Option<Result<AnswerHead, Broken>> {
        let is_switch = head.parts.status == http::StatusCode::SWITCHING_PROTOCOLS;
        if is_switch && !self.exchange.is_upgrade {
            return Some(Err(Broken::Switched));
        }
        if head.parts.status.is_informational() && !is_switch {
            self.exchange.informational += 1;
            return (self.exchange.informational > MAX_INFORMATIONAL).then_some(Err(Broken::Informational));
        }
        self.exchange.reading = head.framing.into();
        self.exchange.keeps_alive = head.keeps_alive;
        Some(Ok(head))
    }

    /// The next piece of the answer, and of the request if it still goes on.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OriginBodyError>>> {
        if self.exchange.sending.is_some() || !self.is_flushed() {
            // What fails there shows in the answer, or it does not matter any more.
            if let Poll::Ready(Err(_)) = self.poll_send(cx) {
                self.exchange.sending = None;
                self.exchange.keeps_alive = false;
                self.discard();
            }
        }
        loop {
            match self.exchange.reading.next(&mut self.input) {
                Ok(Next::Piece(piece)) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Ok(Next::Trailers(trailers)) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(Next::End) => return Poll::Ready(None),
                Ok(Next::More) => {}
                Err(e) => return Poll::Ready(Some(Err(e.into()))),
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.exchange.reading == At::Close => {
                    self.exchange.reading = At::End;
                    return Poll::Ready(None);
                }
                Ok(0) => return Poll::Ready(Some(Err(OriginBodyError::Short))),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Some(Err(OriginBodyError::Io(e)))),
            }
        }
    }

    /// Whether the answer is over.
    pub(super) fn is_answered(&self) -> bool {
        self.exchange.reading == At::End
    }

    /// Whether another request may follow: all of this one was sent, and all of its answer was read.
    pub(super) fn is_reusable(&self) -> bool {
        self.exchange.keeps_alive
            && self.is_answered()
            && self.exchange.sending.is_none()
            && self.is_flushed()
    }

    /// Whether the origin can't know of the request yet.
    pub(super) fn is_untouched(&self) -> bool {
        !self.exchange.has_sent && !self.exchange.has_taken
    }

    /// Whether the origin has said nothing at all.
    pub(super) fn has_heard_nothing(&self) -> bool {
        self.input.is_empty() && self.exchange.informational == 0
    }

    /// The body of a request of which nothing was sent.
    pub(super) fn take_body(&mut self) -> RequestBody {
        self.exchange.sending.take().map_or_else(RequestBody::empty, |sending| sending.body)
    }

    /// Sends what there is of the request. Ready when all of it is sent.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            // Small pieces first: they go out with the head.
            let filled = if self.has_room() { self.fill(cx) } else { Poll::Ready(Ok(())) };
            if let Poll::Ready(Err(e)) = filled {
                return Poll::Ready(Err(Unsent::Body(e)));
            }
            ready!(self.poll_flush(cx)).map_err(Unsent::Io)?;
            if filled.is_pending() {
                return Poll::Pending;
            }
            if self.exchange.sending.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes pieces of the client's body until there is enough to send, or no more of it.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while let Some(sending) = &mut self.exchange.sending {
            let polled = Pin::new(&mut sending.body).poll_frame(cx);
            sending.owes = polled.is_pending();
            let frame = ready!(polled).transpose().map_err(|e| of_client(&e))?;
            let is_last = frame.is_none() || sending.body.is_end_stream();
            let is_chunked = sending.left.is_none();
            let (piece, trailers) = match frame.map(Frame::into_data) {
                Some(Ok(piece)) => (piece, None),
                Some(Err(frame)) => (Bytes::new(), frame.into_trailers().ok()),
                None => (Bytes::new(), None),
            };
            let is_over = is_last || trailers.is_some();
            if let Some(left) = &mut sending.left {
                // What was announced and what comes must agree, or the origin would take the next request for the
                // rest of this one.
                *left = left.checked_sub(piece.len() as u64).ok_or(Broken::Client)?;
                if is_over && *left > 0 {
                    return Poll::Ready(Err(Broken::Client));
                }
            }
            let mut tail = Vec::new();
            if is_chunked && !piece.is_empty() {
                self.output.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                tail.extend_from_slice(b"\r\n");
            }
            if is_chunked && is_over {
                tail.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.iter().flatten() {
                    tail.extend_from_slice(name.as_str().as_bytes());
                    tail.extend_from_slice(b": ");
                    tail.extend_from_slice(value.as_bytes());
                    tail.extend_from_slice(b"\r\n");
                }
                tail.extend_from_slice(b"\r\n");
            }
            if is_over {
                self.exchange.sending = None;
            }
            self.exchange.has_taken = true;
            self.exchange.since = Some(Instant::now());
            self.put(piece, tail.into());
            if !self.has_room() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

enum Unsent {
    Io(io::Error),
    Body(Broken),
}

fn of_client(error: &RequestBodyError) -> Broken {
    match error {
        RequestBodyError::TooLarge => Broken::TooLarge,
        RequestBodyError::Client(_) | RequestBodyError::Late => Broken::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::OriginSocket;
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn order() -> Order<'static> {
        Order { method: &Method::GET, target: "?a=b", host: b"a", fields: &|_| {}, is_upgrade: false }
    }

    /// A connection whose other side reads nothing.
    fn link() -> (Box<Link>, tokio::net::UnixStream) {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        (Link::new(OriginSocket::Unix(ours)), theirs)
    }

    #[tokio::test]
    async fn a_connection_that_still_has_something_to_send_is_for_nobody_else() {
        let (mut link, _theirs) = link();
        link.begin(&order(), b"a", RequestBody::empty());
        link.put(vec![b'x'; 8 << 20].into(), Bytes::new());
        poll_fn(|cx| {
            // An answer that came early, and whole.
            link.exchange.keeps_alive = true;
            assert!(link.poll_flush(cx).is_pending());
            assert!(link.is_answered() && !link.is_reusable());
            link.output.clear();
            assert!(!link.is_usable(cx) && !link.is_reusable());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_left_of_a_request_leaves_while_its_answer_is_waited_for() {
        let (mut link, mut theirs) = link();
        link.begin(&order(), b"a", RequestBody::empty());
        let bytes = link.output.len() + (1 << 20);
        link.put(vec![b'x'; 1 << 20].into(), Bytes::new());
        link.exchange.reading = At::Length(4);
        let origin = async {
            theirs.read_exact(&mut vec![0; bytes]).await.unwrap();
            theirs.write_all(b"done").await.unwrap();
        };
        let both = async { tokio::join!(poll_fn(|cx| link.poll_piece(cx)), origin) };
        let (piece, ()) = tokio::time::timeout(std::time::Duration::from_secs(10), both).await.unwrap();
        assert_eq!(piece.unwrap().unwrap().into_data().unwrap(), "done");
    }

    #[tokio::test]
    async fn a_body_that_is_shorter_than_announced_is_no_request() {
        let (mut link, _theirs) = link();
        link.begin(&order(), b"a", RequestBody::empty());
        link.exchange.keeps_alive = true;
        link.exchange.sending = Some(Sending { body: RequestBody::empty(), left: Some(5), owes: false });
        poll_fn(|cx| {
            let sent = link.poll_send(cx);
            assert!(matches!(sent, Poll::Ready(Err(Unsent::Body(Broken::Client)))));
            assert!(!link.is_reusable());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_target_begins_with_its_path() {
        let (mut link, _theirs) = link();
        link.begin(&order(), b"a", RequestBody::empty());
        assert_eq!(link.output, b"GET /?a=b HTTP/1.1\r\nhost: a\r\n\r\n");
    }
}
