//! Measures what a command uses and kills all of it, by cgroup where there is one, else by looking at
//! its processes now and then. Decides which limit was hit; what follows from it is decided elsewhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::error::SandboxError;
use super::limits::{LimitHit, Limits};
use super::open_files::{self, Wanted};
use super::processes::{self, Process};
use super::report::Limiter;
use super::share::{DiskShare, Shortage};
use super::tree;
use super::workspace::Workspace;

/// How one sandbox is measured.
#[derive(Clone)]
pub(super) struct Meter {
    pub cgroup: Option<Cgroup>,
    /// A uid that runs nothing but this slot's builds.
    pub slot_uid: Option<u32>,
    pub limiter: Limiter,
    pub workspace: Arc<Workspace>,
    pub poll: Duration,
    pub disk_poll: Duration,
    pub disk_entries: u64,
    pub disk_reserve_bytes: u64,
    /// What this sandbox uses, beside the others of this server.
    pub share: Arc<DiskShare>,
    pub slots: u32,
    /// The process tree as last seen where only polling is possible: whether it is gone can't be asked
    /// of a cgroup there, and its outermost process may be gone before the others.
    pub seen: Arc<Mutex<Vec<Process>>>,
}

/// Use so far. Where only polling is possible, of what runs right now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub cpu: Duration,
    pub memory_bytes: u64,
    pub memory_peak_bytes: Option<u64>,
    pub memory_kills: u64,
    pub tasks: u64,
    pub process_limit_hits: u64,
}

impl Meter {
    pub(super) async fn sample(&self, leader: i32) -> Sample {
        if let Some(sample) = self.final_sample() {
            return sample;
        }
        if self.limiter != Limiter::Polling {
            return Sample::default();
        }
        let look = move || processes::tree_use(leader);
        let (used, tree) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = tree;
        Sample { cpu: used.cpu, memory_bytes: used.memory_bytes, tasks: used.tasks, ..Sample::default() }
    }

    /// Counters that outlive the processes.
    pub(super) fn final_sample(&self) -> Option<Sample> {
        let used = self.cgroup.as_ref()?.usage();
        Some(Sample {
            cpu: used.cpu,
            memory_peak_bytes: Some(used.memory_peak_bytes),
            memory_kills: used.memory_kills,
            process_limit_hits: used.process_limit_hits,
            ..Sample::default()
        })
    }

    pub(super) fn hit(&self, limits: &Limits, before: Sample, now: Sample) -> Option<LimitHit> {
        let polled = self.cgroup.is_none();
        let limit_bytes = limits.memory_bytes;
        if now.memory_kills > before.memory_kills || (polled && now.memory_bytes > limit_bytes) {
            return Some(LimitHit::Memory { limit_bytes, polled });
        }
        if now.cpu.saturating_sub(before.cpu) > Duration::from_secs(limits.cpu_seconds) {
            return Some(LimitHit::Cpu { limit_seconds: limits.cpu_seconds, polled });
        }
        (polled && now.tasks > u64::from(limits.processes))
            .then_some(LimitHit::Processes { limit: limits.processes, polled })
    }

    /// Ends only when a limit is hit; `last` keeps the highest use seen.
    pub(super) async fn limits_hit(
        &self,
        limits: &Limits,
        leader: i32,
        before: Sample,
        last: &mut Sample,
    ) -> Result<LimitHit, SandboxError> {
        loop {
            let now = self.sample(leader).await;
            let peak = last
                .memory_peak_bytes
                .max(now.memory_peak_bytes)
                .max((now.memory_bytes > 0).then_some(now.memory_bytes));
            // A polled sample of a tree that is just ending shows less than was used.
            *last = Sample { cpu: now.cpu.max(last.cpu), memory_peak_bytes: peak, ..now };
            if let Some(hit) = self.hit(limits, before, now) {
                return Ok(hit);
            }
            tokio::time::sleep(self.poll).await;
        }
    }

    /// Ends only when the files are too large, too many or not measurable.
    pub(super) async fn disk_hit(&self, limits: &Limits) -> Result<LimitHit, SandboxError> {
        loop {
            let begun = Instant::now();
            if let Some(hit) = self.measure_disk(limits).await? {
                return Ok(hit);
            }
            if let Some(hit) = self.host_short(limits)? {
                return Ok(hit);
            }
            // A walk over many files must not become the host's main work.
            tokio::time::sleep(self.disk_poll.max(begun.elapsed() * 5)).await;
        }
    }

    /// Against this sandbox's own limits.
    pub(super) async fn measure_disk(&self, limits: &Limits) -> Result<Option<LimitHit>, SandboxError> {
        let (meter, limit_bytes) = (self.clone(), limits.disk_bytes);
        let look = move || meter.look_at_disk(limit_bytes);
        tokio::task::spawn_blocking(look).await.map_err(SandboxError::Task)?
    }

    fn look_at_disk(&self, limit_bytes: u64) -> Result<Option<LimitHit>, SandboxError> {
        let (folder, limit) = (&self.workspace.folder, self.disk_entries);
        let tops = self.workspace.measured()?;
        let mut used = tree::usage(&tops, limit_bytes, limit)
            .map_err(|e| SandboxError::io("measure the work folder", folder, e))?;
        if let Some(top) = tops.first() {
            let about = rustix::fs::fstat(top).map_err(|e| SandboxError::io("look at", folder, e))?;
            let held = open_files::deleted(&self.running(), Wanted { device: about.st_dev, most: limit });
            used.bytes = used.bytes.saturating_add(held.bytes);
            used.unmeasurable |= held.unmeasurable;
        }
        self.share.used(used.bytes);
        if used.bytes > limit_bytes {
            Ok(Some(LimitHit::Disk { limit_bytes }))
        } else if used.entries > limit {
            Ok(Some(LimitHit::DiskEntries { limit }))
        } else if used.unmeasurable {
            Ok(Some(LimitHit::DiskUnmeasurable))
        } else {
            Ok(None)
        }
    }

    /// Against what the host has left: of all sandboxes at most one ends for it.
    fn host_short(&self, limits: &Limits) -> Result<Option<LimitHit>, SandboxError> {
        let (folder, reserve_bytes) = (&self.workspace.folder, self.disk_reserve_bytes);
        let about = rustix::fs::statvfs(folder)
            .map_err(|e| SandboxError::io("look at the file system of", folder, e))?;
        let free = about.f_bavail.saturating_mul(about.f_frsize);
        if free >= reserve_bytes {
            return Ok(None);
        }
        match self.share.shortage(limits.disk_bytes, self.slots) {
            Shortage::GoOn => Ok(None),
            Shortage::EndAsGreedy { share_bytes } => Ok(Some(LimitHit::DiskShare { share_bytes })),
            Shortage::EndAsVictim => Err(SandboxError::HostDisk { reserve_bytes }),
        }
    }

    /// The sandbox's processes, as the best witness on this host tells.
    fn running(&self) -> Vec<i32> {
        match (&self.cgroup, self.slot_uid) {
            (Some(cgroup), _) => cgroup.processes(),
            (None, Some(uid)) => processes::of_uid(uid),
            (None, None) => {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.iter().map(|process| process.pid).collect()
            }
        }
    }

    /// One round, without waiting.
    pub(super) fn kill_now(&self) {
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
        if let Some(uid) = self.slot_uid {
            processes::of_uid(uid).into_iter().for_each(processes::kill);
        }
    }

    /// Kills all and waits until nothing is left. `leader` is the outermost process, `None` once it was
    /// waited for; with it dies the sandbox's own first process, and with that every process in there.
    pub(super) async fn kill_all(&self, leader: Option<i32>) -> Result<(), SandboxError> {
        let mut known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(leader) = leader {
            known.extend(processes::tree(leader));
            processes::kill_group(leader);
        }
        self.kill_now();
        let left = || {
            let mut left = processes::alive(&known);
            left.extend(self.left());
            left.sort_unstable();
            left.dedup();
            left
        };
        match processes::kill_until_none(left).await {
            (_, pids) if pids.is_empty() => Ok(()),
            (_, pids) => Err(SandboxError::Survivors { pids }),
        }
    }

    /// Processes in the group or of the slot's uid.
    pub(super) fn left(&self) -> Vec<i32> {
        let mut left = self.cgroup.as_ref().map(Cgroup::processes).unwrap_or_default();
        left.extend(self.slot_uid.map(processes::of_uid).unwrap_or_default());
        left
    }
}
