//! One sandbox: a slot, a work folder, a cgroup and a registry socket, and the commands run in it.
//! Whatever happens to it, its processes end and its slot is freed.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::bwrap::Bound;
use super::cache::{self, BuildCache, Shelf, Snapshot};
use super::collect::{self, CollectLimits, CollectedFile, SkippedEntry};
use super::egress::{Egress, EgressSocket};
use super::environment;
use super::error::SandboxError;
use super::exec::{self, Started, Watch};
use super::host::Host;
use super::launch::LaunchOrder;
use super::limits::Limits;
use super::meter::Meter;
use super::mirror::{Mirror, MirrorSocket};
use super::report::Limiter;
use super::shim::ShimOrder;
use super::slot::Slot;
use super::workspace::{self, Workspace};
use super::{ExecOrder, ExecOutcome, Sandbox, SandboxOrder, ToolFolders, path, processes, tree};

/// A launcher reads its order at once; one that is stopped must not hold the build for ever.
const ORDER_IS_READ: std::time::Duration = std::time::Duration::from_secs(10);

/// What stands between the command and the host.
pub(super) enum Isolation {
    Bubblewrap {
        bwrap: PathBuf,
        node: Option<PathBuf>,
        mirror: Option<MirrorSocket>,
        egress: Option<EgressSocket>,
        /// Whether the project lists any host.
        has_egress: bool,
    },
    /// Development only.
    None,
}

pub(super) struct Cage {
    id: String,
    limits: Limits,
    isolation: Isolation,
    tools: ToolFolders,
    meter: Meter,
    workspace: Arc<Workspace>,
    /// When the first command began; from then on the platform writes no source files any more.
    sealed: Option<SystemTime>,
    skipped: Vec<SkippedEntry>,
    remains: Option<Remains>,
}

/// What must go, in this order, when the sandbox ends.
struct Remains {
    host: Arc<Host>,
    meter: Meter,
    workspace: Arc<Workspace>,
    slot: Slot,
    /// Kept dependencies in use; held until nothing runs above them any more.
    snapshot: Option<Snapshot>,
    /// Whether they lie under the work folder, and not in it.
    layered: bool,
}

impl Cage {
    pub(super) async fn make(
        host: Arc<Host>,
        slot: Slot,
        order: SandboxOrder,
        isolation: Isolation,
    ) -> Result<Self, SandboxError> {
        let isolated = matches!(isolation, Isolation::Bubblewrap { .. });
        let owner = slot.uid.filter(|_| isolated);
        let workspace = Arc::new(host.make_workspace(order.id.clone(), owner).await?);
        let mut meter = Meter {
            cgroup: None,
            slot_uid: owner,
            limiter: if isolated { host.limiter() } else { Limiter::None },
            workspace: Arc::clone(&workspace),
            poll: std::time::Duration::from_millis(host.settings.poll_ms),
            disk_poll: std::time::Duration::from_millis(host.settings.disk_poll_ms),
            disk_entries: host.settings.disk_entries,
            disk_reserve_bytes: host.settings.disk_reserve_bytes,
            share: Arc::new(host.disk_shares.enter()),
            slots: host.settings.slots,
            seen: Arc::default(),
        };
        let group = host.hierarchy.as_ref().filter(|_| isolated).map(|h| h.make(&slot.name, &order.limits));
        meter.cgroup = group
            .transpose()
            .map_err(|source| SandboxError::Process { action: "make the cgroup of the build", source })?;
        let remains = Remains {
            host,
            meter: meter.clone(),
            workspace: Arc::clone(&workspace),
            slot,
            snapshot: None,
            layered: false,
        };
        Ok(Self {
            id: order.id,
            limits: order.limits,
            isolation,
            tools: order.tools,
            meter,
            workspace,
            sealed: None,
            skipped: Vec::new(),
            remains: Some(remains),
        })
    }

    /// Opens this sandbox's own ways to the registry mirror and to its egress hosts.
    pub(super) fn listen(&mut self, registry: &Arc<Mirror>, out: &Arc<Egress>) -> Result<(), SandboxError> {
        let (folder, owner) = (self.workspace.sockets_path(), self.workspace.owner());
        if let Isolation::Bubblewrap { mirror, egress, .. } = &mut self.isolation {
            *mirror = Some(registry.listen(&folder, owner).map_err(SandboxError::Mirror)?);
            *egress = Some(out.listen(&folder, owner)?);
        }
        Ok(())
    }

    async fn on_tree<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OwnedFd, Option<u32>) -> Result<T, SandboxError> + Send + 'static,
    ) -> Result<T, SandboxError> {
        let (tree, owner) = (self.workspace.tree()?, self.workspace.owner());
        tokio::task::spawn_blocking(move || work(&tree, owner)).await.map_err(SandboxError::Task)?
    }

    async fn start(&self, order: ExecOrder) -> Result<Started, SandboxError> {
        let spawned = |source| SandboxError::Process { action: "start the launcher", source };
        let (output, writer) = exec::pipe()?;
        let host = &self.host()?;
        match &self.isolation {
            Isolation::Bubblewrap { bwrap, node, .. } => {
                let (setup, errors) = exec::pipe()?;
                let mut command = Command::new(&host.paths.exe);
                command.args(["internal", "sandbox-launch"]).current_dir("/").env_clear();
                command.stdin(Stdio::piped()).stdout(writer).stderr(errors);
                command.process_group(0).kill_on_drop(true);
                let text = serde_json::to_vec(&self.launch_order(host, bwrap, node.as_deref(), order))
                    .map_err(|e| SandboxError::Setup { message: e.to_string() })?;
                let mut child = crate::process::spawn(command).await.map_err(spawned)?;
                if let Some(mut stdin) = child.stdin.take() {
                    // A launcher that is gone already says why on its standard error.
                    drop(tokio::time::timeout(ORDER_IS_READ, stdin.write_all(&text)).await);
                }
                Ok(Started { child, output, setup: Some(setup) })
            }
            Isolation::None => {
                let Some((program, arguments)) = order.argv.split_first() else {
                    return Err(SandboxError::Setup { message: "an empty command".into() });
                };
                let errors = writer
                    .try_clone()
                    .map_err(|source| SandboxError::Process { action: "share a pipe", source })?;
                let mut command = Command::new(program);
                command.args(arguments).env_clear().env("PATH", environment::search_path(&self.tools));
                command.env("HOME", self.workspace.home_path()).env("CI", "1").envs(order.env);
                command.current_dir(self.workspace.tree_path().join(&order.directory));
                command.stdin(Stdio::null()).stdout(writer).stderr(errors);
                command.process_group(0).kill_on_drop(true);
                let child = crate::process::spawn(command).await.map_err(spawned)?;
                Ok(Started { child, output, setup: None })
            }
        }
    }

    fn host(&self) -> Result<Arc<Host>, SandboxError> {
        let remains = self.remains.as_ref();
        remains
            .map(|r| Arc::clone(&r.host))
            .ok_or(SandboxError::Setup { message: "already destroyed".into() })
    }

    fn launch_order(&self, host: &Host, bwrap: &Path, node: Option<&Path>, order: ExecOrder) -> LaunchOrder {
        let polled = self.meter.cgroup.is_none();
        let processes = polled.then_some(u64::from(self.limits.processes));
        let mut env = environment::base();
        if matches!(self.isolation, Isolation::Bubblewrap { has_egress: true, .. }) {
            // Node's own fetch asks for a proxy only then, and pays 100 ms of every start for it.
            env.push(("NODE_USE_ENV_PROXY".into(), "1".into()));
        }
        env.extend(order.env);
        LaunchOrder {
            parent: i32::try_from(std::process::id()).unwrap_or(0),
            slot_uid: self.meter.slot_uid,
            cgroup_files: self
                .meter
                .cgroup
                .as_ref()
                .map(super::cgroup::Cgroup::join_files)
                .unwrap_or_default(),
            file_bytes: host.settings.file_bytes.min(self.limits.disk_bytes),
            // A slot's uid runs this build alone. An ordinary user's other processes are not this build's:
            // the shim sets it there, inside the user namespace, where the kernel counts the build only.
            tasks: self.meter.slot_uid.and(processes),
            bwrap: bwrap.to_owned(),
            bound: Bound {
                tree: self.workspace.tree_path(),
                layer: self.layer(),
                home: self.workspace.home_path(),
                shim: host.paths.exe.clone(),
                node: node.map(Path::to_owned),
                manager: self.tools.manager.clone(),
                sockets: order.network.then(|| self.workspace.sockets_path()),
            },
            // Polling sees the memory of processes and not that of files, so `/tmp` and `/dev/shm` share
            // there what each may have where a cgroup counts them.
            tmp_bytes: if polled { self.limits.tmp_bytes / 2 } else { self.limits.tmp_bytes },
            directory: order.directory.trim_end_matches('/').to_owned(),
            shim: ShimOrder {
                argv: order.argv,
                env,
                network: order.network,
                tasks: if self.meter.slot_uid.is_none() { processes } else { None },
            },
        }
    }
}

#[async_trait::async_trait]
impl Sandbox for Cage {
    fn id(&self) -> &str {
        &self.id
    }

    async fn write_files(&mut self, files: Vec<(String, Bytes)>) -> Result<(), SandboxError> {
        if self.sealed.is_some() {
            return Err(SandboxError::Sealed);
        }
        self.on_tree(move |tree, owner| workspace::write_files(tree, owner, &files)).await
    }

    async fn exec(
        &mut self,
        command: ExecOrder,
        output: mpsc::Sender<Bytes>,
        cancel: CancellationToken,
    ) -> Result<ExecOutcome, SandboxError> {
        self.sealed.get_or_insert_with(SystemTime::now);
        path::check_directory(&command.directory)?;
        let directory = command.directory.clone();
        self.on_tree(move |top, _| {
            let name = if directory.is_empty() { "." } else { &directory };
            tree::open_folder_beneath(top, name)
                .map(drop)
                .map_err(|_| SandboxError::DirectoryMissing { directory: directory.clone() })
        })
        .await?;
        let wall = command.wall.unwrap_or(self.limits.wall);
        let started = self.start(command).await?;
        let watch = Watch { limits: self.limits.clone(), wall, meter: self.meter.clone() };
        exec::supervise(started, watch, output, cancel).await
    }

    async fn collect(
        &mut self,
        directory: &str,
        into: &Path,
        limits: CollectLimits,
    ) -> Result<Vec<CollectedFile>, SandboxError> {
        let (directory, into) = (directory.to_owned(), into.to_owned());
        let collected =
            self.on_tree(move |tree, _| collect::collect(tree, &directory, &into, limits)).await?;
        self.skipped = collected.skipped;
        Ok(collected.files)
    }

    fn registry(&self) -> Option<&'static str> {
        matches!(self.isolation, Isolation::Bubblewrap { .. }).then_some(environment::REGISTRY)
    }

    fn skipped(&self) -> &[SkippedEntry] {
        &self.skipped
    }

    async fn exists(&mut self, path: &str) -> Result<bool, SandboxError> {
        let path = path.to_owned();
        self.on_tree(move |tree, _| workspace::exists(tree, &path)).await
    }

    fn take_notes(&mut self) -> Vec<String> {
        match &self.isolation {
            Isolation::Bubblewrap { egress: Some(egress), .. } => egress.book.take_lines(),
            _ => Vec::new(),
        }
    }

    fn cache(&mut self) -> Option<&mut dyn BuildCache> {
        self.shelf().is_ok().then_some(self as &mut dyn BuildCache)
    }

    async fn destroy(mut self: Box<Self>) -> Result<(), SandboxError> {
        self.close_socket();
        match self.remains.take() {
            Some(remains) => remains.clear().await,
            None => Ok(()),
        }
    }
}

/// What keeping dependencies needs to know of a sandbox.
impl Cage {
    pub(super) fn shelf(&self) -> Result<Arc<Shelf>, SandboxError> {
        let isolated = matches!(self.isolation, Isolation::Bubblewrap { .. });
        let shelf = self.host()?.cache.clone().filter(|_| isolated);
        shelf.ok_or_else(|| SandboxError::Setup { message: "nothing is kept here".into() })
    }

    pub(super) fn work_tree(&self) -> Result<OwnedFd, SandboxError> {
        self.workspace.tree()
    }

    pub(super) fn owner(&self) -> Option<u32> {
        self.workspace.owner()
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.workspace.folder.clone()
    }

    pub(super) fn begun(&self) -> Option<SystemTime> {
        self.sealed
    }

    pub(super) fn node(&self) -> Option<&Path> {
        match &self.isolation {
            Isolation::Bubblewrap { node, .. } => node.as_deref(),
            Isolation::None => None,
        }
    }

    pub(super) fn exe(&self) -> Result<PathBuf, SandboxError> {
        Ok(self.host()?.paths.exe.clone())
    }

    pub(super) fn hold(&mut self, snapshot: Snapshot, layered: bool) {
        if let Some(remains) = &mut self.remains {
            remains.snapshot = Some(snapshot);
            remains.layered = layered;
        }
    }

    fn layer(&self) -> Option<cache::LayerOrder> {
        let remains = self.remains.as_ref().filter(|remains| remains.layered)?;
        remains.snapshot.as_ref().map(|snapshot| cache::layer(snapshot, &self.workspace.folder))
    }
}

impl Cage {
    fn close_socket(&mut self) {
        if let Isolation::Bubblewrap { mirror, egress, .. } = &mut self.isolation {
            drop((mirror.take(), egress.take()));
        }
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        self.close_socket();
        let Some(remains) = self.remains.take() else { return };
        remains.meter.kill_now();
        // Without a runtime the folder stays for the sweep; the slot is freed and cleaned by its next user.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let id = remains.workspace.id.clone();
                if let Err(error) = remains.clear().await {
                    tracing::warn!(sandbox.id = %id, error = %error, "a dropped sandbox left something for the sweep");
                }
            });
        }
    }
}

impl Remains {
    async fn clear(self) -> Result<(), SandboxError> {
        let Self { host, meter, workspace, slot, snapshot, layered: _ } = self;
        let cleared = clear(&meter, workspace).await;
        if let (Some(snapshot), Some(cache)) = (snapshot, host.cache.clone()) {
            drop(tokio::task::spawn_blocking(move || cache.let_go(snapshot)).await);
        }
        drop(slot);
        host.slot_freed();
        cleared
    }
}

async fn clear(meter: &Meter, workspace: Arc<Workspace>) -> Result<(), SandboxError> {
    meter.kill_now();
    let (_, pids) = processes::kill_until_none(|| meter.left()).await;
    if !pids.is_empty() {
        return Err(SandboxError::Survivors { pids });
    }
    if let Some(cgroup) = &meter.cgroup {
        let gone = |source| SandboxError::Process { action: "remove the cgroup of the build", source };
        cgroup.remove().map_err(gone)?;
    }
    tokio::task::spawn_blocking(move || workspace.remove()).await.map_err(SandboxError::Task)?
}
