//! `libra versions|rollback|promote|split`: which versions are kept, and which of them is live.

use reqwest::Method;
use serde::Deserialize;

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::wire::Project;
use super::{projects, render};

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct VersionsArgs {
    /// Name, Worker name or id of the project
    pub project: String,
    /// Print each version as one line of JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// Name, Worker name or id of the project
    pub project: String,
    /// Id of the version to go back to [default: the one that was live before]
    pub version: Option<String>,
    /// Print the server's answer
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// Name, Worker name or id of the project
    pub project: String,
    /// Id of the version, as `libra versions` shows it
    pub version: String,
    /// Print the server's answer
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct SplitArgs {
    /// Name, Worker name or id of the project
    pub project: String,
    /// Id of the version that a part of the clients gets
    #[arg(required_unless_present = "end", requires = "percent")]
    pub version: Option<String>,
    /// Of a hundred clients, so many: 1 to 99
    #[arg(value_parser = clap::value_parser!(u8).range(1..=99))]
    pub percent: Option<u8>,
    /// End the split: everybody gets the live version
    #[arg(long, conflicts_with_all = ["version", "percent"])]
    pub end: bool,
    /// Print the server's answer
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionPage {
    versions: Vec<serde_json::Value>,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    id: String,
    target: String,
    created_at: String,
    live: bool,
    split_percent: Option<u8>,
    preview_url: Option<String>,
    size: u64,
    files: u64,
}

#[derive(Debug, Deserialize)]
struct LiveChange {
    visible: bool,
    before: Live,
    now: Live,
    url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Live {
    version_id: Option<String>,
    split: Option<Split>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Split {
    version_id: String,
    percent: u8,
}

/// # Errors
/// If the server can't be reached, or no such project exists.
pub async fn versions(args: &VersionsArgs, session: &Session) -> Result<Outcome, CliError> {
    let project = projects::find(session, &args.project).await?;
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let after = cursor.as_deref().map(|c| format!("&cursor={}", escape(c))).unwrap_or_default();
        let path = format!("/api/v1/projects/{}/versions?limit=100{after}", project.id);
        let (page, _): (VersionPage, _) = session.json(session.request(Method::GET, &path)).await?;
        for document in page.versions {
            show_version(session, document, args.json)?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(Outcome::Done)
}

/// # Errors
/// If the server can't be reached, or there is nothing to go back to.
pub async fn rollback(args: &RollbackArgs, session: &Session) -> Result<Outcome, CliError> {
    let project = projects::find(session, &args.project).await?;
    let body = serde_json::json!({ "versionId": args.version });
    change(session, &project, Method::POST, "rollback", Some(body), args.json).await
}

/// # Errors
/// If the server can't be reached, or the version is not kept.
pub async fn promote(args: &PromoteArgs, session: &Session) -> Result<Outcome, CliError> {
    let project = projects::find(session, &args.project).await?;
    let body = serde_json::json!({ "versionId": args.version });
    change(session, &project, Method::POST, "promote", Some(body), args.json).await
}

/// # Errors
/// If the server can't be reached, the version is not kept, or there is no split to end.
pub async fn split(args: &SplitArgs, session: &Session) -> Result<Outcome, CliError> {
    let project = projects::find(session, &args.project).await?;
    let (method, body) = if args.end {
        (Method::DELETE, None)
    } else {
        let body = serde_json::json!({ "versionId": args.version, "percent": args.percent });
        (Method::PUT, Some(body))
    };
    change(session, &project, method, "split", body, args.json).await
}

async fn change(
    session: &Session,
    project: &Project,
    method: Method,
    what: &str,
    body: Option<serde_json::Value>,
    json: bool,
) -> Result<Outcome, CliError> {
    let mut request = session.request(method, &format!("/api/v1/projects/{}/{what}", project.id));
    if let Some(body) = body {
        request = request.json(&body);
    }
    let (change, text): (LiveChange, _) = session.json(request).await?;
    if json {
        render::line(&text);
        return Ok(Outcome::Done);
    }
    render::line(&format!("was: {}", describe(&change.before)));
    render::line(&format!("now: {}", describe(&change.now)));
    render::line(&change.url);
    if !change.visible {
        render::note("the server does not show it yet; it will within a few seconds");
    }
    Ok(Outcome::Done)
}

fn describe(live: &Live) -> String {
    let version = live.version_id.as_deref().unwrap_or("nothing");
    match &live.split {
        Some(split) => format!("{version}, and {} for {} % of the clients", split.version_id, split.percent),
        None => version.to_owned(),
    }
}

fn show_version(session: &Session, document: serde_json::Value, json: bool) -> Result<(), CliError> {
    if json {
        render::line(&document.to_string());
        return Ok(());
    }
    let answer = |source| CliError::Answer { base_url: session.base_url.clone(), source: Some(source) };
    let version: Version = serde_json::from_value(document).map_err(answer)?;
    let state = match (version.live, version.split_percent) {
        (true, _) => "live".to_owned(),
        (false, Some(percent)) => format!("{percent} %"),
        (false, None) => String::new(),
    };
    render::line(&format!(
        "{}  {}  {state:<4}  {:<10}  {:>5} files  {:>10} bytes  {}",
        version.id,
        version.created_at,
        version.target,
        version.files,
        version.size,
        version.preview_url.as_deref().unwrap_or_default(),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_live_is_told_in_one_line() {
        let live = |text: &str| describe(&serde_json::from_str(text).unwrap());
        assert_eq!(live("{}"), "nothing");
        assert_eq!(live(r#"{"versionId":"a"}"#), "a");
        let split = r#"{"versionId":"a","split":{"versionId":"b","percent":10}}"#;
        assert_eq!(live(split), "a, and b for 10 % of the clients");
    }
}
