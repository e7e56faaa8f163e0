//! The limits of a build and how one that was hit is named. Pure words and figures: measures nothing,
//! kills nothing.

use std::fmt;
use std::time::Duration;

/// What one build may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Memory of all processes together, page cache and `/tmp` included where cgroups count them.
    pub memory_bytes: u64,
    /// Processes and threads at the same time.
    pub processes: u32,
    /// CPU time of one command, all its processes together.
    pub cpu_seconds: u64,
    /// Cores that may be busy at the same time; fractions are allowed.
    pub cpu_cores: f64,
    /// Work folder and home folder together.
    pub disk_bytes: u64,
    /// Standard output and error of one command together.
    pub output_bytes: u64,
    /// Wall time of one command, unless its order names another.
    pub wall: Duration,
    /// Size of the in-memory `/tmp`, and of `/dev/shm`; half of it each where limits are polled.
    pub tmp_bytes: u64,
}

/// The limit that ended a command. `polled` says that it was measured by looking now and then, so
/// that the use may have been higher for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitHit {
    Memory {
        limit_bytes: u64,
        polled: bool,
    },
    Processes {
        limit: u32,
        polled: bool,
    },
    Cpu {
        limit_seconds: u64,
        polled: bool,
    },
    Disk {
        limit_bytes: u64,
    },
    /// More files and folders than `sandbox.disk_entries`.
    DiskEntries {
        limit: u64,
    },
    /// A folder that can't be measured: unreadable, or nested beyond what a path can name; or a process
    /// whose open files can't be seen.
    DiskUnmeasurable,
    /// The host ran short of space, and of all builds this one used most and more than its part.
    DiskShare {
        share_bytes: u64,
    },
    Output {
        limit_bytes: u64,
    },
    Wall {
        limit: Duration,
    },
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let polled = match self {
            Self::Memory { limit_bytes, polled } => {
                write!(f, "killed: memory limit {}", Size(*limit_bytes))?;
                *polled
            }
            Self::Processes { limit, polled } => {
                write!(f, "killed: process limit {limit}")?;
                *polled
            }
            Self::Cpu { limit_seconds, polled } => {
                write!(f, "killed: CPU limit {limit_seconds} s")?;
                *polled
            }
            Self::Disk { limit_bytes } => {
                write!(f, "killed: disk limit {}", Size(*limit_bytes))?;
                false
            }
            Self::DiskEntries { limit } => {
                write!(f, "killed: disk limit {limit} files")?;
                false
            }
            Self::DiskUnmeasurable => {
                write!(
                    f,
                    "killed: disk limit (a folder is unreadable or nested too deep to measure, or open files are hidden)"
                )?;
                false
            }
            Self::DiskShare { share_bytes } => {
                write!(
                    f,
                    "killed: disk limit (the host ran short of space, and this build used more than its share of {})",
                    Size(*share_bytes)
                )?;
                false
            }
            Self::Output { limit_bytes } => {
                write!(f, "killed: output limit {}", Size(*limit_bytes))?;
                false
            }
            Self::Wall { limit } if limit.subsec_millis() == 0 => {
                write!(f, "killed: time limit {} s", limit.as_secs())?;
                false
            }
            Self::Wall { limit } => {
                write!(f, "killed: time limit {:.1} s", limit.as_secs_f64())?;
                false
            }
        };
        if polled { f.write_str(" (polled)") } else { Ok(()) }
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        match self.0 {
            bytes if bytes >= GIB => write!(f, "{}.{} GiB", bytes / GIB, (bytes % GIB) * 10 / GIB),
            bytes if bytes >= MIB => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= KIB => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_as_the_contract_says() {
        let shown = |hit: LimitHit| hit.to_string();
        assert_eq!(
            shown(LimitHit::Memory { limit_bytes: 2 << 30, polled: false }),
            "killed: memory limit 2.0 GiB"
        );
        assert_eq!(
            shown(LimitHit::Memory { limit_bytes: 2 << 30, polled: true }),
            "killed: memory limit 2.0 GiB (polled)"
        );
        assert_eq!(shown(LimitHit::Wall { limit: Duration::from_secs(600) }), "killed: time limit 600 s");
        assert_eq!(shown(LimitHit::Output { limit_bytes: 64 << 20 }), "killed: output limit 64 MiB");
        assert_eq!(shown(LimitHit::Processes { limit: 64, polled: false }), "killed: process limit 64");
        assert_eq!(shown(LimitHit::Cpu { limit_seconds: 2, polled: true }), "killed: CPU limit 2 s (polled)");
    }
}
