//! One Daytona sandbox through its toolbox: files, and sessions whose log is followed. A session takes a
//! line for a shell; ours names a script and an order, both of which were uploaded before, and nothing
//! of a tenant's is ever in it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::Client;
use reqwest::RequestBuilder;
use reqwest::multipart::{Form, Part};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::logs::{Log, Refused, upgrade};
use crate::sandbox::remote::{Again, Caller, Entry, Machine, Order, RemoteError, with_query};

const PROVIDER: &str = "daytona";
/// Runs one order inside.
const RUNNER: &str = include_str!("run.mjs");
/// Between two looks at a command whose log has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The way to one sandbox's toolbox.
pub(super) struct Toolbox {
    caller: Arc<Caller>,
    base: String,
}

pub(super) struct ToolboxMachine {
    toolbox: Toolbox,
    root: String,
    delete: String,
}

#[derive(Deserialize)]
struct WorkDir {
    dir: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    #[serde(default)]
    is_dir: bool,
    #[serde(default)]
    mode: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    cmd_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Command {
    exit_code: Option<i32>,
}

impl Toolbox {
    pub fn new(caller: Arc<Caller>, base: String) -> Self {
        Self { caller, base }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn post(
        &self,
        action: &'static str,
        again: Again,
        path: &str,
        body: &Value,
    ) -> Result<(), RemoteError> {
        let url = self.url(path);
        self.caller.done(action, again, |c| c.post(&url).json(body)).await
    }

    async fn make_folder(&self, path: &str) -> Result<(), RemoteError> {
        let url = self.url("/files/folder");
        let make = |c: &Client| c.post(with_query(&url, &[("path", path), ("mode", "755")]));
        self.caller.done("make the work folder", Again::Harmless, make).await
    }

    async fn upload(&self, files: &[(String, Bytes)]) -> Result<(), RemoteError> {
        let url = self.url("/files/bulk-upload");
        let form = || {
            let mut form = Form::new().percent_encode_noop();
            for (number, (path, content)) in files.iter().enumerate() {
                let size = content.len() as u64;
                let part = Part::stream_with_length(content.clone(), size).file_name(path.clone());
                form = form.text(format!("files[{number}].path"), path.clone());
                form = form.part(format!("files[{number}].file"), part);
            }
            form
        };
        self.caller.done("upload files", Again::Harmless, |c| c.post(&url).multipart(form())).await
    }
}

impl ToolboxMachine {
    pub async fn prepare(toolbox: Toolbox, delete: String) -> Result<Self, RemoteError> {
        const ACTION: &str = "find the work folder";
        let url = toolbox.url("/work-dir");
        let WorkDir { dir } = toolbox.caller.json(ACTION, Again::Harmless, |c| c.get(&url)).await?;
        // It becomes part of a line for a shell.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        if !dir.starts_with('/') || !dir.chars().all(plain) {
            return Err(toolbox.caller.nonsense(ACTION, "a folder with an odd name"));
        }
        let root = format!("{}/libra", dir.trim_end_matches('/'));
        toolbox.make_folder(&format!("{root}/work")).await?;
        toolbox.make_folder(&format!("{root}/orders")).await?;
        toolbox.upload(&[(format!("{root}/run.mjs"), Bytes::from_static(RUNNER.as_bytes()))]).await?;
        Ok(Self { toolbox, root, delete })
    }

    /// Follows the log and answers the exit code. The code is there a moment after the log has ended.
    async fn follow(
        &self,
        order: &Order,
        command: &str,
        output: &mpsc::Sender<Bytes>,
    ) -> Result<i32, RemoteError> {
        const ACTION: &str = "follow a command";
        let session = &order.name;
        let logs =
            self.toolbox.url(&format!("/process/session/{session}/command/{command}/logs?follow=true"));
        let state = self.toolbox.url(&format!("/process/session/{session}/command/{command}"));
        let caller = &self.toolbox.caller;
        let mut log = Log::default();
        let mut failures = 0;
        loop {
            let ask = |c: &Client| -> RequestBuilder { upgrade(c.get(&logs)) };
            let answer = caller.send(ACTION, Again::Harmless, ask).await?;
            let ended = log
                .follow(answer, output)
                .await
                .map_err(|Refused| caller.nonsense(ACTION, "no WebSocket"))?;
            let tired = failures >= caller.settings.retries;
            // A command whose log was cut may have ended meanwhile, and said more before it did.
            let looks = if ended || tired { u64::from(caller.settings.retries) * 10 + 1 } else { 0 };
            for _ in 0..looks {
                let now: Command =
                    caller.json("look at a command", Again::Harmless, |c| c.get(&state)).await?;
                if let Some(code) = now.exit_code {
                    drop(output.send(log.rest()).await);
                    return Ok(code);
                }
                tokio::time::sleep(LOOK).await;
            }
            if tired {
                return Err(RemoteError::CommandLost { provider: PROVIDER });
            }
            tracing::warn!(sandbox.provider = PROVIDER, "the output of a command was cut; connecting again");
            failures += 1;
        }
    }
}

#[async_trait::async_trait]
impl Machine for ToolboxMachine {
    fn root(&self) -> &str {
        &self.root
    }

    async fn upload(&self, files: Vec<(String, Bytes)>) -> Result<(), RemoteError> {
        self.toolbox.upload(&files).await
    }

    async fn run(&self, order: &Order, output: mpsc::Sender<Bytes>) -> Result<i32, RemoteError> {
        const ACTION: &str = "run a command";
        let name = &order.name;
        let env: serde_json::Map<String, Value> =
            order.env.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        let text = json!({ "argv": order.argv, "env": env, "directory": order.directory }).to_string();
        self.toolbox.upload(&[(format!("{}/orders/{name}.json", self.root), text.into())]).await?;
        self.toolbox.post(ACTION, Again::Never, "/process/session", &json!({ "sessionId": name })).await?;
        let line = json!({
            "command": format!("node {}/run.mjs {name}", self.root),
            "runAsync": true,
            "suppressInputEcho": true,
        });
        let url = self.toolbox.url(&format!("/process/session/{name}/exec"));
        let started: Started =
            self.toolbox.caller.json(ACTION, Again::Never, |c| c.post(&url).json(&line)).await?;
        let command = super::checked(&started.cmd_id)
            .ok_or_else(|| self.toolbox.caller.nonsense(ACTION, "an id of its own kind"))?;
        let code = self.follow(order, command, &output).await?;
        // With the session goes whatever the command left running.
        self.kill(name).await?;
        Ok(code)
    }

    async fn kill(&self, name: &str) -> Result<(), RemoteError> {
        let url = self.toolbox.url(&format!("/process/session/{name}"));
        match self.toolbox.caller.done("kill a command", Again::Harmless, |c| c.delete(&url)).await {
            Err(RemoteError::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Of the list of its folder: asked about one file alone, the toolbox follows links.
    async fn entry(&self, path: &str) -> Result<Entry, RemoteError> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let url = self.toolbox.url("/files");
        let listed = self
            .toolbox
            .caller
            .json::<Vec<Listed>>("look at a file", Again::Harmless, |c| {
                c.get(with_query(&url, &[("path", folder)]))
            })
            .await;
        let listed = match listed {
            Ok(listed) => listed,
            Err(RemoteError::Gone { .. }) => return Ok(Entry::Nothing),
            Err(e) => return Err(e),
        };
        Ok(match listed.into_iter().find(|entry| entry.name == name) {
            None => Entry::Nothing,
            // Go's words: `L` is a link.
            Some(entry) if entry.mode.starts_with('L') => Entry::Link,
            Some(entry) if entry.is_dir => Entry::Folder,
            Some(_) => Entry::File,
        })
    }

    async fn download(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, std::io::Error>>, RemoteError> {
        let url = self.toolbox.url("/files/download");
        let ask = |c: &Client| c.get(with_query(&url, &[("path", path)]));
        let answer = self.toolbox.caller.send("download the output", Again::Harmless, ask).await?;
        let cut =
            |e: reqwest::Error| std::io::Error::new(std::io::ErrorKind::ConnectionAborted, e.without_url());
        Ok(answer.bytes_stream().map_err(cut).boxed())
    }

    async fn destroy(&self) -> Result<(), RemoteError> {
        super::delete(&self.toolbox.caller, &self.delete).await
    }
}
