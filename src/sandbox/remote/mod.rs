//! Sandboxes that somebody else runs, whoever it is: what every provider can do behind two small
//! traits, and what is the same for all of them — making, finding again, sweeping, limits, taking the
//! output in. Must never let a provider's answer decide more than it has to: archives are hostile,
//! answers are bounded, and no key of ours is ever inside.

mod error;
mod http;
mod settings;

mod machine;
mod unpack;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use error::RemoteError;
pub(in crate::sandbox) use http::{Again, Caller, with_query};
pub(in crate::sandbox) use machine::{Entry, Machine, Order};
pub use settings::{DaytonaSettings, E2bSettings, RemoteSettings};
pub(in crate::sandbox) use settings::{for_node, usable};

use self::machine::RemoteSandbox;
use super::error::SandboxError;
use super::report::{IsolationReport, Limiter, SweepReport};
use super::{Provider, Sandbox, SandboxOrder, path};

/// Under this label or metadata key every sandbox names the installation that made it.
pub(in crate::sandbox) const INSTALLATION: &str = "libra-installation";
/// And under this one its id with us.
pub(in crate::sandbox) const SANDBOX: &str = "libra-sandbox";

/// A sandbox of this installation, as the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sandbox) struct Listed {
    /// The provider's own id.
    pub remote: String,
    /// `<deployment>.<fence>`.
    pub sandbox: String,
}

/// One provider's API, as far as we need it.
#[async_trait::async_trait]
pub(in crate::sandbox) trait Cloud: Send + Sync {
    fn name(&self) -> &'static str;
    /// The setting that names what sandboxes are made from.
    fn image_setting(&self) -> &'static str;
    /// Limits of ours that this provider does not take from us, for people.
    fn not_enforced(&self) -> Vec<String>;
    fn settings(&self) -> &RemoteSettings;
    /// Makes a sandbox and waits until it runs. One that is made and does not run is deleted.
    async fn create(&self, order: &SandboxOrder) -> Result<Arc<dyn Machine>, RemoteError>;
    /// Talks to a sandbox that is there already; `None` where the provider does not know it.
    async fn connect(&self, remote: &str) -> Result<Option<Arc<dyn Machine>>, RemoteError>;
    /// All sandboxes of this installation, at most as many as the settings allow.
    async fn list(&self) -> Result<Vec<Listed>, RemoteError>;
    /// Deletes; one that is gone is no error.
    async fn delete(&self, remote: &str) -> Result<(), RemoteError>;
    /// The cheapest request that needs the key.
    async fn probe(&self) -> Result<(), RemoteError>;
}

pub(in crate::sandbox) struct Remote<C> {
    cloud: C,
    /// What the last sweep found and nobody held.
    unheld: Mutex<HashSet<String>>,
}

impl<C: Cloud> Remote<C> {
    pub fn new(cloud: C) -> Self {
        Self { cloud, unheld: Mutex::default() }
    }

    /// A create whose answer was lost may have made a sandbox: it is looked for by its label and used,
    /// before another one is made. One that shows up later is swept.
    async fn make(&self, order: &SandboxOrder) -> Result<Arc<dyn Machine>, RemoteError> {
        let mut failures = 0;
        loop {
            let error = match self.cloud.create(order).await {
                Ok(machine) => return Ok(machine),
                Err(e) if e.outcome_is_unknown() => e,
                Err(e) => return Err(e),
            };
            if let Some(machine) = self.find(&order.id).await? {
                tracing::info!(sandbox.id = %order.id, sandbox.provider = self.cloud.name(), "a sandbox was made although the answer was lost; it is used");
                return Ok(machine);
            }
            let settings = self.cloud.settings();
            if failures >= settings.retries {
                return Err(error);
            }
            tracing::warn!(sandbox.id = %order.id, sandbox.provider = self.cloud.name(), error = %error, "a sandbox was not made; trying again");
            tokio::time::sleep(Duration::from_millis(settings.retry_wait_ms << failures.min(6))).await;
            failures += 1;
        }
    }

    async fn find(&self, id: &str) -> Result<Option<Arc<dyn Machine>>, RemoteError> {
        match self.cloud.list().await?.into_iter().find(|listed| listed.sandbox == id) {
            Some(listed) => self.cloud.connect(&listed.remote).await,
            None => Ok(None),
        }
    }

    fn wrap(&self, order: SandboxOrder, machine: Arc<dyn Machine>) -> RemoteSandbox {
        RemoteSandbox::new(order.id, order.limits, machine, self.cloud.settings().clone())
    }
}

#[async_trait::async_trait]
impl<C: Cloud> Provider for Remote<C> {
    fn name(&self) -> &'static str {
        self.cloud.name()
    }

    fn is_remote(&self) -> bool {
        true
    }

    async fn create(&self, order: SandboxOrder) -> Result<Box<dyn Sandbox>, SandboxError> {
        path::check_id(&order.id)?;
        let machine = self.make(&order).await?;
        let wanted = order.node_major;
        let mut sandbox = self.wrap(order, machine);
        let found = sandbox.node_version().await?;
        if !found.starts_with(&format!("v{wanted}.")) {
            let (provider, setting) = (self.cloud.name(), self.cloud.image_setting());
            Box::new(sandbox).destroy().await?;
            return Err(RemoteError::Node { provider, wanted, found, setting }.into());
        }
        Ok(Box::new(sandbox))
    }

    async fn reconnect(&self, order: SandboxOrder) -> Result<Option<Box<dyn Sandbox>>, SandboxError> {
        path::check_id(&order.id)?;
        let machine = self.find(&order.id).await?;
        Ok(machine.map(|machine| -> Box<dyn Sandbox> { Box::new(self.wrap(order, machine)) }))
    }

    async fn report(&self) -> IsolationReport {
        let missing = match self.cloud.probe().await {
            Ok(()) => Vec::new(),
            Err(e) => vec![e.to_string()],
        };
        IsolationReport {
            provider: self.name(),
            ok: missing.is_empty(),
            limiter: Limiter::Provider,
            host_uid: None,
            slots: 0,
            missing,
            not_enforced: self.cloud.not_enforced(),
        }
    }

    /// What two sweeps in a row found and nobody held: an attempt is recorded before its sandbox is made,
    /// so what a first sweep saw is known to whoever is asked at the second.
    async fn sweep(
        &self,
        keep: &(dyn for<'name> Fn(&'name str) -> bool + Send + Sync),
    ) -> Result<SweepReport, SandboxError> {
        let listed = self.cloud.list().await?;
        let unheld: Vec<Listed> = listed.into_iter().filter(|listed| !keep(&listed.sandbox)).collect();
        let remotes = unheld.iter().map(|listed| listed.remote.clone()).collect();
        let before = {
            let mut known = self.unheld.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, remotes)
        };
        let mut report = SweepReport::default();
        for leftover in unheld.into_iter().filter(|listed| before.contains(&listed.remote)) {
            self.cloud.delete(&leftover.remote).await?;
            tracing::info!(sandbox.id = %leftover.sandbox, sandbox.provider = self.name(), "a leftover sandbox was deleted");
            report.sandboxes += 1;
        }
        Ok(report)
    }
}
