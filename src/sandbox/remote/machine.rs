//! One sandbox that somebody else runs: holds commands to the limits that can be held from here (time,
//! output), kills from afar, and takes the output in as one hostile archive.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use super::settings::RemoteSettings;
use super::unpack;
use crate::sandbox::collect::{CollectLimits, CollectedFile, SkippedEntry};
use crate::sandbox::error::SandboxError;
use crate::sandbox::limits::{LimitHit, Limits};
use crate::sandbox::{ExecEnd, ExecOrder, ExecOutcome, Sandbox, path};

/// Chunks of output between the provider's stream and whoever listens; the stream waits beyond that.
const CHUNKS: usize = 16;
/// What is read of `node --version`.
const VERSION_BYTES: usize = 100;

/// One command, with absolute paths of the sandbox.
pub(in crate::sandbox) struct Order {
    /// Names it among the commands of this sandbox, so that it can be killed whatever its start told us.
    pub name: String,
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub directory: String,
    pub wall: Duration,
}

/// What lies at a path; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sandbox) enum Entry {
    Nothing,
    File,
    Folder,
    Link,
}

/// What one running sandbox of a provider can do.
#[async_trait::async_trait]
pub(in crate::sandbox) trait Machine: Send + Sync {
    /// A folder of the sandbox that is ours; the project lies in `work` beneath it.
    fn root(&self) -> &str;
    async fn upload(&self, files: Vec<(String, Bytes)>) -> Result<(), RemoteError>;
    /// Runs a command to its end and answers its exit code. Its output goes to `output`, standard error
    /// included; a slow reader slows the stream down.
    async fn run(&self, order: &Order, output: mpsc::Sender<Bytes>) -> Result<i32, RemoteError>;
    /// Kills the command of that name; one that has ended is no error.
    async fn kill(&self, name: &str) -> Result<(), RemoteError>;
    async fn entry(&self, path: &str) -> Result<Entry, RemoteError>;
    async fn download(
        &self,
        path: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, std::io::Error>>, RemoteError>;
    /// Deletes the sandbox; one that is gone is no error.
    async fn destroy(&self) -> Result<(), RemoteError>;
}

pub(super) struct RemoteSandbox {
    id: String,
    limits: Limits,
    settings: RemoteSettings,
    /// `None` once it was destroyed.
    machine: Option<Arc<dyn Machine>>,
    sealed: bool,
    commands: u32,
    skipped: Vec<SkippedEntry>,
}

/// Public words of every command, as the local provider has them. `PATH` and `HOME` are the image's.
fn base_environment() -> Vec<(String, String)> {
    [
        ("CI", "1"),
        ("npm_config_update_notifier", "false"),
        ("npm_config_audit", "false"),
        ("npm_config_fund", "false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl RemoteSandbox {
    pub fn new(id: String, limits: Limits, machine: Arc<dyn Machine>, settings: RemoteSettings) -> Self {
        Self { id, limits, settings, machine: Some(machine), sealed: false, commands: 0, skipped: Vec::new() }
    }

    fn machine(&self) -> Result<Arc<dyn Machine>, SandboxError> {
        self.machine.clone().ok_or(SandboxError::Setup { message: "already destroyed".into() })
    }

    /// Which Node the sandbox has, in its own words.
    pub async fn node_version(&mut self) -> Result<String, SandboxError> {
        let machine = self.machine()?;
        let wall = Duration::from_secs(self.settings.request_seconds);
        let order = self.order(&["node", "--version"], machine.root().to_owned(), wall);
        let (sender, mut receiver) = mpsc::channel::<Bytes>(CHUNKS);
        let reading = async {
            let mut said = Vec::new();
            while let Some(chunk) = receiver.recv().await {
                let room = VERSION_BYTES.saturating_sub(said.len());
                said.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            String::from_utf8_lossy(&said).trim().escape_debug().to_string()
        };
        let asking = async { tokio::join!(machine.run(&order, sender), reading) };
        let (code, said) = tokio::time::timeout(wall, asking)
            .await
            .map_err(|_| SandboxError::Setup { message: "`node --version` does not end".into() })?;
        Ok(if code? == 0 { said } else { "no Node".into() })
    }

    fn order(&mut self, argv: &[&str], directory: String, wall: Duration) -> Order {
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        Order { name: self.next_name(), argv, env: base_environment(), directory, wall }
    }

    fn next_name(&mut self) -> String {
        self.commands += 1;
        // Unlike any name of an earlier connection to the same sandbox.
        format!("libra-{}-{}", self.commands, uuid::Uuid::new_v4().simple())
    }

    /// `path` beneath the project, where every folder on the way is one.
    async fn look(&self, directory: &str) -> Result<(String, Entry), SandboxError> {
        path::check_directory(directory)?;
        let machine = self.machine()?;
        let mut at = format!("{}/work", machine.root());
        let mut found = Entry::Folder;
        let names = directory.split('/').filter(|name| !name.is_empty() && *name != ".");
        for name in names {
            match found {
                Entry::Folder => {}
                // Nothing lies beneath a file, and what lies beneath a link is not looked at.
                Entry::Nothing => return Ok((at, Entry::Nothing)),
                Entry::File | Entry::Link => return Ok((at, Entry::Link)),
            }
            at = format!("{at}/{name}");
            found = machine.entry(&at).await?;
        }
        Ok((at, found))
    }

    /// Kills a command; where that fails the whole sandbox goes, so that nothing runs on.
    async fn kill(&self, machine: &dyn Machine, name: &str) {
        if let Err(e) = machine.kill(name).await {
            tracing::warn!(sandbox.id = %self.id, error = %e, "a command could not be killed; the sandbox is deleted");
            if let Err(e) = machine.destroy().await {
                tracing::warn!(sandbox.id = %self.id, error = %e, "the sandbox could not be deleted; the sweep tries again");
            }
        }
    }
}

#[async_trait::async_trait]
impl Sandbox for RemoteSandbox {
    fn id(&self) -> &str {
        &self.id
    }

    async fn write_files(&mut self, files: Vec<(String, Bytes)>) -> Result<(), SandboxError> {
        if self.sealed {
            return Err(SandboxError::Sealed);
        }
        if files.is_empty() {
            return Ok(());
        }
        let machine = self.machine()?;
        let mut placed = Vec::with_capacity(files.len());
        for (name, content) in files {
            path::check(&name)?;
            placed.push((format!("{}/work/{name}", machine.root()), content));
        }
        Ok(machine.upload(placed).await?)
    }

    async fn exec(
        &mut self,
        command: ExecOrder,
        output: mpsc::Sender<Bytes>,
        cancel: CancellationToken,
    ) -> Result<ExecOutcome, SandboxError> {
        self.sealed = true;
        let machine = self.machine()?;
        let (directory, found) = self.look(&command.directory).await?;
        if found != Entry::Folder {
            return Err(SandboxError::DirectoryMissing { directory: command.directory });
        }
        let wall = command.wall.unwrap_or(self.limits.wall);
        let mut env = base_environment();
        env.extend(command.env);
        let order = Order { name: self.next_name(), argv: command.argv, env, directory, wall };
        let count = OutputCount::default();
        let (chunks, received) = mpsc::channel(CHUNKS);
        let begun = Instant::now();
        let passing = pass_on(received, output, self.limits.output_bytes, &count);
        let ended = tokio::select! {
            (code, ()) = async { tokio::join!(machine.run(&order, chunks), passing) } => Some(code),
            () = cancel.cancelled() => None,
            () = tokio::time::sleep(wall) => None,
            () = count.over.notified() => None,
        };
        let taken = begun.elapsed();
        let output_bytes = count.bytes.load(Ordering::Relaxed);
        let over = output_bytes > self.limits.output_bytes;
        let end = match ended {
            Some(code) => {
                let code = code?;
                if over { output_hit(&self.limits) } else { ExecEnd::Exited(code) }
            }
            None => {
                self.kill(&*machine, &order.name).await;
                if cancel.is_cancelled() {
                    ExecEnd::Cancelled
                } else if over {
                    output_hit(&self.limits)
                } else {
                    ExecEnd::Killed(LimitHit::Wall { limit: wall })
                }
            }
        };
        Ok(ExecOutcome {
            end,
            wall: taken,
            // Nobody tells us.
            cpu: Duration::ZERO,
            memory_peak_bytes: None,
            output_bytes,
            process_limit_hits: 0,
        })
    }

    async fn collect(
        &mut self,
        directory: &str,
        into: &Path,
        limits: CollectLimits,
    ) -> Result<Vec<CollectedFile>, SandboxError> {
        self.sealed = true;
        let machine = self.machine()?;
        let (folder, found) = self.look(directory).await?;
        match found {
            Entry::Folder => {}
            Entry::Nothing => return Err(SandboxError::NotFound { directory: directory.to_owned() }),
            Entry::File | Entry::Link => {
                return Err(SandboxError::NotAFolder { directory: directory.to_owned() });
            }
        }
        let archive = format!("{}/output.tar", machine.root());
        let wall = Duration::from_secs(self.settings.pack_seconds);
        // Beside the project, so that it does not hold itself.
        let order = self.order(&["tar", "-cf", &archive, "."], folder, wall);
        let (sender, unread) = mpsc::channel(1);
        drop(unread);
        let unreadable = |kind: std::io::ErrorKind, why: String| SandboxError::OutputUnreadable {
            path: directory.to_owned(),
            source: std::io::Error::new(kind, why),
        };
        match tokio::time::timeout(wall, machine.run(&order, sender)).await {
            Ok(code) => match code? {
                0 => {}
                code => {
                    let why = format!("tar ended with exit code {code}");
                    return Err(unreadable(std::io::ErrorKind::Other, why));
                }
            },
            Err(_) => {
                self.kill(&*machine, &order.name).await;
                let why = format!("it could not be packed within {} s", wall.as_secs());
                return Err(unreadable(std::io::ErrorKind::TimedOut, why));
            }
        }
        let stream = machine.download(&archive).await?;
        let collected = unpack::unpack(stream, into, limits).await?;
        self.skipped = collected.skipped;
        Ok(collected.files)
    }

    fn skipped(&self) -> &[SkippedEntry] {
        &self.skipped
    }

    async fn exists(&mut self, path: &str) -> Result<bool, SandboxError> {
        let (_, found) = self.look(path).await?;
        Ok(matches!(found, Entry::File | Entry::Folder))
    }

    async fn destroy(mut self: Box<Self>) -> Result<(), SandboxError> {
        match self.machine.take() {
            Some(machine) => Ok(machine.destroy().await?),
            None => Ok(()),
        }
    }
}

impl Drop for RemoteSandbox {
    fn drop(&mut self) {
        let (Some(machine), Ok(runtime)) = (self.machine.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let id = std::mem::take(&mut self.id);
        // Where this is lost too, the sweep finds the sandbox by its label.
        runtime.spawn(async move {
            if let Err(e) = machine.destroy().await {
                tracing::warn!(sandbox.id = %id, error = %e, "a dropped sandbox could not be deleted; the sweep tries again");
            }
        });
    }
}

fn output_hit(limits: &Limits) -> ExecEnd {
    ExecEnd::Killed(LimitHit::Output { limit_bytes: limits.output_bytes })
}

#[derive(Default)]
struct OutputCount {
    bytes: AtomicU64,
    over: Notify,
}

/// Hands the output on until the limit. Beyond it, and once nobody listens, it reads on and drops.
async fn pass_on(
    mut received: mpsc::Receiver<Bytes>,
    output: mpsc::Sender<Bytes>,
    limit: u64,
    count: &OutputCount,
) {
    let mut listening = true;
    while let Some(chunk) = received.recv().await {
        let size = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let had = count.bytes.fetch_add(size, Ordering::Relaxed);
        let room = usize::try_from(limit.saturating_sub(had)).unwrap_or(usize::MAX);
        if had + size > limit {
            count.over.notify_one();
        }
        let kept = chunk.slice(..chunk.len().min(room));
        if listening && !kept.is_empty() {
            listening = output.send(kept).await.is_ok();
        }
    }
}
