//! Looks at processes through `/proc` and kills them: the limiter where there are no cgroups, and the
//! last resort where there are. Kills only descendants of a pid it is given, or everything of a uid
//! that is dedicated to a slot; never by name.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// Rounds of killing before giving up; each waits for the kernel to reap.
const ROUNDS: usize = 200;
const ROUND: Duration = Duration::from_millis(25);

/// One process, as `/proc/<pid>/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub pid: i32,
    parent: i32,
    /// Clock ticks since boot: tells a process from a later one with the same pid.
    started: u64,
    /// User and system time, own and of children that were waited for.
    cpu_ticks: u64,
    zombie: bool,
    threads: u64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TreeUse {
    pub memory_bytes: u64,
    pub cpu: Duration,
    pub tasks: u64,
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, so count from the last one.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        cpu_ticks: (11..=14).filter_map(number).sum(),
        threads: number(17)?,
        started: number(19)?,
    })
}

/// `root` and everything below it. Daemons of a sandbox stay below: their new parent is the sandbox's
/// own first process.
pub(super) fn tree(root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in pids().filter_map(read) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = read(root).into_iter().collect();
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        found.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// What the tree uses right now, and the tree itself.
pub(super) fn tree_use(root: i32) -> (TreeUse, Vec<Process>) {
    let ticks_per_second = ticks_per_second();
    let tree = tree(root);
    let used = tree.iter().fold(TreeUse::default(), |sum, process| TreeUse {
        memory_bytes: sum.memory_bytes + memory(process.pid),
        cpu: sum.cpu + Duration::from_millis(process.cpu_ticks * 1000 / ticks_per_second),
        tasks: sum.tasks + process.threads,
    });
    (used, tree)
}

/// The kernel's unit of CPU time; 100 on every Linux that could not tell.
fn ticks_per_second() -> u64 {
    let told = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    told.and_then(|ticks| u64::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Proportional share, so that pages which forked processes share count once; resident size where the
/// kernel does not tell.
fn memory(pid: i32) -> u64 {
    let field = |file: &str, key: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? * 1024)
    };
    field("smaps_rollup", "Pss:").or_else(|| field("status", "VmRSS:")).unwrap_or(0)
}

/// Those of `known` that still run, told from newcomers with the same pid.
pub(super) fn alive(known: &[Process]) -> Vec<i32> {
    known
        .iter()
        .filter(|old| read(old.pid).is_some_and(|now| now.started == old.started && !now.zombie))
        .map(|old| old.pid)
        .collect()
}

/// Processes whose real, effective or saved uid is `uid`.
pub(super) fn of_uid(uid: u32) -> Vec<i32> {
    let belongs = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| {
            let alive = !status.lines().any(|l| l.starts_with("State:\tZ") || l.starts_with("State:\tX"));
            alive
                && status
                    .lines()
                    .find_map(|line| line.strip_prefix("Uid:"))
                    .is_some_and(|ids| ids.split_whitespace().any(|id| id.parse() == Ok(uid)))
        })
    };
    pids().filter(belongs).collect()
}

/// Sends SIGKILL; a process that is gone already is no error.
pub(super) fn kill(pid: i32) {
    // 0 and below would mean a group or everybody.
    if let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 1) {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

pub(super) fn kill_group(leader: i32) {
    if let Some(leader) = Pid::from_raw(leader).filter(|_| leader > 1) {
        rustix::process::kill_process_group(leader, Signal::KILL).ok();
    }
}

/// Kills what `list` gives until it gives nothing; the survivors otherwise.
pub(super) async fn kill_until_none(list: impl Fn() -> Vec<i32>) -> (usize, Vec<i32>) {
    let mut killed = 0;
    for round in 0..ROUNDS {
        let left = list();
        if left.is_empty() {
            return (killed, left);
        }
        if round == 0 {
            killed = left.len();
        }
        left.into_iter().for_each(kill);
        tokio::time::sleep(ROUND).await;
    }
    (killed, list())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_this_process_has_a_child_and_memory() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let tree = tree(me);
        let child_pid = i32::try_from(child.id()).unwrap();
        assert!(tree.iter().any(|p| p.pid == child_pid));
        assert!(tree_use(me).0.memory_bytes > 100_000);
        let known: Vec<_> = tree.into_iter().filter(|p| p.pid == child_pid).collect();
        kill(child_pid);
        child.wait().unwrap();
        assert!(alive(&known).is_empty());
    }
}
