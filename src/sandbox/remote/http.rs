//! One request to a provider: how long it may take, when it is made again, and what its refusal means.
//! Follows no redirect and logs neither key nor address; what a provider says in a refusal is logged for
//! the operator, cut short, and shown to nobody else.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use super::error::RemoteError;
use super::settings::RemoteSettings;

/// What is read of an answer that is no stream.
const ANSWER_BYTES: usize = 4 << 20;
/// What is read and logged of a refusal.
const REFUSAL_BYTES: usize = 8 << 10;
const SAID_CHARS: usize = 300;

/// `url` with these parameters.
pub(in crate::sandbox) fn with_query(url: &str, parameters: &[(&str, &str)]) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            url.query_pairs_mut().extend_pairs(parameters);
            url.into()
        }
        // The request fails by it.
        Err(_) => url.to_owned(),
    }
}

/// Whether a request may reach the provider twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Again {
    Harmless,
    Never,
}

#[derive(Debug)]
pub(in crate::sandbox) struct Caller {
    pub provider: &'static str,
    pub client: Client,
    pub settings: RemoteSettings,
}

impl Caller {
    /// `headers` go with every request.
    pub fn new(
        provider: &'static str,
        settings: &RemoteSettings,
        headers: HeaderMap,
    ) -> Result<Self, RemoteError> {
        let client = Client::builder()
            .redirect(Policy::none())
            .http1_only()
            .connect_timeout(Duration::from_secs(settings.connect_seconds))
            .read_timeout(Duration::from_secs(settings.idle_seconds))
            .user_agent(concat!("libra/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .build()
            .map_err(RemoteError::Client)?;
        Ok(Self { provider, client, settings: settings.clone() })
    }

    /// Sends what `make` makes until it is answered well, within the bounds of the settings. A 404 is
    /// `Gone`.
    pub async fn send(
        &self,
        action: &'static str,
        again: Again,
        make: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<Response, RemoteError> {
        let provider = self.provider;
        let mut failures = 0;
        let mut waited = Duration::ZERO;
        loop {
            let patience = Duration::from_secs(self.settings.request_seconds);
            let error = match tokio::time::timeout(patience, make(&self.client).send()).await {
                Err(_) => RemoteError::Timeout { provider, action },
                Ok(Err(e)) if e.is_timeout() && !e.is_connect() => RemoteError::Timeout { provider, action },
                Ok(Err(e)) => RemoteError::Away { provider, action, source: e.without_url() },
                Ok(Ok(answer))
                    if answer.status().is_success() || answer.status() == StatusCode::SWITCHING_PROTOCOLS =>
                {
                    return Ok(answer);
                }
                Ok(Ok(answer)) if answer.status() == StatusCode::TOO_MANY_REQUESTS => {
                    let wait = retry_after(answer.headers()).unwrap_or_else(|| self.pause(failures));
                    let refusal = self.refusal(action, answer).await;
                    if refusal.is_final_limit()
                        || waited + wait > Duration::from_secs(self.settings.rate_wait_seconds)
                    {
                        return Err(RemoteError::Limited { provider, action, waited });
                    }
                    waited += wait;
                    tokio::time::sleep(wait).await;
                    // Without `Retry-After` the waits grow; they stay within the bound above.
                    failures += 1;
                    continue;
                }
                Ok(Ok(answer)) => {
                    let status = answer.status();
                    let refusal = self.refusal(action, answer).await;
                    match status {
                        StatusCode::NOT_FOUND => return Err(RemoteError::Gone { provider }),
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if refusal.speaks_of_limits() => {
                            return Err(RemoteError::Limited { provider, action, waited });
                        }
                        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                            return Err(RemoteError::Refused { provider, action, status: status.as_u16() });
                        }
                        _ => RemoteError::Failed { provider, action, status: status.as_u16() },
                    }
                }
            };
            // A connection that was never made carried no request.
            let unsent = matches!(&error, RemoteError::Away { source, .. } if source.is_connect());
            let worth = unsent || (again == Again::Harmless && error.outcome_is_unknown());
            if !worth || failures >= self.settings.retries {
                return Err(error);
            }
            tracing::warn!(sandbox.provider = provider, action, error = %error, "a request to the sandbox provider failed; trying again");
            tokio::time::sleep(self.pause(failures)).await;
            failures += 1;
        }
    }

    /// As `send`, and reads the answer as JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        action: &'static str,
        again: Again,
        make: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<T, RemoteError> {
        let answer = self.send(action, again, make).await?;
        self.read_json(action, answer).await
    }

    /// As `send`, for answers that say nothing more.
    pub async fn done(
        &self,
        action: &'static str,
        again: Again,
        make: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<(), RemoteError> {
        let answer = self.send(action, again, make).await?;
        self.read(action, answer, ANSWER_BYTES).await.map(drop)
    }

    pub async fn read_json<T: DeserializeOwned>(
        &self,
        action: &'static str,
        answer: Response,
    ) -> Result<T, RemoteError> {
        let bytes = self.read(action, answer, ANSWER_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|e| self.nonsense(action, format!("{e}")))
    }

    pub fn nonsense(&self, action: &'static str, why: impl Into<String>) -> RemoteError {
        RemoteError::Answer { provider: self.provider, action, why: why.into() }
    }

    /// The wait before the next try.
    pub fn pause(&self, failures: u32) -> Duration {
        Duration::from_millis(self.settings.retry_wait_ms.saturating_mul(1 << failures.min(6)))
    }

    async fn read(&self, action: &'static str, answer: Response, limit: usize) -> Result<Bytes, RemoteError> {
        let provider = self.provider;
        let reading = async {
            let mut body = answer.bytes_stream();
            let mut all = BytesMut::new();
            while let Some(chunk) = body.next().await {
                let chunk =
                    chunk.map_err(|e| RemoteError::Away { provider, action, source: e.without_url() })?;
                if all.len() + chunk.len() > limit {
                    return Err(self.nonsense(action, format!("more than {limit} bytes")));
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        };
        tokio::time::timeout(Duration::from_secs(self.settings.request_seconds), reading)
            .await
            .unwrap_or(Err(RemoteError::Timeout { provider, action }))
    }

    async fn refusal(&self, action: &'static str, answer: Response) -> Refusal {
        let status = answer.status().as_u16();
        let body = self.read(action, answer, REFUSAL_BYTES).await.unwrap_or_default();
        let said: String = String::from_utf8_lossy(&body).escape_debug().take(SAID_CHARS).collect();
        tracing::debug!(sandbox.provider = self.provider, action, status, said = %said, "the sandbox provider refused");
        Refusal { said: said.to_lowercase() }
    }
}

/// What a provider said in a refusal; only its drift counts.
struct Refusal {
    said: String,
}

impl Refusal {
    /// Daytona refuses with 403 what exceeds a quota; the key is not to blame then.
    fn speaks_of_limits(&self) -> bool {
        self.said.contains("quota") || self.said.contains("limit exceeded")
    }

    /// A quota of sandboxes does not free itself by waiting for a second.
    fn is_final_limit(&self) -> bool {
        self.said.contains("quota") || self.said.contains("maximum number of concurrent")
    }
}

/// `Retry-After` as seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    Some(until.duration_since(SystemTime::now()).unwrap_or_default())
}
