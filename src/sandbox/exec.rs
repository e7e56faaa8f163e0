//! Watches one command from its start until nothing of it is left: pipes its output with back
//! pressure, holds it to its limits, kills it whole, and says how it ended. Starts nothing itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::error::SandboxError;
use super::limits::{LimitHit, Limits};
use super::meter::{Meter, Sample};
use super::processes;
use super::shim::STARTED;
use super::{ExecEnd, ExecOutcome};

/// How long the reader of the output may take for the rest once the command has ended.
const LAST_OUTPUT: Duration = Duration::from_secs(5);
/// What is kept of the messages of the set-up.
const SETUP_BYTES: usize = 8 * 1024;
const CHUNK_BYTES: usize = 16 * 1024;

/// One started command.
pub(super) struct Started {
    pub child: Child,
    pub output: pipe::Receiver,
    /// Messages of launcher, bubblewrap and shim; `None` where the command was started directly.
    pub setup: Option<pipe::Receiver>,
}

/// What it is held to.
pub(super) struct Watch {
    pub limits: Limits,
    pub wall: Duration,
    pub meter: Meter,
}

/// Kills the command if the one who watches it is dropped.
struct Killer {
    leader: i32,
    meter: Meter,
    armed: bool,
}

impl Drop for Killer {
    fn drop(&mut self) {
        self.meter.share.stopped();
        if self.armed {
            processes::kill_group(self.leader);
            self.meter.kill_now();
        }
    }
}

pub(super) async fn supervise(
    started: Started,
    watch: Watch,
    output: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
) -> Result<ExecOutcome, SandboxError> {
    let Started { mut child, output: pipe, setup } = started;
    let begun = Instant::now();
    let Some(leader) = child.id().and_then(|pid| i32::try_from(pid).ok()) else {
        return Err(SandboxError::Setup { message: "the launcher ended at once".into() });
    };
    let mut killer = Killer { leader, meter: watch.meter.clone(), armed: true };
    let before = watch.meter.sample(leader).await;
    let count = Arc::new(OutputCount { bytes: AtomicU64::new(0), over: Notify::new() });
    let pump = tokio::spawn(pump(pipe, output, watch.limits.output_bytes, Arc::clone(&count)));
    let setup = setup.map(|pipe| tokio::spawn(read_setup(pipe)));

    let mut last = before;
    let mut exited = None;
    let ended = tokio::select! {
        status = child.wait() => {
            exited = Some(status);
            Ok(None)
        }
        () = cancel.cancelled() => Ok(Some(ExecEnd::Cancelled)),
        () = tokio::time::sleep(watch.wall) => Ok(Some(ExecEnd::Killed(LimitHit::Wall { limit: watch.wall }))),
        () = count.over.notified() => Ok(Some(output_hit(&watch))),
        hit = watch.meter.limits_hit(&watch.limits, leader, before, &mut last) => hit.map(|hit| Some(ExecEnd::Killed(hit))),
        hit = watch.meter.disk_hit(&watch.limits) => hit.map(|hit| Some(ExecEnd::Killed(hit))),
    };
    let wall = begun.elapsed();
    killer.meter.kill_all(exited.is_none().then_some(leader)).await?;
    let status = match exited {
        Some(status) => status,
        None => child.wait().await,
    }
    .map_err(|source| SandboxError::Process { action: "wait for the sandbox", source })?;
    killer.armed = false;

    finish_pump(pump).await;
    let setup = match setup {
        Some(task) => {
            tokio::time::timeout(LAST_OUTPUT, task).await.ok().and_then(Result::ok).unwrap_or_default()
        }
        None => SetupText { started: true, text: Vec::new() },
    };
    // Polling can't see what has ended, so the last sight of it counts there.
    let after = watch.meter.final_sample().unwrap_or(last);
    let end = match ended? {
        Some(end) => end,
        None => settle(status, &watch, before, after, &count, setup).await?,
    };
    Ok(ExecOutcome {
        end,
        wall,
        cpu: after.cpu.saturating_sub(before.cpu),
        memory_peak_bytes: after.memory_peak_bytes,
        output_bytes: count.bytes.load(Ordering::Relaxed),
        process_limit_hits: after.process_limit_hits.saturating_sub(before.process_limit_hits),
    })
}

fn output_hit(watch: &Watch) -> ExecEnd {
    ExecEnd::Killed(LimitHit::Output { limit_bytes: watch.limits.output_bytes })
}

/// What an exit code means once the counters are known: the victim of a limit may have been a
/// grandchild, and its parent may have ended with any code.
async fn settle(
    status: std::process::ExitStatus,
    watch: &Watch,
    before: Sample,
    after: Sample,
    count: &OutputCount,
    setup: SetupText,
) -> Result<ExecEnd, SandboxError> {
    if let Some(hit) = watch.meter.hit(&watch.limits, before, after) {
        return Ok(ExecEnd::Killed(hit));
    }
    if count.bytes.load(Ordering::Relaxed) > watch.limits.output_bytes {
        return Ok(output_hit(watch));
    }
    if !setup.started {
        let message = String::from_utf8_lossy(&setup.text).trim().to_owned();
        return Err(SandboxError::Setup { message });
    }
    if let Some(hit) = watch.meter.measure_disk(&watch.limits).await? {
        return Ok(ExecEnd::Killed(hit));
    }
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(ExecEnd::Exited(0)),
        (Some(_), _) if after.process_limit_hits > before.process_limit_hits => {
            Ok(ExecEnd::Killed(LimitHit::Processes { limit: watch.limits.processes, polled: false }))
        }
        (Some(code), _) => Ok(ExecEnd::Exited(code)),
        (None, signal) => Err(SandboxError::KilledFromOutside { signal: signal.unwrap_or(0) }),
    }
}

struct OutputCount {
    bytes: AtomicU64,
    over: Notify,
}

/// Reads until nobody writes any more. Beyond the limit, and once nobody listens, it reads on and
/// drops, so that the writer does not hang.
async fn pump(mut pipe: pipe::Receiver, output: mpsc::Sender<Bytes>, limit: u64, count: Arc<OutputCount>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut listening = true;
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let size = u64::try_from(read).unwrap_or(u64::MAX);
        let had = count.bytes.fetch_add(size, Ordering::Relaxed);
        let room = usize::try_from(limit.saturating_sub(had)).unwrap_or(usize::MAX);
        if had + size > limit {
            count.over.notify_one();
        }
        let kept = read.min(room);
        if listening && kept > 0 {
            listening = output.send(Bytes::copy_from_slice(&buffer[..kept])).await.is_ok();
        }
    }
}

async fn finish_pump(mut pump: JoinHandle<()>) {
    if tokio::time::timeout(LAST_OUTPUT, &mut pump).await.is_err() {
        // The listener does not take what is left; the command must not stay open for that.
        pump.abort();
    }
}

#[derive(Default)]
struct SetupText {
    started: bool,
    text: Vec<u8>,
}

async fn read_setup(mut pipe: pipe::Receiver) -> SetupText {
    let mut setup = SetupText::default();
    let mut buffer = vec![0; 1024];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        if setup.started || setup.text.len() > SETUP_BYTES {
            continue;
        }
        setup.text.extend_from_slice(&buffer[..read]);
        setup.started = setup.text.split(|byte| *byte == b'\n').any(|line| line == STARTED.as_bytes());
    }
    setup
}

/// A pipe whose reading end is ours, and whose writing end a child gets.
pub(super) fn pipe() -> Result<(pipe::Receiver, OwnedFd), SandboxError> {
    let (reader, writer) =
        std::io::pipe().map_err(|source| SandboxError::Process { action: "make a pipe", source })?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())
        .map_err(|source| SandboxError::Process { action: "read from a pipe", source })?;
    Ok((reader, writer.into()))
}
