//! Reading the body of `POST /deploy`: everything that the body alone shows, all problems at once.

use std::collections::BTreeMap;

use actix_web::HttpRequest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use crate::config::Settings;
use crate::control::deployments::DeployRequest;
use crate::control::diff;
use crate::control::domains::claimable;
use crate::control::sources::SourceFile;
use crate::domain::hostname::Hostname;
use crate::domain::source::{BuildOverrides, HistoryEdit};
use crate::domain::tree_path::{TreePath, find_conflicts, parse_folder};
use crate::domain::{Digest, OrgId, ProjectId, Target, UserId};
use crate::http::fields::{Fields, Problems};
use crate::http::problem::Problem;
use crate::store::deployments::Supersede;

const WORDS: usize = 255;
const MESSAGE: usize = 2_000;
const COMMAND: usize = 1_000;
const PATH: usize = 1_024;

/// The `Idempotency-Key` header, if there is one.
pub fn idempotency_key(req: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = req.headers().get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    if (1..=WORDS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(Some(text.to_owned()))
    } else {
        Err(Problem::invalid_request(
            "Idempotency-Key must have 1 to 255 printable characters and no spaces.",
        ))
    }
}

/// Reads the body.
pub fn read(body: Value, key: Option<String>, settings: &Settings) -> Result<DeployRequest, Problem> {
    let idempotency = key.map(|key| (key, Digest::of(canonical(&body).as_bytes()).to_string()));
    let mut problems = Problems::default();
    let Some(mut fields) = Fields::of(body, "", &mut problems) else {
        return Err(Problem::validation(problems.into_details()));
    };
    let project = fields.parsed("projectId", ProjectId::parse, &mut problems);
    let org = fields.parsed("orgId", OrgId::parse, &mut problems);
    let user = fields.parsed("userId", UserId::parse, &mut problems);
    let custom_domain = custom_domain(&mut fields, settings, &mut problems);
    let files = files(&mut fields, "initFiles", settings, &mut problems)?;
    let history = history(&mut fields, settings, &mut problems)?;
    let target = target(&mut fields, &mut problems);
    let branch = fields.text("branch", WORDS, &mut problems);
    let commit = fields.text("commit", WORDS, &mut problems);
    let message = fields.text("message", MESSAGE, &mut problems);
    let env = env(&mut fields, settings, &mut problems);
    let supersede = match fields.boolean("supersede", &mut problems) {
        Some(false) => Supersede::Nothing,
        _ => Supersede::QueuedOlder,
    };
    let build = build(&mut fields, &mut problems);
    fields.finish(&mut problems);
    match (project, org, user, problems.is_empty()) {
        (Some(project), Some(org), Some(user), true) => Ok(DeployRequest {
            project,
            org,
            user,
            custom_domain,
            files,
            history,
            target,
            branch,
            commit,
            message,
            env,
            supersede,
            build,
            idempotency,
        }),
        _ => Err(Problem::validation(problems.into_details())),
    }
}

/// Reads a list of files; also the body of `PUT …/files`.
pub fn files(
    fields: &mut Fields,
    field: &str,
    settings: &Settings,
    problems: &mut Problems,
) -> Result<Option<Vec<SourceFile>>, Problem> {
    let Some(list) = fields.list(field, problems) else { return Ok(None) };
    let limits = &settings.sources;
    if list.len() > limits.max_files {
        return Err(Problem::too_large(format!(
            "{field} has {} files; send at most {}.",
            list.len(),
            limits.max_files
        )));
    }
    let mut files = Vec::with_capacity(list.len());
    let mut total = 0_u64;
    // Where in the list each well-formed file stands.
    let mut places = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        let Some(file) = file(value, &format!("{field}[{i}]"), problems) else { continue };
        if file.content.len() > limits.max_file_bytes {
            return Err(Problem::too_large(format!(
                "{field}[{i}] has {} bytes; a file may have {}.",
                file.content.len(),
                limits.max_file_bytes
            )));
        }
        total += file.content.len() as u64;
        files.push(file);
        places.push(i);
    }
    if total > limits.max_total_bytes {
        return Err(Problem::too_large(format!(
            "The files have {total} bytes; send at most {}.",
            limits.max_total_bytes
        )));
    }
    if files.is_empty() && problems.is_empty() {
        problems.add(field, "must have at least one file");
    }
    for (at, conflict) in find_conflicts(files.iter().map(|f| &f.path)) {
        problems.add(format!("{field}[{}].path", places[at]), conflict.to_string());
    }
    Ok(Some(files))
}

fn file(value: Value, path: &str, problems: &mut Problems) -> Option<SourceFile> {
    let mut fields = Fields::of(value, path, problems)?;
    let at = fields.required_text("path", PATH, problems);
    let at = at.and_then(|text| {
        TreePath::parse(&text).map_err(|e| problems.add(fields.name("path"), format!("the path {e}"))).ok()
    });
    let encoding = fields.text("encoding", WORDS, problems);
    let content = match fields.take("content") {
        Some(Value::String(text)) => match encoding.as_deref() {
            None | Some("utf8") => Some(Bytes::from(text)),
            Some("base64") => STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| problems.add(fields.name("content"), "is not valid base64"))
                .ok(),
            Some(_) => {
                problems.add(fields.name("encoding"), "must be utf8 or base64");
                None
            }
        },
        Some(_) => {
            problems.add(fields.name("content"), "must be a string");
            None
        }
        None => {
            problems.add(fields.name("content"), "is required");
            None
        }
    };
    fields.finish(problems);
    Some(SourceFile { path: at?, content: content? })
}

type Edits = Vec<(HistoryEdit, Option<Bytes>)>;

fn history(fields: &mut Fields, settings: &Settings, problems: &mut Problems) -> Result<Edits, Problem> {
    const FIELD: &str = "historyMessages";
    let Some(list) = fields.list(FIELD, problems) else { return Ok(Vec::new()) };
    let most = settings.sources.max_history_messages;
    if list.len() > most {
        return Err(Problem::too_large(format!("{FIELD} has {} messages; send at most {most}.", list.len())));
    }
    let mut edits = Vec::new();
    for (i, value) in list.into_iter().enumerate() {
        let path = format!("{FIELD}[{i}]");
        let Some(mut message) = Fields::of(value, &path, problems) else { continue };
        let role = message.required_text("role", WORDS, problems);
        if role.is_some_and(|r| !matches!(r.as_str(), "user" | "assistant" | "system")) {
            problems.add(message.name("role"), "must be user, assistant or system");
        }
        match message.take("content") {
            Some(Value::String(content)) => match diff::edits_of(&message.name("content"), &content) {
                Ok(more) => edits.extend(more),
                Err(found) => problems.extend(found),
            },
            Some(_) => problems.add(message.name("content"), "must be a string"),
            None => problems.add(message.name("content"), "is required"),
        }
        message.finish(problems);
    }
    Ok(edits)
}

fn custom_domain(fields: &mut Fields, settings: &Settings, problems: &mut Problems) -> Option<Hostname> {
    let text = fields.text("customDomain", 253, problems)?;
    let domains = &settings.domains;
    let parsed = Hostname::parse(&text).map_err(|e| e.to_string());
    let checked = parsed.and_then(|host| {
        claimable(&host, &domains.base, &domains.platform_hosts).map(|()| host).map_err(ToOwned::to_owned)
    });
    checked.map_err(|why| problems.add("customDomain", why)).ok()
}

fn target(fields: &mut Fields, problems: &mut Problems) -> Target {
    match fields.text("target", WORDS, problems) {
        None => Target::Production,
        Some(word) => Target::parse(&word).unwrap_or_else(|| {
            problems.add("target", "must be production or preview");
            Target::Production
        }),
    }
}

fn env(fields: &mut Fields, settings: &Settings, problems: &mut Problems) -> BTreeMap<String, String> {
    let Some(object) = fields.object("env", problems) else { return BTreeMap::new() };
    let entries = object.into_entries();
    let limits = &settings.sources;
    if entries.len() > limits.max_env_variables {
        problems.add("env", format!("must have at most {} variables", limits.max_env_variables));
    }
    let mut env = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in entries {
        let mut chars = name.bytes();
        let first_ok = chars.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first_ok || !chars.all(|b| b.is_ascii_alphanumeric() || b == b'_') || name.len() > WORDS {
            problems.add("env", "names must be letters, digits and underscores, and not begin with a digit");
            continue;
        }
        match value {
            Value::String(text) if !text.contains('\0') => {
                bytes += name.len() + text.len();
                env.insert(name, text);
            }
            Value::String(_) => problems.add(format!("env.{name}"), "must not contain NUL"),
            _ => problems.add(format!("env.{name}"), "must be a string"),
        }
    }
    if bytes > limits.max_env_bytes {
        problems.add("env", format!("must have at most {} bytes in all", limits.max_env_bytes));
    }
    env
}

pub(super) fn build(fields: &mut Fields, problems: &mut Problems) -> BuildOverrides {
    let Some(mut build) = fields.object("build", problems) else { return BuildOverrides::default() };
    let overrides = BuildOverrides {
        command: build.text("command", COMMAND, problems).filter(|c| !c.trim().is_empty()),
        output_directory: folder(&mut build, "outputDirectory", problems),
        install_command: build.text("installCommand", COMMAND, problems),
        root_directory: folder(&mut build, "rootDirectory", problems),
        framework: framework(&mut build, problems),
        node: build.text("node", WORDS, problems).filter(|v| !v.trim().is_empty()),
        package_manager: build.text("packageManager", WORDS, problems).filter(|v| !v.trim().is_empty()),
        cache: build.boolean("cache", problems),
    };
    build.finish(problems);
    overrides
}

fn framework(build: &mut Fields, problems: &mut Problems) -> Option<String> {
    let name = build.text("framework", WORDS, problems)?;
    let known = crate::pipeline::frameworks();
    if !known.contains(&name.as_str()) {
        problems.add(build.name("framework"), format!("must be one of {}", known.join(", ")));
    }
    Some(name)
}

fn folder(build: &mut Fields, field: &str, problems: &mut Problems) -> Option<String> {
    let text = build.text(field, PATH, problems)?;
    parse_folder(&text).map_err(|e| problems.add(build.name(field), format!("the path {e}"))).ok()
}

/// A document with its keys in order, so that equal bodies have equal digests however they were written.
pub(super) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let sorted: BTreeMap<&String, String> = object.iter().map(|(k, v)| (k, canonical(v))).collect();
            let entries: Vec<String> =
                sorted.into_iter().map(|(k, v)| format!("{}:{v}", Value::String(k.clone()))).collect();
            format!("{{{}}}", entries.join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_bodies_have_one_canonical_form() {
        assert_eq!(
            canonical(&json!({"b":1,"a":[{"y":0,"x":null}]})),
            canonical(&json!({"a":[{"x":null,"y":0}],"b":1}))
        );
        assert_ne!(canonical(&json!({"a":1})), canonical(&json!({"a":2})));
    }
}
