//! One E2B sandbox through `envd`, the daemon inside: files over plain HTTP, processes and folders over
//! Connect with JSON. A command is started with its arguments and variables as fields, never as a line.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::multipart::{Form, Part};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::frames::{BadFrame, Frame, Frames, envelope};
use crate::sandbox::remote::{Again, Caller, Entry, Machine, Order, RemoteError, RemoteSettings, with_query};

/// Where `envd` listens in every sandbox.
pub const PORT: u16 = 49_983;
/// Relative to the home of the template's user.
const WORK: &str = "libra/work";
/// How often `envd` shall show that a silent stream lives, in seconds; as the official client asks.
const KEEPALIVE: &str = "50";
/// Added to a command's own time before `envd` ends it by itself.
const GRACE: Duration = Duration::from_secs(30);
/// As shells answer for what can't be run.
const NOT_FOUND: i32 = 127;

/// The way to one sandbox's daemon.
pub(super) struct Envd {
    caller: Caller,
    base: String,
}

pub(super) struct EnvdMachine {
    envd: Envd,
    root: String,
    api: Arc<Caller>,
    delete: String,
}

#[derive(Deserialize)]
struct Stat {
    entry: StatEntry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatEntry {
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    path: String,
    symlink_target: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    event: Event,
}

/// One of these; keep-alives are none of them.
#[derive(Default, Deserialize)]
struct Event {
    start: Option<Value>,
    data: Option<Data>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct Data {
    stdout: Option<String>,
    stderr: Option<String>,
}

/// proto3's JSON leaves out what is zero or false.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    exited: bool,
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
struct Trailer {
    error: Option<TrailerError>,
}

#[derive(Deserialize)]
struct TrailerError {
    #[serde(default)]
    code: String,
}

/// What the reading of one stream came to.
enum Read {
    Ended(i32),
    /// The program or the folder is not there.
    Unstartable,
    /// The connection was lost; the command may run on.
    Cut,
    /// `envd` knows no such command (any more).
    Unknown,
}

impl Envd {
    pub fn new(
        settings: &RemoteSettings,
        id: &str,
        base: String,
        token: Option<&str>,
    ) -> Result<Self, RemoteError> {
        let mut headers = HeaderMap::new();
        let port = PORT.to_string();
        for (name, value) in
            [("e2b-sandbox-id", Some(id)), ("e2b-sandbox-port", Some(&*port)), ("x-access-token", token)]
        {
            if let Some(mut value) = value.and_then(|v| HeaderValue::from_str(v).ok()) {
                value.set_sensitive(name == "x-access-token");
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        Ok(Self { caller: Caller::new("e2b", settings, headers)?, base })
    }

    fn unary(&self, client: &Client, method: &str, body: &Value) -> RequestBuilder {
        client.post(format!("{}/{method}", self.base)).header("connect-protocol-version", "1").json(body)
    }

    /// Asks for a stream of the process service.
    async fn stream(
        &self,
        action: &'static str,
        method: &str,
        body: &Value,
        wall: Duration,
        again: Again,
    ) -> Result<Response, RemoteError> {
        let framed = envelope(body.to_string().as_bytes());
        let deadline = (wall + GRACE).as_millis().to_string();
        let request = |c: &Client| {
            c.post(format!("{}/process.Process/{method}", self.base))
                .header(CONTENT_TYPE, "application/connect+json")
                .header("connect-protocol-version", "1")
                .header("connect-timeout-ms", &deadline)
                .header("keepalive-ping-interval", KEEPALIVE)
                .body(framed.clone())
        };
        self.caller.send(action, again, request).await
    }

    async fn stat(&self, path: &str) -> Result<Option<StatEntry>, RemoteError> {
        let body = json!({ "path": path });
        let asked = self
            .caller
            .json::<Stat>("look at a file", Again::Harmless, |c| {
                self.unary(c, "filesystem.Filesystem/Stat", &body)
            })
            .await;
        match asked {
            Ok(stat) => Ok(Some(stat.entry)),
            Err(RemoteError::Gone { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

impl EnvdMachine {
    pub async fn prepare(envd: Envd, api: Arc<Caller>, delete: String) -> Result<Self, RemoteError> {
        const ACTION: &str = "make the work folder";
        let body = json!({ "path": WORK });
        let made = envd
            .caller
            .done(ACTION, Again::Harmless, |c| envd.unary(c, "filesystem.Filesystem/MakeDir", &body))
            .await;
        match made {
            // 409: it is there already.
            Ok(()) | Err(RemoteError::Failed { status: 409, .. }) => {}
            Err(e) => return Err(e),
        }
        let entry = envd.stat(WORK).await?.ok_or(RemoteError::Gone { provider: "e2b" })?;
        let root = entry.path.strip_suffix("/work").filter(|root| root.starts_with('/'));
        let root = root.ok_or_else(|| envd.caller.nonsense(ACTION, "a folder elsewhere"))?.to_owned();
        Ok(Self { envd, root, api, delete })
    }

    /// Reads a stream of events to its end or to where it breaks.
    async fn read(
        &self,
        answer: Response,
        started: &mut bool,
        output: &mpsc::Sender<Bytes>,
    ) -> Result<Read, RemoteError> {
        const ACTION: &str = "run a command";
        let nonsense = |why: &str| self.envd.caller.nonsense(ACTION, why);
        let mut body = answer.bytes_stream();
        let mut frames = Frames::default();
        loop {
            while let Some(frame) = frames.next().map_err(|BadFrame| nonsense("a broken envelope"))? {
                let message = match frame {
                    Frame::Message(message) => message,
                    Frame::End(trailer) => return self.trailer(&trailer, *started),
                };
                let Message { event } =
                    serde_json::from_slice(&message).map_err(|_| nonsense("an event that can't be read"))?;
                *started |= event.start.is_some();
                if let Some(data) = event.data {
                    for text in [data.stdout, data.stderr].into_iter().flatten() {
                        let chunk =
                            STANDARD.decode(text).map_err(|_| nonsense("output that is no base64"))?;
                        // Nobody listens any more: the command goes on all the same.
                        drop(output.send(chunk.into()).await);
                    }
                }
                if let Some(end) = event.end {
                    return Ok(Read::Ended(exit_code(&end)));
                }
            }
            match body.next().await {
                Some(Ok(chunk)) => frames.push(&chunk),
                Some(Err(_)) | None => return Ok(Read::Cut),
            }
        }
    }

    fn trailer(&self, trailer: &[u8], started: bool) -> Result<Read, RemoteError> {
        let nonsense = |why: String| self.envd.caller.nonsense("run a command", why);
        let trailer: Trailer =
            serde_json::from_slice(trailer).map_err(|_| nonsense("an end that can't be read".into()))?;
        match trailer.error {
            Some(error) if error.code == "not_found" && started => Ok(Read::Unknown),
            Some(error) if matches!(error.code.as_str(), "not_found" | "invalid_argument") => {
                Ok(Read::Unstartable)
            }
            Some(error) if matches!(error.code.as_str(), "unavailable" | "aborted" | "canceled") => {
                Ok(Read::Cut)
            }
            Some(error) => Err(nonsense(format!("the error `{}`", error.code.escape_debug()))),
            None => Ok(Read::Cut),
        }
    }
}

/// As shells count: 128 + signal for what was killed.
fn exit_code(end: &End) -> i32 {
    if end.exited || end.exit_code > 0 {
        return end.exit_code;
    }
    match end.status.as_str() {
        "signal: hangup" => 129,
        "signal: interrupt" => 130,
        "signal: aborted" | "signal: aborted (core dumped)" => 134,
        "signal: segmentation fault" | "signal: segmentation fault (core dumped)" => 139,
        "signal: terminated" => 143,
        status if status.starts_with("signal: ") => 137,
        _ => end.exit_code,
    }
}

#[async_trait::async_trait]
impl Machine for EnvdMachine {
    fn root(&self) -> &str {
        &self.root
    }

    async fn upload(&self, files: Vec<(String, Bytes)>) -> Result<(), RemoteError> {
        let url = format!("{}/files", self.envd.base);
        let form = || {
            files.iter().fold(Form::new().percent_encode_noop(), |form, (path, content)| {
                let size = content.len() as u64;
                let part = Part::stream_with_length(content.clone(), size).file_name(path.clone());
                form.part("file", part)
            })
        };
        self.envd.caller.done("upload files", Again::Harmless, |c| c.post(&url).multipart(form())).await
    }

    async fn run(&self, order: &Order, output: mpsc::Sender<Bytes>) -> Result<i32, RemoteError> {
        const ACTION: &str = "run a command";
        let Some((program, arguments)) = order.argv.split_first() else { return Ok(NOT_FOUND) };
        let envs: serde_json::Map<String, Value> =
            order.env.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
        let start = json!({
            "process": { "cmd": program, "args": arguments, "envs": envs, "cwd": order.directory },
            "tag": order.name,
            "stdin": false,
        });
        let again = json!({ "process": { "tag": order.name } });
        let mut started = false;
        // Only here: a start made twice is two commands.
        let mut answer = self.envd.stream(ACTION, "Start", &start, order.wall, Again::Never).await;
        let mut failures = 0;
        loop {
            let read = match answer {
                Ok(answer) => self.read(answer, &mut started, &output).await?,
                Err(RemoteError::Gone { .. }) if started => Read::Unknown,
                // Whether it was started is found out by asking for it.
                Err(e) if e.outcome_is_unknown() => Read::Cut,
                Err(e) => return Err(e),
            };
            match read {
                Read::Ended(code) => return Ok(code),
                Read::Unstartable if failures == 0 => {
                    let text = format!("libra: `{program}` can't be run in this sandbox\n");
                    drop(output.send(text.into()).await);
                    return Ok(NOT_FOUND);
                }
                Read::Unstartable | Read::Unknown => {
                    return Err(RemoteError::CommandLost { provider: "e2b" });
                }
                Read::Cut if failures >= self.envd.caller.settings.retries => {
                    return Err(RemoteError::CommandLost { provider: "e2b" });
                }
                Read::Cut => {
                    tracing::warn!(
                        sandbox.provider = "e2b",
                        "the output of a command was cut; connecting again"
                    );
                    tokio::time::sleep(self.envd.caller.pause(failures)).await;
                    failures += 1;
                    // What was printed meanwhile is not sent again.
                    let notice = "libra: the connection to the sandbox was lost for a moment; some output is missing\n";
                    drop(output.send(Bytes::from_static(notice.as_bytes())).await);
                    answer = self.envd.stream(ACTION, "Connect", &again, order.wall, Again::Harmless).await;
                }
            }
        }
    }

    async fn kill(&self, name: &str) -> Result<(), RemoteError> {
        let body = json!({ "process": { "tag": name }, "signal": "SIGNAL_SIGKILL" });
        let killed = self
            .envd
            .caller
            .done("kill a command", Again::Harmless, |c| {
                self.envd.unary(c, "process.Process/SendSignal", &body)
            })
            .await;
        match killed {
            Err(RemoteError::Gone { .. }) => Ok(()),
            other => other,
        }
    }

    async fn entry(&self, path: &str) -> Result<Entry, RemoteError> {
        Ok(match self.envd.stat(path).await? {
            None => Entry::Nothing,
            // `envd` answers with the type of what a link leads to.
            Some(entry) if entry.symlink_target.is_some() => Entry::Link,
            Some(entry) => match entry.r#type.as_str() {
                "FILE_TYPE_DIRECTORY" => Entry::Folder,
                "FILE_TYPE_SYMLINK" => Entry::Link,
                _ => Entry::File,
            },
        })
    }

    async fn download(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, std::io::Error>>, RemoteError> {
        let url = format!("{}/files", self.envd.base);
        let answer = self
            .envd
            .caller
            .send("download the output", Again::Harmless, |c| c.get(with_query(&url, &[("path", path)])))
            .await?;
        let cut =
            |e: reqwest::Error| std::io::Error::new(std::io::ErrorKind::ConnectionAborted, e.without_url());
        Ok(answer.bytes_stream().map_err(cut).boxed())
    }

    async fn destroy(&self) -> Result<(), RemoteError> {
        super::delete(&self.api, &self.delete).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_counted_as_shells_count() {
        let code = |text: &str| exit_code(&serde_json::from_str(text).unwrap());
        assert_eq!(code(r#"{"exited":true,"status":"exit status 0"}"#), 0);
        assert_eq!(code(r#"{"exitCode":3,"exited":true,"status":"exit status 3"}"#), 3);
        assert_eq!(code(r#"{"exitCode":-1,"status":"signal: killed"}"#), 137);
        assert_eq!(code(r#"{"exitCode":-1,"status":"signal: terminated"}"#), 143);
    }
}
