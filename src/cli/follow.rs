//! Follows one deployment to its end by asking for its status; shared by `deploy` and `status --watch`.
//! Only reads: ending `libra` never ends a deployment.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render::{self, Progress};
use super::wire::{DeploymentDetail, StatusDocument};

/// Between two questions; the server's own rate limit allows several such watchers.
const POLL: Duration = Duration::from_millis(200);
/// A server that restarts is back well within this.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// For one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Lines of the build log shown after a failure, and how much of the log is read for them.
const LOG_TAIL_LINES: usize = 30;
const LOG_TAIL_BYTES: usize = 8 * 1024 * 1024;

/// How a deployment is shown while it runs and when it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people: progress on standard error, the address on standard output.
    Text,
    /// For programs: each changed status document as one line on standard output.
    Json,
}

impl Format {
    #[must_use]
    pub fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

/// The status document, and its text as the server wrote it.
///
/// # Errors
/// If the server can't be reached or knows no such deployment.
pub async fn status(session: &Session, id: &str) -> Result<(StatusDocument, String), CliError> {
    let path = format!("/deploy-status?id={}", escape(id));
    session.json(session.request(Method::GET, &path).timeout(ANSWER)).await
}

/// Waits for the end, at most `limit`, and shows what happens and how it ended.
///
/// # Errors
/// If the server stays away, refuses, or the deployment runs on after `limit`.
pub async fn follow(
    session: &Session,
    id: &str,
    limit: Duration,
    format: Format,
) -> Result<Outcome, CliError> {
    let end = match format {
        Format::Text => {
            let mut progress = Progress::new();
            let end = wait(session, id, limit, |document, _| progress.show(document)).await;
            progress.finish();
            end
        }
        Format::Json => {
            let mut last = String::new();
            wait(session, id, limit, |_, text| {
                if last != text {
                    render::line(text);
                    text.clone_into(&mut last);
                }
            })
            .await
        }
    }?;
    if format == Format::Text {
        conclude(session, &end).await;
    }
    Ok(outcome(&end))
}

/// A deployment that has failed or was cancelled makes the command fail.
#[must_use]
pub fn outcome(document: &StatusDocument) -> Outcome {
    match document.status.as_str() {
        "failed" | "cancelled" => Outcome::DeploymentFailed,
        _ => Outcome::Done,
    }
}

async fn wait(
    session: &Session,
    id: &str,
    limit: Duration,
    mut show: impl FnMut(&StatusDocument, &str),
) -> Result<StatusDocument, CliError> {
    let started = Instant::now();
    let mut heard = Instant::now();
    loop {
        let mut pause = POLL;
        match status(session, id).await {
            Ok((document, text)) => {
                heard = Instant::now();
                show(&document, &text);
                if document.is_final() {
                    return Ok(document);
                }
            }
            Err(error) if may_pass(&error) && heard.elapsed() < AWAY_LIMIT => pause = Duration::from_secs(1),
            Err(error) => return Err(error),
        }
        if started.elapsed() >= limit {
            return Err(CliError::StillRunning { id: id.to_owned(), seconds: limit.as_secs() });
        }
        tokio::time::sleep(pause).await;
    }
}

/// Whether asking again later may help: the server restarts, is busy, or wants fewer questions.
fn may_pass(error: &CliError) -> bool {
    match error {
        CliError::Unreachable { .. } => true,
        CliError::Api { status, .. } => {
            *status == StatusCode::TOO_MANY_REQUESTS.as_u16()
                || *status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16()
        }
        _ => false,
    }
}

async fn conclude(session: &Session, end: &StatusDocument) {
    let detail = detail(session, &end.deployment_id).await;
    let sign = detail.as_ref().and_then(|detail| detail.sign.as_deref());
    match end.status.as_str() {
        "failed" => {
            if let Some(tail) = log_tail(session, &end.deployment_id).await {
                render::note(&format!("--- last lines of the build log ---\n{tail}"));
            }
            say_sign(sign);
            let summary = end.cause.as_ref().map(|cause| cause.summary.as_str()).or(end.error.as_deref());
            render::note(&format!("failed: {}", summary.unwrap_or("no cause was given")));
            if let Some(cause) = end.cause.as_ref().filter(|cause| !cause.hint.is_empty()) {
                render::note(&format!("hint: {}", cause.hint));
            }
            let cause = detail.as_ref().and_then(|detail| detail.deployment.cause.as_ref());
            if let Some(evidence) = cause.and_then(|cause| cause.evidence.as_deref()) {
                for line in evidence.lines() {
                    render::note(&format!("evidence: {}", render::harmless(line)));
                }
            }
            render::note(&format!("The whole log: libra logs {}", end.deployment_id));
        }
        "cancelled" => {
            render::note(&format!("cancelled: {}", end.cancel_reason.as_deref().unwrap_or("requested")))
        }
        _ => {
            say_sign(sign);
            if let Some(address) = end.address() {
                render::line(address);
            }
        }
    }
}

/// What the project was taken for: whoever wonders about an address or a failure asks this first.
fn say_sign(sign: Option<&str>) {
    if let Some(sign) = sign {
        render::note(&format!("recognised: {}", render::harmless(sign)));
    }
}

/// What only members are told; nothing if it can't be read: the end is shown anyhow.
async fn detail(session: &Session, id: &str) -> Option<DeploymentDetail> {
    let path = format!("/api/v1/deployments/{}", escape(id));
    let request = session.request(Method::GET, &path).timeout(ANSWER);
    session.json(request).await.ok().map(|(detail, _)| detail)
}

/// The newest lines of the log; nothing if there is none, or it can't be read: the cause is shown anyhow.
async fn log_tail(session: &Session, id: &str) -> Option<String> {
    let path = format!("/api/v1/deployments/{}/logs", escape(id));
    let request = session.request(Method::GET, &path).timeout(ANSWER);
    let mut response = session.send(request).await.ok()?;
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LOG_TAIL_BYTES {
            bytes.drain(..bytes.len() - LOG_TAIL_BYTES / 2);
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<String> = text.lines().map(render::harmless).collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    (!lines.is_empty()).then(|| lines[from..].join("\n"))
}
