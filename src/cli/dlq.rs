//! `libra dlq`: the dead-letter desk: lists letters and groups of equal ones, shows one, drives anew, buries.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Session, escape};
use super::error::{CliError, Outcome};
use super::render;

/// Pages read at most; a server that never ends its list must not keep us.
const PAGES: usize = 1000;

#[derive(Debug, clap::Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    pub command: DlqCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum DlqCommand {
    /// List the open letters, or how many there are of each kind
    List {
        /// Count equal failures instead
        #[arg(long)]
        group: bool,
        /// Only this class: invalid, poison, crashed or exhausted
        #[arg(long)]
        class: Option<String>,
        /// Only failures of this kind
        #[arg(long)]
        fingerprint: Option<String>,
        /// Letters in this state: open, redriven, buried or all
        #[arg(long, default_value = "open")]
        state: String,
        /// Print each letter or group as one line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a letter: its cause, every attempt, the end of the build log
    Show {
        id: String,
        /// Print the server's answer
        #[arg(long)]
        json: bool,
    },
    /// Drive deployments anew: letters by id, or a group with a rate
    Redrive {
        #[arg(required_unless_present = "group")]
        ids: Vec<String>,
        /// All open letters of this kind
        #[arg(long, value_name = "FINGERPRINT", conflicts_with = "ids", requires = "rate")]
        group: Option<String>,
        /// Deployments a second
        #[arg(long, value_name = "N", requires = "group")]
        rate: Option<f64>,
        /// Where they go on
        #[arg(long, value_enum, default_value = "failed-step")]
        from: From,
        /// Change a setting of the build, such as build.command="npm run build"; may be given several times
        #[arg(long, value_name = "KEY=VALUE", conflicts_with = "group")]
        set: Vec<String>,
        /// Print the server's answers
        #[arg(long)]
        json: bool,
    },
    /// Close letters for good; their deployments' build variables are forgotten
    Bury {
        #[arg(required = true)]
        ids: Vec<String>,
        /// Print the ids as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum From {
    Start,
    FailedStep,
}

impl From {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::FailedStep => "failed_step",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default)]
    dead_letters: Vec<Value>,
    #[serde(default)]
    groups: Vec<Value>,
    next_cursor: Option<String>,
}

/// # Errors
/// If the server can't be reached or refuses.
pub async fn run(args: &DlqArgs, session: &Session) -> Result<Outcome, CliError> {
    match &args.command {
        DlqCommand::List { group, class, fingerprint, state, json } => {
            let asked = [
                ("state", Some(state.as_str())),
                ("class", class.as_deref()),
                ("fingerprint", fingerprint.as_deref()),
                ("group", group.then_some("fingerprint")),
            ];
            list(session, &asked, *json).await?;
        }
        DlqCommand::Show { id, json } => show(session, id, *json).await?,
        DlqCommand::Redrive { group: Some(group), rate, from, json, .. } => {
            let body = json!({ "filter": { "fingerprint": group }, "rate": rate, "from": from.word() });
            let request = session.request(Method::POST, "/api/v1/dead-letters/redrive").json(&body);
            told(session.json(request).await?, *json, group_line);
        }
        DlqCommand::Redrive { ids, from, set, json, .. } => {
            let body = json!({ "from": from.word(), "set": settings(set)? });
            for id in ids {
                let path = format!("/api/v1/dead-letters/{}/redrive", escape(id));
                told(session.json(session.request(Method::POST, &path).json(&body)).await?, *json, |done| {
                    let id = word(done, "deploymentId");
                    format!("{id} waits for its next attempt; follow it with: libra status {id} --watch")
                });
            }
        }
        DlqCommand::Bury { ids, json } => {
            for id in ids {
                let path = format!("/api/v1/dead-letters/{}", escape(id));
                session.send(session.request(Method::DELETE, &path)).await?;
                let said =
                    if *json { json!({ "buried": id }).to_string() } else { format!("{id} is buried") };
                render::line(&said);
            }
        }
    }
    Ok(Outcome::Done)
}

fn told((document, text): (Value, String), json: bool, line: impl FnOnce(&Value) -> String) {
    render::line(&if json { text } else { line(&document) });
}

/// `KEY=VALUE`, with true and false for what they are.
fn settings(set: &[String]) -> Result<Option<BTreeMap<&str, Value>>, CliError> {
    let mut all = BTreeMap::new();
    for setting in set {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--set takes KEY=VALUE, not '{setting}'")))?;
        let value = match value {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text => text.into(),
        };
        all.insert(key, value);
    }
    Ok((!all.is_empty()).then_some(all))
}

async fn list(session: &Session, asked: &[(&str, Option<&str>)], json: bool) -> Result<(), CliError> {
    let query: Vec<String> =
        asked.iter().filter_map(|(key, value)| Some(format!("{key}={}", escape((*value)?)))).collect();
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let after = cursor.as_deref().map(|c| format!("&cursor={}", escape(c))).unwrap_or_default();
        let path = format!("/api/v1/dead-letters?limit=100&{}{after}", query.join("&"));
        let (listed, _): (Listed, _) = session.json(session.request(Method::GET, &path)).await?;
        for letter in listed.dead_letters {
            told((letter.clone(), letter.to_string()), json, letter_line);
        }
        for group in listed.groups {
            told((group.clone(), group.to_string()), json, kind_line);
        }
        cursor = listed.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}

async fn show(session: &Session, id: &str, json: bool) -> Result<(), CliError> {
    let path = format!("/api/v1/dead-letters/{}", escape(id));
    let (letter, text): (Value, _) = session.json(session.request(Method::GET, &path)).await?;
    if json {
        render::line(&text);
        return Ok(());
    }
    render::line(&letter_line(&letter));
    render::line(&format!("deployment: {}", word(&letter, "deploymentId")));
    render::line(&format!("kind: {}", word(&letter, "fingerprint")));
    for part in ["hint", "evidence"] {
        let text = word(&letter["cause"], part);
        if text != "-" {
            render::log_line(text);
        }
    }
    for attempt in letter["history"].as_array().into_iter().flatten() {
        render::line(&format!(
            "attempt {} (redrive {})  {}  {:<11}  {:<8}  {}",
            attempt["attempt"],
            attempt["redrives"],
            word(attempt, "startedAt"),
            word(attempt, "outcome"),
            word(attempt, "step"),
            word(&attempt["cause"], "summary"),
        ));
    }
    word(&letter, "logTail").lines().filter(|line| *line != "-").for_each(render::log_line);
    Ok(())
}

fn letter_line(letter: &Value) -> String {
    format!(
        "{}  {}  {:<9}  {:<8}  {:<8}  {}",
        word(letter, "id"),
        word(letter, "lastFailedAt"),
        word(letter, "class"),
        word(letter, "failedStep"),
        word(letter, "state"),
        word(&letter["cause"], "summary"),
    )
}

fn kind_line(group: &Value) -> String {
    format!(
        "{:>6}  {}  {:<9}  {:<8}  {}",
        group["count"].as_i64().unwrap_or(0),
        word(group, "fingerprint"),
        word(group, "class"),
        word(group, "failedStep"),
        word(group, "summary"),
    )
}

fn group_line(done: &Value) -> String {
    let skipped: Vec<String> = done["skipped"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|letter| format!("\nskipped {}: {}", word(letter, "id"), word(letter, "why")))
        .collect();
    let redriven = done["redriven"].as_u64().unwrap_or(0);
    format!("{redriven} redriven, the last one at {}{}", word(done, "lastDueAt"), skipped.concat())
}

/// A field's text, `-` where there is none.
fn word<'v>(document: &'v Value, field: &str) -> &'v str {
    document[field].as_str().unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_key_and_value() {
        let set = ["build.command=a=b".to_owned(), "build.cache=false".to_owned()];
        let read = json!(settings(&set).unwrap());
        assert_eq!(read, json!({ "build.command": "a=b", "build.cache": false }));
        assert!(settings(&[]).unwrap().is_none());
        assert!(settings(&["build.command".to_owned()]).is_err());
    }

    #[test]
    fn a_group_that_was_driven_anew_names_what_was_left() {
        let done =
            json!({ "redriven": 2, "lastDueAt": "t", "skipped": [{ "id": "a", "why": "superseded" }] });
        assert_eq!(group_line(&done), "2 redriven, the last one at t\nskipped a: superseded");
        assert_eq!(group_line(&json!({ "redriven": 0, "skipped": [] })), "0 redriven, the last one at -");
    }
}
