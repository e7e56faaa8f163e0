//! Logs and events, whole or as they come. What is streamed was written before: a stream that
//! breaks off is resumed by `Last-Event-ID`, on any server.

use std::time::Duration;

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Data, Path, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::Stream;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::deployments::visible;
use crate::control::ControlError;
use crate::domain::{DeploymentStatus, time};
use crate::http::FrontDoor;
use crate::http::auth::Caller;
use crate::http::openapi::ReadRefusals;
use crate::http::problem::Problem;
use crate::http::stream_places::StreamPlace;
use crate::store::StoreError;

/// Between two looks at the record.
const LOOK: Duration = Duration::from_millis(200);
/// A comment is sent after this much silence, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Rows read at a time.
const BATCH: u64 = 200;

#[derive(Debug, Deserialize)]
pub struct Asked {
    follow: Option<String>,
}

/// One event of a stream.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "documents what `event` writes")]
struct SentEvent {
    /// What to send as `Last-Event-ID` to go on after this one.
    #[schema(pattern = "^[0-9]{1,18}$")]
    id: String,
    /// `log`, or what changed: `queued`, `started`, `step`, `retry`, `cancel_requested`,
    /// `switched`, `completed`, `failed`, `cancelled`.
    event: String,
    /// A JSON object: `{at, attempt, text}` of a log, `{at, message, data}` of a change.
    data: String,
}

/// Read the build log.
///
/// The whole log; with `follow=1` or `Accept: text/event-stream` also what is still to come.
#[utoipa::path(get, path = "/api/v1/deployments/{id}/logs", operation_id = "getDeploymentLogs", tag = "deployments", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("follow" = Option<String>, Query, description = "1: stay until the deployment has ended"),
        ("Last-Event-ID" = Option<String>, Header, description = "Continue after this event", pattern = "^[0-9]{1,18}$")),
    responses((status = 200, description = "The masked log",
        content((String = "text/plain"), (SentEvent = "text/event-stream"))), ReadRefusals))]
pub async fn logs(
    req: HttpRequest,
    caller: Caller,
    id: Path<String>,
    asked: Query<Asked>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let row = visible(&caller, &id, &door).await?;
    let form = if wants_events(&req) { Form::Events } else { Form::Text };
    let follow = form == Form::Events || asked.follow.as_deref().is_some_and(|f| f == "1" || f == "true");
    let source = Source { door, deployment: row.id, org: row.org_id, what: What::Log, form, follow };
    respond(&req, source)
}

/// Follow the state changes.
///
/// From the first one on; the stream ends when the deployment has ended.
#[utoipa::path(get, path = "/api/v1/deployments/{id}/events", operation_id = "getDeploymentEvents", tag = "deployments", security(("bearer" = [])),
    params(("id" = String, Path, pattern = "^[0-9a-f]{32}$"),
        ("Last-Event-ID" = Option<String>, Header, description = "Continue after this event", pattern = "^[0-9]{1,18}$")),
    responses((status = 200, description = "Server-sent events", content_type = "text/event-stream", body = SentEvent), ReadRefusals))]
pub async fn events(
    req: HttpRequest,
    caller: Caller,
    id: Path<String>,
    door: Data<FrontDoor>,
) -> Result<HttpResponse, Problem> {
    let row = visible(&caller, &id, &door).await?;
    let source = Source {
        door,
        deployment: row.id,
        org: row.org_id,
        what: What::Events,
        form: Form::Events,
        follow: true,
    };
    respond(&req, source)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Log,
    Events,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Events,
}

struct Source {
    door: Data<FrontDoor>,
    deployment: String,
    org: String,
    what: What,
    form: Form,
    follow: bool,
}

struct Reading {
    source: Source,
    after: i64,
    ends_at: Instant,
    spoke_at: Instant,
    last_look: bool,
    _place: Option<StreamPlace>,
}

fn respond(req: &HttpRequest, source: Source) -> Result<HttpResponse, Problem> {
    // What ends by itself needs no place among those that stay.
    let place = match source.follow {
        true => Some(source.door.streams.enter(&source.org).ok_or_else(|| {
            Problem::overloaded(
                "Too many streams of this organization are open; close some, or try again shortly.",
            )
        })?),
        false => None,
    };
    let resume = req.headers().get("last-event-id").and_then(|v| v.to_str().ok());
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 18 {
        true => text.parse::<i64>().ok(),
        false => None,
    };
    let after = match resume.map(number) {
        None => 0,
        Some(Some(after)) => after,
        Some(None) => {
            return Err(Problem::invalid_request("Last-Event-ID must be a number that this stream sent."));
        }
    };
    let limit = Duration::from_secs(source.door.control.settings.http.stream_max_seconds);
    let kind = match source.form {
        Form::Text => "text/plain; charset=utf-8",
        Form::Events => "text/event-stream",
    };
    let now = Instant::now();
    let reading =
        Reading { source, after, ends_at: now + limit, spoke_at: now, last_look: false, _place: place };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, HeaderValue::from_static("no-store")))
        .content_type(kind)
        .streaming(stream(reading)))
}

fn stream(reading: Reading) -> impl Stream<Item = Result<Bytes, StoreError>> {
    futures_util::stream::try_unfold(reading, |mut reading| async move {
        loop {
            let text = reading.next().await?;
            if !text.is_empty() {
                reading.spoke_at = Instant::now();
                return Ok(Some((Bytes::from(text), reading)));
            }
            let over = Instant::now() >= reading.ends_at || reading.source.door.draining.is_cancelled();
            if reading.last_look || over {
                return Ok(None);
            }
            // What was written before the end was seen must still be read: one more look.
            reading.last_look = !reading.source.follow || reading.has_ended().await?;
            if reading.last_look {
                continue;
            }
            if reading.source.form == Form::Events && reading.spoke_at.elapsed() >= KEEP_ALIVE {
                reading.spoke_at = Instant::now();
                return Ok(Some((Bytes::from_static(b": still here\n\n"), reading)));
            }
            tokio::time::sleep(LOOK).await;
        }
    })
}

impl Reading {
    async fn next(&mut self) -> Result<String, StoreError> {
        let store = &self.source.door.control.store;
        let mut text = String::new();
        match self.source.what {
            What::Log => {
                for row in store.log_list(&self.source.deployment, self.after, BATCH).await? {
                    self.after = row.seq;
                    match self.source.form {
                        Form::Text => text.push_str(&row.text),
                        Form::Events => {
                            let data = json!({ "at": time::rfc3339(row.at), "attempt": row.attempt, "text": row.text });
                            text.push_str(&event(row.seq, "log", &data.to_string()));
                        }
                    }
                }
            }
            What::Events => {
                for row in store.event_list(&self.source.deployment, self.after, BATCH).await? {
                    self.after = row.seq;
                    let data: serde_json::Value = serde_json::from_str(&row.data).unwrap_or_default();
                    let data = json!({ "at": time::rfc3339(row.at), "message": row.message, "data": data });
                    text.push_str(&event(row.seq, &row.kind, &data.to_string()));
                }
            }
        }
        Ok(text)
    }

    async fn has_ended(&self) -> Result<bool, StoreError> {
        let row = self.source.door.control.store.deployment_by_id(&self.source.deployment).await?;
        Ok(row.is_none_or(|r| DeploymentStatus::parse(&r.status).is_none_or(DeploymentStatus::is_final)))
    }
}

/// JSON has no line ends, so one `data` line holds it.
fn event(id: i64, kind: &str, data: &str) -> String {
    format!("id: {id}\nevent: {kind}\ndata: {data}\n\n")
}

fn wants_events(req: &HttpRequest) -> bool {
    let accept = req.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("");
    accept.contains("text/event-stream")
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        ControlError::from(error).into()
    }
}
