//! Finds files that a build deleted while it holds them open: they lie in no folder and fill the disk all
//! the same. Looks through `/proc`; opens, changes and kills nothing.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Which files count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// The work folder's file system: what lies in memory is no use of the disk.
    pub device: u64,
    /// Descriptors and mappings looked at, at most.
    pub most: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deleted {
    pub bytes: u64,
    /// A process hides its descriptors, or there are more than one look may cost.
    pub unmeasurable: bool,
}

/// Adds up the deleted files that these processes hold, each file once.
pub(super) fn deleted(processes: &[i32], wanted: Wanted) -> Deleted {
    let mut look =
        Look { wanted, left: wanted.most, counted: HashSet::new(), found: Deleted::default(), layered: None };
    for pid in processes {
        // Over kept dependencies the work folder has a device number of its own, known within only.
        look.layered = fs::metadata(format!("/proc/{pid}/root/work")).ok().map(|about| about.dev());
        // Threads may have descriptors of their own.
        for thread in names(&format!("/proc/{pid}/task")).into_iter().flatten() {
            look.descriptors(*pid, &thread);
        }
        look.mappings(*pid);
        if look.found.unmeasurable {
            break;
        }
    }
    look.found
}

struct Look {
    wanted: Wanted,
    left: u64,
    counted: HashSet<u64>,
    found: Deleted,
    layered: Option<u64>,
}

impl Look {
    fn descriptors(&mut self, pid: i32, thread: &str) {
        let folder = format!("/proc/{pid}/task/{thread}/fd");
        match names(&folder) {
            Ok(descriptors) => {
                for descriptor in descriptors {
                    if !self.spend() {
                        return;
                    }
                    self.count(&format!("{folder}/{descriptor}"));
                }
            }
            // A process on its way out is closed to others too, but has no memory any more. One that
            // made itself unreadable has, and may hide anything.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && has_memory(pid) => {
                self.found.unmeasurable = true;
            }
            Err(_) => {}
        }
    }

    /// A mapping holds its file after the descriptor was closed. Only root may look behind one.
    fn mappings(&mut self, pid: i32) {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        for line in maps.lines().filter(|line| line.ends_with(" (deleted)")) {
            if !self.spend() {
                return;
            }
            if let Some(range) = line.split(' ').next() {
                self.count(&format!("/proc/{pid}/map_files/{range}"));
            }
        }
    }

    fn count(&mut self, link: &str) {
        // Follows the kernel's link to the file itself, which no name leads to.
        let Ok(about) = fs::metadata(link) else { return };
        let on_disk = about.dev() == self.wanted.device || Some(about.dev()) == self.layered;
        let deleted = about.is_file() && about.nlink() == 0 && on_disk;
        // Root's deleted files are this program's own, after an upgrade.
        if deleted && !is_foreign(&about) && self.counted.insert(about.ino()) {
            self.found.bytes += about.blocks() * 512;
        }
    }

    fn spend(&mut self) -> bool {
        self.found.unmeasurable |= self.left == 0;
        self.left = self.left.saturating_sub(1);
        !self.found.unmeasurable
    }
}

fn is_foreign(about: &fs::Metadata) -> bool {
    rustix::process::geteuid().is_root() && about.uid() == 0
}

fn has_memory(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|text| !text.starts_with("0 "))
}

fn names(folder: &str) -> std::io::Result<Vec<String>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_more_descriptors_than_its_bound_says_so() {
        let me = [i32::try_from(std::process::id()).unwrap()];
        assert!(deleted(&me, Wanted { device: 0, most: 1 }).unmeasurable);
        assert_eq!(deleted(&me, Wanted { device: u64::MAX, most: 1_000_000 }), Deleted::default());
    }
}
