//! What this host can isolate and limit, as shown at start, by `doctor` and in `/health/detailed`.
//! Holds words only; the trial itself is the provider's.

use std::fmt;

/// What enforces memory, process and CPU limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Limiter {
    Cgroup2,
    Cgroup1,
    /// The server sums over the process tree now and then, and kills.
    Polling,
    None,
}

impl Limiter {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup2 => "cgroup2",
            Self::Cgroup1 => "cgroup1",
            Self::Polling => "polling",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The outcome of a real trial on this host.
#[derive(Debug, Clone, serde::Serialize)]
pub struct IsolationReport {
    pub provider: &'static str,
    pub ok: bool,
    pub limiter: Limiter,
    /// The host uid that foreign code runs under.
    pub host_uid: u32,
    pub slots: u32,
    /// What is missing, each with what to do about it; never a secret.
    pub missing: Vec<String>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct SweepReport {
    pub folders: usize,
    pub cgroups: usize,
    pub processes: usize,
    pub mounts: usize,
}
