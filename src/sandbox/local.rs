//! The `local` provider: bubblewrap on this host. Owns the order of set-up and the real trial behind
//! the health report. Refuses rather than running with less isolation than it promises.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cage::{Cage, Isolation};
use super::egress::Egress;
use super::error::SandboxError;
use super::host::Host;
use super::limits::Limits;
use super::mirror::Mirror;
use super::report::{self, IsolationReport, SweepReport};
use super::settings::{SandboxPaths, Settings};
use super::slot::Slot;
use super::{ExecEnd, ExecOrder, Provider, Sandbox, SandboxOrder, ToolFolders, path};
use crate::domain::cause::chain;

pub(super) struct Local {
    host: Arc<Host>,
    mirror: Arc<Mirror>,
    bwrap: Option<PathBuf>,
}

impl Local {
    pub(super) fn open(settings: &Settings, paths: SandboxPaths) -> Result<Self, SandboxError> {
        let mirror =
            Mirror::open(&settings.mirror, &paths.mirror, &paths.tools).map_err(SandboxError::Mirror)?;
        let bwrap = find_program(&settings.bwrap);
        Ok(Self { host: Arc::new(Host::open(settings, paths)?), mirror, bwrap })
    }

    async fn make(
        &self,
        slot: Slot,
        order: SandboxOrder,
        node: Option<PathBuf>,
    ) -> Result<Cage, SandboxError> {
        let bwrap = self
            .bwrap
            .clone()
            .ok_or_else(|| SandboxError::IsolationMissing { missing: BWRAP_MISSING.into() })?;
        let egress = Egress::new(&self.host.settings.egress, order.egress.clone());
        let has_egress = !order.egress.is_empty();
        let isolation = Isolation::Bubblewrap { bwrap, node, mirror: None, egress: None, has_egress };
        let mut cage = Cage::make(Arc::clone(&self.host), slot, order, isolation).await?;
        cage.listen(&self.mirror, &egress)?;
        Ok(cage)
    }

    /// Runs `true` in a sandbox of its own slot.
    async fn trial(&self) -> Result<(), SandboxError> {
        let id = format!("trial{}.0", std::process::id());
        let slot = self.host.take_trial_slot(&id).await?;
        let limits = Limits {
            memory_bytes: 256 << 20,
            processes: 32,
            cpu_seconds: 10,
            wall: Duration::from_secs(20),
            ..self.host.settings.limits()
        };
        let tools = ToolFolders::default();
        let order = SandboxOrder { id, limits, node_major: 0, egress: Vec::new(), tools };
        let mut cage = self.make(slot, order, None).await?;
        let order = ExecOrder {
            argv: vec!["/usr/bin/true".into()],
            env: Vec::new(),
            directory: String::new(),
            wall: None,
            network: true,
        };
        let (output, _unread) = mpsc::channel(1);
        let outcome = cage.exec(order, output, CancellationToken::new()).await;
        Box::new(cage).destroy().await?;
        match outcome?.end {
            ExecEnd::Exited(0) => Ok(()),
            other => Err(SandboxError::Setup { message: format!("`true` in a sandbox ended as {other}") }),
        }
    }
}

const BWRAP_MISSING: &str = "bubblewrap is not installed; as root: apt-get install bubblewrap (its name elsewhere too), or set sandbox.bwrap";

#[async_trait::async_trait]
impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    async fn create(&self, order: SandboxOrder) -> Result<Box<dyn Sandbox>, SandboxError> {
        path::check_id(&order.id)?;
        let major = order.node_major;
        let laid_out = || self.host.paths.tools.join("node").join(major.to_string());
        let node = order.tools.node.clone().unwrap_or_else(laid_out);
        if !node.join("bin/node").is_file() {
            return Err(SandboxError::ToolsMissing { major });
        }
        let slot = self.host.take_slot(&order.id).await?;
        Ok(Box::new(self.make(slot, order, Some(node)).await?))
    }

    async fn report(&self) -> IsolationReport {
        let mut missing = Vec::new();
        if let Err(error) = self.trial().await {
            missing.push(chain(&error));
            missing.extend(report::forbidden_namespaces(|file| std::fs::read_to_string(file).ok()));
        }
        if let Err(error) = self.mirror.upstream().await {
            missing.push(format!("no npm registry is known: {}", chain(&error)));
        }
        if !has_any_node(&self.host.paths.tools) {
            missing.push(
                "Node for builds is not in tools_dir; `make install` in Libra's folder puts it there".into(),
            );
        }
        let host_uid = match rustix::process::geteuid() {
            me if me.is_root() => self.host.settings.slot_uid_base,
            me => me.as_raw(),
        };
        IsolationReport {
            provider: self.name(),
            ok: missing.is_empty(),
            limiter: self.host.limiter(),
            host_uid: Some(host_uid),
            slots: self.host.settings.slots,
            missing,
            not_enforced: Vec::new(),
        }
    }

    async fn sweep(
        &self,
        keep: &(dyn for<'name> Fn(&'name str) -> bool + Send + Sync),
    ) -> Result<SweepReport, SandboxError> {
        self.host.sweep(keep).await
    }
}

fn has_any_node(tools: &Path) -> bool {
    std::fs::read_dir(tools.join("node"))
        .is_ok_and(|mut majors| majors.any(|m| m.is_ok_and(|m| m.path().join("bin/node").is_file())))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let given = Path::new(name);
    if given.is_absolute() {
        return given.is_file().then(|| given.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
