//! The `none` provider: commands run as plain children of the server. For development on machines that
//! can't isolate; loud about it, and production settings refuse it. It bounds output, time and disk only.

use std::sync::Arc;

use super::cage::{Cage, Isolation};
use super::error::SandboxError;
use super::host::Host;
use super::report::{IsolationReport, Limiter, SweepReport};
use super::settings::{SandboxPaths, Settings};
use super::{Provider, Sandbox, SandboxOrder, path};

pub(super) struct Unisolated {
    host: Arc<Host>,
}

impl Unisolated {
    pub(super) fn open(settings: &Settings, paths: SandboxPaths) -> Result<Self, SandboxError> {
        tracing::warn!(
            sandbox.provider = "none",
            "BUILDS ARE NOT ISOLATED: code of tenants runs with all rights of this server; never use this in production"
        );
        Ok(Self { host: Arc::new(Host::open(settings, paths)?) })
    }
}

#[async_trait::async_trait]
impl Provider for Unisolated {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn create(&self, order: SandboxOrder) -> Result<Box<dyn Sandbox>, SandboxError> {
        path::check_id(&order.id)?;
        tracing::warn!(sandbox.id = %order.id, "this build is not isolated");
        let slot = self.host.take_slot(&order.id).await?;
        Ok(Box::new(Cage::make(Arc::clone(&self.host), slot, order, Isolation::None).await?))
    }

    async fn report(&self) -> IsolationReport {
        IsolationReport {
            provider: self.name(),
            ok: false,
            limiter: Limiter::None,
            host_uid: Some(rustix::process::geteuid().as_raw()),
            slots: self.host.settings.slots,
            missing: vec!["builds are not isolated: set sandbox.provider = \"local\"".into()],
            not_enforced: vec!["memory, CPU, processes and the network are not limited at all".into()],
        }
    }

    async fn sweep(
        &self,
        keep: &(dyn for<'name> Fn(&'name str) -> bool + Send + Sync),
    ) -> Result<SweepReport, SandboxError> {
        self.host.sweep(keep).await
    }
}
