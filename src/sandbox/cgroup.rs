//! Control groups of build slots, version 2 or 1, written by hand: a folder, a few numbers, a kill.
//! Makes groups only below its own parent folder and removes only groups that it could have made.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::limits::Limits;
use super::processes;
use super::report::Limiter;

const CPU_PERIOD_MICROS: u64 = 100_000;

/// Where groups can be made on this host.
#[derive(Debug, Clone)]
pub(super) enum Hierarchy {
    V2 { parent: PathBuf },
    V1 { memory: PathBuf, pids: PathBuf, cpu: PathBuf, cpuacct: PathBuf },
}

/// One slot's group. Not removed on drop: the slot's owner removes it, or the sweep does.
#[derive(Debug, Clone)]
pub(super) struct Cgroup {
    hierarchy: Hierarchy,
    name: String,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupUse {
    pub cpu: Duration,
    pub memory_peak_bytes: u64,
    pub memory_kills: u64,
    pub process_limit_hits: u64,
}

/// Finds the first hierarchy in which a group with all three controllers can really be made.
pub(super) fn find(parent_setting: &str) -> Option<Hierarchy> {
    let mounts = mounts();
    find_v2(&mounts, parent_setting).or_else(|| find_v1(&mounts, parent_setting))
}

struct Mount {
    at: PathBuf,
    kind: String,
    options: String,
}

fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?.to_owned();
        Some(Mount { at: left.split(' ').nth(4)?.into(), kind, options: right.nth(1)?.to_owned() })
    };
    text.lines().filter_map(parse).filter(|mount| mount.kind.starts_with("cgroup")).collect()
}

/// Writes to a file of the kernel, which is there or does not exist: where something else is mounted
/// over the hierarchy, making a file of that name would pass for a limit.
pub(super) fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::File::options().write(true).open(file)?.write_all(value.as_bytes())
}

/// The kernel fills every new group with its files.
fn is_group(folder: &Path) -> bool {
    folder.join("cgroup.procs").exists()
}

fn find_v2(mounts: &[Mount], setting: &str) -> Option<Hierarchy> {
    let root = &mounts.iter().find(|mount| mount.kind == "cgroup2")?.at;
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    // Not beneath our own group: version 2 forbids processes in a group that hands controllers down.
    let beside = Path::new(&own).parent().map(|parent| root.join(parent));
    let candidates = match setting {
        "" => beside.into_iter().chain([root.clone()]).collect(),
        set => vec![root.join(set.trim_start_matches('/'))],
    };
    candidates
        .into_iter()
        .map(|at| at.join("libra"))
        .find(|at| usable_v2(at))
        .map(|parent| Hierarchy::V2 { parent })
}

fn usable_v2(parent: &Path) -> bool {
    let hand_down = |at: &Path| write(&at.join("cgroup.subtree_control"), "+memory +pids +cpu");
    let made = !parent.exists();
    if let Some(above) = parent.parent() {
        // Refused where the controllers are handed down already by somebody else, which is as good.
        drop(hand_down(above));
    }
    let usable = (fs::create_dir_all(parent).is_ok() && hand_down(parent).is_ok())
        && fs::read_to_string(parent.join("cgroup.subtree_control")).is_ok_and(|found| {
            ["memory", "pids", "cpu"].iter().all(|c| found.split_whitespace().any(|f| f == *c))
        });
    if !usable && made {
        drop(fs::remove_dir(parent));
    }
    usable
}

fn find_v1(mounts: &[Mount], setting: &str) -> Option<Hierarchy> {
    let parent = |controller: &str| {
        let mount = mounts
            .iter()
            .find(|m| m.kind == "cgroup" && m.options.split(',').any(|option| option == controller))?;
        let parent = mount.at.join(setting.trim_matches('/')).join("libra");
        fs::create_dir_all(&parent).ok()?;
        // The folder may be there from root's time while we are an ordinary user.
        let trial = parent.join(format!("trial-{}", std::process::id()));
        fs::create_dir(&trial).ok()?;
        let real = is_group(&trial);
        fs::remove_dir(&trial).ok()?;
        if !real {
            fs::remove_dir(&parent).ok();
            return None;
        }
        Some(parent)
    };
    Some(Hierarchy::V1 {
        memory: parent("memory")?,
        pids: parent("pids")?,
        cpu: parent("cpu")?,
        cpuacct: parent("cpuacct")?,
    })
}

impl Hierarchy {
    pub(super) fn limiter(&self) -> Limiter {
        match self {
            Self::V2 { .. } => Limiter::Cgroup2,
            Self::V1 { .. } => Limiter::Cgroup1,
        }
    }

    /// A fresh group with these limits, counters at zero.
    pub(super) fn make(&self, name: &str, limits: &Limits) -> io::Result<Cgroup> {
        let group = Cgroup { hierarchy: self.clone(), name: name.to_owned() };
        group.folders().iter().try_for_each(fs::create_dir_all)?;
        let set = |controller: &Path, file: &str, value: String| write(&controller.join(file), &value);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "the settings keep the number of cores positive and small"
        )]
        let quota = (limits.cpu_cores * CPU_PERIOD_MICROS as f64) as u64;
        match self {
            Self::V2 { parent } => {
                let at = parent.join(name);
                set(&at, "memory.max", limits.memory_bytes.to_string())?;
                // A build that swaps starves the host; the file is absent where there is no swap.
                drop(set(&at, "memory.swap.max", "0".into()));
                set(&at, "memory.oom.group", "1".into())?;
                set(&at, "pids.max", limits.processes.to_string())?;
                set(&at, "cpu.max", format!("{quota} {CPU_PERIOD_MICROS}"))?;
            }
            Self::V1 { memory, pids, cpu, .. } => {
                set(&memory.join(name), "memory.limit_in_bytes", limits.memory_bytes.to_string())?;
                drop(set(&memory.join(name), "memory.memsw.limit_in_bytes", limits.memory_bytes.to_string()));
                set(&pids.join(name), "pids.max", limits.processes.to_string())?;
                set(&cpu.join(name), "cpu.cfs_period_us", CPU_PERIOD_MICROS.to_string())?;
                set(&cpu.join(name), "cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        Ok(group)
    }

    /// The group of a slot whether it exists or not, for cleaning up.
    pub(super) fn named(&self, name: &str) -> Cgroup {
        Cgroup { hierarchy: self.clone(), name: name.to_owned() }
    }
}

impl Cgroup {
    fn folders(&self) -> Vec<PathBuf> {
        match &self.hierarchy {
            Hierarchy::V2 { parent } => vec![parent.join(&self.name)],
            Hierarchy::V1 { memory, pids, cpu, cpuacct } => {
                let mut all: Vec<PathBuf> =
                    [memory, pids, cpu, cpuacct].iter().map(|p| p.join(&self.name)).collect();
                // `cpu` and `cpuacct` are often one mount.
                all.sort();
                all.dedup();
                all
            }
        }
    }

    /// Files into which the launcher writes `0` to join.
    pub(super) fn join_files(&self) -> Vec<PathBuf> {
        self.folders().iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    pub(super) fn usage(&self) -> GroupUse {
        let number = |folder: PathBuf, file: &str| -> u64 {
            fs::read_to_string(folder.join(file)).ok().and_then(|s| s.trim().parse().ok()).unwrap_or(0)
        };
        let keyed = |folder: PathBuf, file: &str, key: &str| -> u64 {
            let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
            let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
            text.lines().find_map(value).unwrap_or(0)
        };
        match &self.hierarchy {
            Hierarchy::V2 { parent } => {
                let at = || parent.join(&self.name);
                GroupUse {
                    cpu: Duration::from_micros(keyed(at(), "cpu.stat", "usage_usec")),
                    memory_peak_bytes: number(at(), "memory.peak"),
                    memory_kills: keyed(at(), "memory.events", "oom_kill"),
                    process_limit_hits: keyed(at(), "pids.events", "max"),
                }
            }
            Hierarchy::V1 { memory, pids, cpuacct, .. } => GroupUse {
                cpu: Duration::from_nanos(number(cpuacct.join(&self.name), "cpuacct.usage")),
                memory_peak_bytes: number(memory.join(&self.name), "memory.max_usage_in_bytes"),
                memory_kills: keyed(memory.join(&self.name), "memory.oom_control", "oom_kill"),
                process_limit_hits: keyed(pids.join(&self.name), "pids.events", "max"),
            },
        }
    }

    pub(super) fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .join_files()
            .iter()
            .filter_map(|file| fs::read_to_string(file).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// One round of killing; version 2 does it at once and without a race.
    pub(super) fn kill(&self) {
        if let Hierarchy::V2 { parent } = &self.hierarchy
            && write(&parent.join(&self.name).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        self.processes().into_iter().for_each(processes::kill);
    }

    /// Removes the group; true if there was one. Its processes must be gone.
    pub(super) fn remove(&self) -> io::Result<bool> {
        let mut removed = false;
        for folder in self.folders() {
            match fs::remove_dir(&folder) {
                Ok(()) => removed = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(other) => return Err(other),
            }
        }
        Ok(removed)
    }
}
