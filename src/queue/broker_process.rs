//! One running `nats-server`: told apart from any other process by pid *and* start time, and
//! signalled through a pidfd, so that a pid used again is never killed.
//!
//! It never decides when a broker starts or ends.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// How often a broker that isn't our child is looked at; the kernel tells only parents.
const LOOK: Duration = Duration::from_millis(100);

/// A process as the kernel knows it: the start time makes a pid unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks after boot: field 22 of `/proc/<pid>/stat`.
    pub start_time: u64,
}

impl ProcessIdentity {
    /// The process that has this pid now, unless it is dead or a zombie.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name in parentheses may hold anything, so the fields count from its end.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let alive = !matches!(fields.next()?, "Z" | "X");
        let start_time = fields.nth(18)?.parse().ok()?;
        alive.then_some(Self { pid, start_time })
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// A broker that runs: our own child, or one that a killed server left over.
#[derive(Debug)]
pub(super) struct BrokerProcess {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
    child: Option<Child>,
}

impl BrokerProcess {
    /// `None` when the process is gone already, or its pid now belongs to another one.
    pub(super) fn adopt(identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Checked after the pidfd was taken: from here on the two mean the same process.
        Ok(identity.is_running().then_some(Self { identity, pidfd, child: None }))
    }

    /// A child that was just spawned; `Ok(Err(status))` when it has ended already.
    pub(super) async fn of_child(mut child: Child) -> io::Result<Result<Self, String>> {
        if let Some(identity) = child.id().and_then(ProcessIdentity::of)
            && let Some(broker) = Self::adopt(identity)?
        {
            return Ok(Ok(Self { child: Some(child), ..broker }));
        }
        Ok(Err(child.wait().await?.to_string()))
    }

    pub(super) fn identity(&self) -> ProcessIdentity {
        self.identity
    }

    /// Waits until the process has ended, and says how where that is known.
    pub(super) async fn ended(&mut self) -> String {
        match &mut self.child {
            Some(child) => match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            },
            None => {
                while self.identity.is_running() {
                    sleep(LOOK).await;
                }
                "an unknown status, as it was not our child".to_owned()
            }
        }
    }

    /// Ends the process: asked first, killed when `patience` is over. It is gone when this returns.
    pub(super) async fn end(mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if timeout(patience, self.ended()).await.is_err() {
            tracing::warn!(broker.pid = self.identity.pid, "the broker did not end in time and is killed");
            self.signal(Signal::KILL);
            self.ended().await;
        }
    }

    fn signal(&self, signal: Signal) {
        // An error means that the process has ended, which is what the signal is for.
        let _: Result<(), _> = pidfd_send_signal(&self.pidfd, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_running_and_one_with_another_start_time_is_not() {
        let me = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(me.is_running());
        assert!(!ProcessIdentity { start_time: me.start_time + 1, ..me }.is_running());
    }

    #[tokio::test]
    async fn a_pid_used_again_is_not_adopted() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let real = ProcessIdentity::of(child.id()).unwrap();
        let other = ProcessIdentity { start_time: real.start_time - 1, ..real };
        assert!(BrokerProcess::adopt(other).unwrap().is_none());
        assert!(real.is_running());
        BrokerProcess::adopt(real).unwrap().unwrap().end(Duration::from_secs(5)).await;
        assert!(!real.is_running());
        child.wait().unwrap();
    }
}
