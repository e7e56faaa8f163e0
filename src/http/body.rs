//! Reading a JSON body: bounded, typed as JSON, and read to its end (within bounds) even when it is
//! refused, so that the client sees the answer instead of a reset connection.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest};
use bytes::BytesMut;
use futures_util::StreamExt;
use serde_json::Value;

use super::FrontDoor;
use super::problem::Problem;
use crate::routing::EdgeRefusal;

/// A refused body is read on for at most this much and this long.
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A JSON document of at most `http.body_bytes`.
#[derive(Debug)]
pub struct Json(pub Value);

/// The same, or nothing where the request has no body.
#[derive(Debug)]
pub struct OptionalJson(pub Option<Value>);

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, Problem>>>>;

impl FromRequest for Json {
    type Error = Problem;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read(req, payload);
        let is_json = is_json(req);
        Box::pin(async move { parse(body.await?, is_json).await.map(Self) })
    }
}

impl FromRequest for OptionalJson {
    type Error = Problem;
    type Future = Extracting<Self>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read(req, payload);
        let is_json = is_json(req);
        Box::pin(async move {
            let body = body.await?;
            if body.is_empty() {
                return Ok(Self(None));
            }
            // Null says as much as nothing.
            parse(body, is_json).await.map(|value| Self(Some(value).filter(|value| !value.is_null())))
        })
    }
}

fn read(req: &HttpRequest, payload: &mut Payload) -> Extracting<BytesMut> {
    let mut payload = payload.take();
    let limit = req.app_data::<Data<FrontDoor>>().map_or(0, |d| d.control.settings.http.body_bytes);
    // Not more than the limit: [`super::surface::wrap`] has looked already.
    let declared = declared(req.headers());
    Box::pin(async move {
        let mut body = BytesMut::with_capacity(declared.unwrap_or(0).min(limit));
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|e| ended_early(&e))?;
            if body.len() + chunk.len() > limit {
                drain(&mut payload, body.len() + chunk.len()).await;
                return Err(too_large(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    })
}

fn ended_early(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => EdgeRefusal::ClientSilent.into(),
        _ => Problem::invalid_request("The body ended too early."),
    }
}

async fn parse(body: BytesMut, is_json: bool) -> Result<Value, Problem> {
    if !is_json {
        return Err(Problem::content_type_required());
    }
    // Parsing ten megabytes takes long enough to hold up the other requests of this thread.
    let parsed = actix_web::web::block(move || serde_json::from_slice(&body)).await;
    match parsed {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Problem::invalid_request(format!(
            "The body is not valid JSON (line {}, column {}).",
            e.line(),
            e.column()
        ))),
        Err(_) => Err(Problem::overloaded("The server is stopping; try again shortly.")),
    }
}

/// What the request says its body has.
pub fn declared(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub fn too_large(limit: usize) -> Problem {
    Problem::too_large(format!("Send at most {limit} bytes in a request."))
}

fn is_json(req: &HttpRequest) -> bool {
    let value = req.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
}

/// Reads on within bounds and forgets what it reads; `read` bytes were read before.
pub async fn drain(payload: &mut Payload, mut read: usize) {
    let reading = async {
        while let Some(Ok(chunk)) = payload.next().await {
            read += chunk.len();
            if read > DRAIN_BYTES {
                return;
            }
        }
    };
    // Whether it ended or its time was over, the answer follows.
    drop(tokio::time::timeout(DRAIN_TIME, reading).await);
}
