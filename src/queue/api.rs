//! One way to ask JetStream something: the answer, the broker's refusal with its code, or an outage.
//!
//! It never retries: what may be repeated is known only to the caller.

use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, Context, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Duration, timeout};

use super::error::QueueError;

/// What JetStream answered: the thing, or its reason for refusing.
pub(super) type Answer<T> = Result<T, jetstream::Error>;

/// Asks `$JS.API.<subject>`.
pub(super) async fn ask<B: Serialize, T: DeserializeOwned>(
    context: &Context,
    wait: Duration,
    doing: &'static str,
    subject: String,
    body: &B,
) -> Result<Answer<T>, QueueError> {
    // The library bounds the wait for the answer; the wait for room in its send buffer is bounded here.
    let response = timeout(wait.saturating_mul(2), context.request::<_, _, Response<T>>(subject, body))
        .await
        .map_err(|elapsed| QueueError::unavailable(doing, elapsed))?
        .map_err(|error| QueueError::unavailable(doing, error))?;
    Ok(match response {
        Response::Ok(answer) => Ok(answer),
        Response::Err { error } => Err(error),
    })
}

/// Answers of a cluster that has no leader, or too few servers: it passes when they are back.
const WITHOUT_LEADER: [ErrorCode; 12] = [
    ErrorCode::CLUSTER_INCOMPLETE,
    ErrorCode::CLUSTER_NO_PEERS,
    ErrorCode::CLUSTER_NOT_ACTIVE,
    ErrorCode::CLUSTER_NOT_ASSIGNED,
    ErrorCode::CLUSTER_NOT_AVAILABLE,
    ErrorCode::CLUSTER_NOT_LEADER,
    ErrorCode::CLUSTER_SERVER_NOT_MEMBER,
    ErrorCode::RAFT_GENERAL,
    ErrorCode::STREAM_OFFLINE,
    ErrorCode::CONSUMER_OFFLINE,
    ErrorCode::STREAM_OFFLINE_REASON,
    ErrorCode::CONSUMER_OFFLINE_REASON,
];

/// Turns a refusal into an error: what is missing now may be there after the next reconcile.
pub(super) fn refused(doing: &'static str, error: jetstream::Error) -> QueueError {
    match error.error_code() {
        ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => QueueError::Missing { doing },
        code if WITHOUT_LEADER.contains(&code) => QueueError::unavailable(doing, error),
        code => QueueError::Refused { doing, code: code.0, source: Box::new(error) },
    }
}
