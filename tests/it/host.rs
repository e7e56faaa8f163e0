//! What an attack could have left on the host, looked at from outside. Slots, uids and locks are one
//! test's own, so that what another test runs meanwhile is not taken for a leftover.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::app::{Folder, PATIENCE, Server};

/// Uids of one test: slots, and the one kept for trials.
const UIDS: u32 = 8;
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A server whose builds run under uids that nothing else uses, and the host as it was before.
pub struct Host {
    uid_base: u32,
    system: Vec<(String, Vec<u8>)>,
}

impl Host {
    /// Remembers the host and starts a server on `folder` with slots of its own.
    pub fn serve(folder: &Folder, settings: &[(&str, &str)]) -> (Self, Server) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid_base = 30_000_000 + (std::process::id() % 20_000) * 1000 + number * UIDS;
        let (base, locks) = (uid_base.to_string(), folder.path().join("locks").display().to_string());
        let mut all = vec![
            ("LIBRA__SANDBOX__SLOT_UID_BASE", &*base),
            ("LIBRA__SANDBOX__LOCK_DIRECTORY", &*locks),
            // What a deployment leaves must be gone by its own doing, not by the sweep's.
            ("LIBRA__SWEEP__THOROUGH_SECONDS", "3600"),
        ];
        all.extend(settings);
        let server = folder.serve(&all);
        (Self { uid_base, system: system() }, server)
    }

    /// No process of a slot, no mount, no control group, no work folder; the system as it was.
    pub fn must_be_untouched(&self, folder: &Folder) {
        let started = Instant::now();
        loop {
            let left = self.leftovers(folder);
            if left.is_empty() {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "left on the host: {left:#?}");
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        for (before, now) in self.system.iter().zip(system()) {
            assert_eq!(before.0, now.0);
            assert!(before.1 == now.1, "{} was changed", now.0);
        }
    }

    fn leftovers(&self, folder: &Folder) -> Vec<String> {
        let mut left = Vec::new();
        let uids = self.uid_base..self.uid_base + UIDS;
        for pid in pids() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
            if ids.split_whitespace().any(|id| id.parse().is_ok_and(|id: u32| uids.contains(&id))) {
                left.push(format!("process {status}"));
            }
        }
        let marker = folder.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        left.extend(mounts.lines().filter(|l| l.contains(&marker)).map(|l| format!("mount {l}")));
        left.extend(uids.flat_map(|uid| cgroups(Path::new("/sys/fs/cgroup"), &format!("slot-{uid}"), 3)));
        for inner in ["sandbox/work", "scratch"] {
            let entries = std::fs::read_dir(folder.data().join(inner)).into_iter().flatten();
            left.extend(entries.map(|e| format!("folder {}", e.unwrap().path().display())));
        }
        left
    }
}

/// What builds like to attack.
fn system() -> Vec<(String, Vec<u8>)> {
    let files = ["/etc/passwd", "/etc/group", "/etc/hosts", "/proc/sys/kernel/core_pattern"];
    let mut seen: Vec<_> =
        files.into_iter().map(|f| (f.to_owned(), std::fs::read(f).unwrap_or_default())).collect();
    let mut names: Vec<_> = std::fs::read_dir("/")
        .unwrap()
        .chain(std::fs::read_dir("/etc").unwrap())
        .map(|e| e.unwrap().path().display().to_string())
        .collect();
    names.sort();
    seen.push(("names in / and /etc".into(), names.join("\n").into_bytes()));
    seen
}

pub fn pids() -> impl Iterator<Item = i32> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok())
}

fn cgroups(at: &Path, name: &str, depth: u32) -> Vec<String> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()) {
        if path.file_name().is_some_and(|n| n == name) {
            found.push(format!("cgroup {}", path.display()));
        } else if depth > 0 && path.is_dir() {
            found.extend(cgroups(&path, name, depth - 1));
        }
    }
    found
}

/// Files beneath `top` that hold `needle`.
pub fn files_with(top: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    if bytes.windows(needle.len()).any(|w| w == needle) {
                        found.push(path);
                    }
                }
                _ => {}
            }
        }
    }
    found
}
