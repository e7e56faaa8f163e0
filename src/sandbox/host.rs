//! What all sandboxes of this server share: slots, cgroups, work folders, and the sweep that removes
//! what a killed server left. Touches nothing that another live server holds.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::cache::Shelf;
use super::cgroup::{self, Hierarchy};
use super::error::SandboxError;
use super::processes;
use super::report::{Limiter, SweepReport};
use super::settings::{SandboxPaths, Settings};
use super::share::DiskShares;
use super::slot::{Slot, SlotLocks};
use super::workspace::{self, Workspace};

pub(super) struct Host {
    pub settings: Settings,
    pub paths: SandboxPaths,
    pub hierarchy: Option<Hierarchy>,
    pub disk_shares: Arc<DiskShares>,
    /// What builds leave for the next, where anything is kept.
    pub cache: Option<Arc<Shelf>>,
    locks: SlotLocks,
    slot_freed: Notify,
}

/// A slot of another server is freed without a word, so it is asked for again and again.
const SLOT_POLL: Duration = Duration::from_millis(100);

impl Host {
    pub(super) fn open(settings: &Settings, paths: SandboxPaths) -> Result<Self, SandboxError> {
        workspace::work_root(&paths.root)?;
        let locks = SlotLocks::open(&settings.lock_directory, settings.slots, settings.slot_uid_base)?;
        let hierarchy = cgroup::find(&settings.cgroup_parent);
        // Builds that are not isolated could write into what is kept, of whatever organization.
        let keeps = settings.cache.enabled && settings.provider == "local";
        let open = || Shelf::open(&paths.root, &settings.cache, settings.disk_reserve_bytes);
        let cache = keeps.then(open).transpose()?.map(Arc::new);
        Ok(Self {
            settings: settings.clone(),
            paths,
            hierarchy,
            disk_shares: Arc::default(),
            cache,
            locks,
            slot_freed: Notify::new(),
        })
    }

    pub(super) fn limiter(&self) -> Limiter {
        self.hierarchy.as_ref().map_or(Limiter::Polling, Hierarchy::limiter)
    }

    /// Waits for a free slot and leaves it clean.
    pub(super) async fn take_slot(&self, id: &str) -> Result<Slot, SandboxError> {
        self.wait_for_slot(self.locks.for_builds(), id).await
    }

    /// Like [`Host::take_slot`], for a trial.
    pub(super) async fn take_trial_slot(&self, id: &str) -> Result<Slot, SandboxError> {
        self.wait_for_slot(self.locks.for_trials(), id).await
    }

    /// A slot that can't be used is passed over for as long as this wait lasts: the next one may be clean.
    async fn wait_for_slot(&self, indices: Range<u32>, id: &str) -> Result<Slot, SandboxError> {
        let waited_seconds = self.settings.slot_wait_seconds;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(waited_seconds);
        let mut hopeful: Vec<u32> = indices.collect();
        loop {
            let mut at = 0;
            while let Some(index) = hopeful.get(at).copied() {
                match self.try_slot(index, id).await {
                    Ok(Some(slot)) => return Ok(slot),
                    Ok(None) => at += 1,
                    Err(error) if hopeful.len() == 1 => return Err(error),
                    Err(error) => {
                        tracing::error!(slot.index = index, error = %error, "a build slot can't be used; trying the next one");
                        hopeful.remove(at);
                    }
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(SandboxError::SlotWait { waited_seconds });
            }
            tokio::select! {
                () = self.slot_freed.notified() => {}
                () = tokio::time::sleep(SLOT_POLL) => {}
            }
        }
    }

    /// The slot if nobody holds it, empty of processes and of files.
    async fn try_slot(&self, index: u32, id: &str) -> Result<Option<Slot>, SandboxError> {
        let Some(slot) = self.locks.try_take(index, id)? else { return Ok(None) };
        self.clean(&slot).await?;
        self.remove_folders_of(&slot).await?;
        Ok(Some(slot))
    }

    /// Folders that an earlier holder could not remove: the slot's uid could write to them.
    async fn remove_folders_of(&self, slot: &Slot) -> Result<(), SandboxError> {
        let Some(uid) = slot.uid else { return Ok(()) };
        let work = workspace::work_root(&self.paths.root)?;
        let remove = move || workspace::remove_folders_of(&work, uid);
        tokio::task::spawn_blocking(remove).await.map_err(SandboxError::Task)?.map_err(|error| {
            SandboxError::SlotDirty {
                slot: slot.name.clone(),
                what: format!("an older work folder can't be removed: {error}"),
            }
        })
    }

    pub(super) fn slot_freed(&self) {
        self.slot_freed.notify_one();
    }

    /// Ends what still runs in a slot that nobody holds; `(processes, cgroups)` that were there.
    async fn clean(&self, slot: &Slot) -> Result<(usize, usize), SandboxError> {
        let group = self.hierarchy.as_ref().map(|hierarchy| hierarchy.named(&slot.name));
        let left = || {
            let mut left = group.as_ref().map(cgroup::Cgroup::processes).unwrap_or_default();
            left.extend(slot.uid.map(processes::of_uid).unwrap_or_default());
            left
        };
        let dirty = |what: String| SandboxError::SlotDirty { slot: slot.name.clone(), what };
        let (killed, survivors) = processes::kill_until_none(left).await;
        if !survivors.is_empty() {
            return Err(dirty(format!("processes {survivors:?} can't be killed")));
        }
        let removed = group.map_or(Ok(false), |group| group.remove());
        Ok((killed, removed.map_err(|e| dirty(format!("its cgroup can't be removed: {e}")))?.into()))
    }

    pub(super) async fn make_workspace(
        self: &Arc<Self>,
        id: String,
        owner: Option<u32>,
    ) -> Result<Workspace, SandboxError> {
        let host = Arc::clone(self);
        let make = move || Workspace::create(&host.paths.root, &id, owner);
        tokio::task::spawn_blocking(make).await.map_err(SandboxError::Task)?
    }

    /// Removes leftovers; one that resists does not save the others. Folders are listed first and locks looked at afterwards: whoever made a
    /// folder held its lock before, so a folder without a holder has none.
    pub(super) async fn sweep(
        &self,
        keep: &(dyn for<'name> Fn(&'name str) -> bool + Send + Sync),
    ) -> Result<SweepReport, SandboxError> {
        let work = workspace::work_root(&self.paths.root)?;
        let folders: Vec<String> = std::fs::read_dir(&work)
            .map_err(|e| SandboxError::io("list", &work, e))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        let (free, held) = self.locks.inspect()?;
        let held: HashSet<String> = held.into_iter().collect();
        let mut report = SweepReport::default();
        for slot in free {
            match self.clean(&slot).await {
                Ok((processes, cgroups)) => {
                    report.processes += processes;
                    report.cgroups += cgroups;
                }
                Err(error) => {
                    tracing::error!(slot.name = %slot.name, error = %error, "the sweep left a build slot as it is");
                }
            }
        }
        let leftover: Vec<String> =
            folders.into_iter().filter(|name| !held.contains(name) && !keep(name)).collect();
        for name in leftover {
            report.mounts += unmount_beneath(&work.join(&name));
            let (work, id) = (work.clone(), name.clone());
            let remove = move || workspace::remove_work_folder(&work, &id);
            match tokio::task::spawn_blocking(remove).await.map_err(SandboxError::Task)? {
                Ok(()) => report.folders += 1,
                Err(error) => {
                    tracing::error!(sandbox.id = %name, error = %error, "the sweep left a work folder where it is");
                }
            }
        }
        if let Some(cache) = self.cache.clone() {
            let sweep = move || cache.sweep();
            report.folders += tokio::task::spawn_blocking(sweep).await.map_err(SandboxError::Task)??;
        }
        Ok(report)
    }
}

/// Sandboxes mount in namespaces of their own, which end with them; this is for what an operator or an
/// older version left.
fn unmount_beneath(folder: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let beneath = |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(folder));
    // The newest lies on top.
    let found: Vec<&str> = table.lines().filter(beneath).filter_map(|line| line.split(' ').nth(4)).collect();
    let detach = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW;
    found.iter().rev().filter(|at| nix::mount::umount2(**at, detach).is_ok()).count()
}
