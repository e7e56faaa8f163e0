//! `libra workers`: which Workers there are, and the origins that an operator registers for one.

use std::path::{Path, PathBuf};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::wire::Project;
use super::{projects, render};

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct WorkersArgs {
    #[command(subcommand)]
    command: WorkersCommand,
}

#[derive(Debug, clap::Subcommand)]
enum WorkersCommand {
    /// List the organization's Workers and what each serves
    List {
        /// Print each Worker as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Show, register or remove the HTTP origins that answer for a Worker (with an operator's token)
    Upstream {
        /// Name, Worker name or id of the project
        project: String,
        /// `http://HOST[:PORT]`, `https://HOST[:PORT]` or unix:/PATH; may be given several times
        #[arg(long, value_name = "ORIGIN")]
        origin: Vec<String>,
        /// What differs from the server's [upstream] settings, as JSON: '{"health":{"path":"/up"}}'
        #[arg(long, value_name = "JSON", requires = "origin")]
        policy: Option<String>,
        /// A PEM file of the authorities that https:// origins' certificates must lead to, instead of the server's own
        #[arg(long, value_name = "FILE", requires = "origin")]
        ca: Option<PathBuf>,
        /// Serve what is deployed again
        #[arg(long, conflicts_with = "origin")]
        remove: bool,
        /// Print the server's answer
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WorkerPage {
    workers: Vec<Worker>,
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Worker {
    name: String,
    project_id: String,
    url: String,
    serves: String,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Upstream {
    origins: Vec<String>,
    policy: Value,
}

/// # Errors
/// If the server can't be reached or refuses.
pub async fn run(args: &WorkersArgs, session: &Session) -> Result<Outcome, CliError> {
    match &args.command {
        WorkersCommand::List { json } => list(session, *json).await?,
        WorkersCommand::Upstream { project, origin, policy, ca, remove, json } => {
            let project = projects::find(session, project).await?;
            if *remove {
                removed(session, &project, *json).await?;
            } else {
                let body = body(origin, policy.as_deref(), ca.as_deref())?;
                upstream(session, &project, body, *json).await?;
            }
        }
    }
    Ok(Outcome::Done)
}

async fn list(session: &Session, json: bool) -> Result<(), CliError> {
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let after = cursor.as_deref().map(|c| format!("&cursor={}", escape(c))).unwrap_or_default();
        let path = format!("/api/v1/workers?limit=100{after}");
        let (page, _): (WorkerPage, _) = session.json(session.request(Method::GET, &path)).await?;
        for worker in page.workers {
            if json {
                render::line(&json!(worker).to_string());
            } else {
                let Worker { name, project_id, url, serves, .. } = worker;
                render::line(&format!("{name:<32}  {serves:<8}  {project_id}  {url}"));
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

fn path_of(project: &Project) -> String {
    format!("/api/v1/projects/{}/upstream", project.id)
}

/// What is registered; nothing where no origin is named.
fn body(origins: &[String], policy: Option<&str>, ca: Option<&Path>) -> Result<Option<Value>, CliError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let wrong = |e: serde_json::Error| CliError::Usage(format!("--policy is no JSON object: {e}"));
    let policy: Option<Map<String, Value>> = policy.map(serde_json::from_str).transpose().map_err(wrong)?;
    let unread = |e: std::io::Error| CliError::Usage(format!("--ca can't be read: {e}"));
    let ca = ca.map(std::fs::read_to_string).transpose().map_err(unread)?;
    Ok(Some(json!({ "origins": origins, "policy": policy, "ca": ca })))
}

async fn upstream(
    session: &Session,
    project: &Project,
    body: Option<Value>,
    json: bool,
) -> Result<(), CliError> {
    let request = match body {
        None => session.request(Method::GET, &path_of(project)),
        Some(body) => session.request(Method::PUT, &path_of(project)).json(&body),
    };
    let (upstream, text): (Upstream, _) = session.json(request).await?;
    if json {
        render::line(&text);
    } else {
        upstream.origins.iter().for_each(|origin| render::line(origin));
        render::line(&format!("policy: {}", upstream.policy));
    }
    Ok(())
}

async fn removed(session: &Session, project: &Project, json: bool) -> Result<(), CliError> {
    let request = session.request(Method::DELETE, &path_of(project));
    let (_, text): (Value, _) = session.json(request).await?;
    render::line(if json { &text } else { "the Worker serves what is deployed again" });
    Ok(())
}
