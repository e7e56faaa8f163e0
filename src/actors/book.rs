//! The address book: the current address of each child. Read anew after every `Closed`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use actix::prelude::*;
use serde::Serialize;

use super::certificate_keeper::CertificateKeeper;
use super::deployment::DeploymentActor;
use super::domain_checks::DomainChecks;
use super::domain_resolver::DomainResolver;
use super::sweep::Sweep;
use super::worker_registry::WorkerRegistry;
use super::{Child, PanicNow};

/// What health shows of each child.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorState {
    pub running: bool,
    /// Times it was built anew after it stopped.
    pub restarts: u64,
}

pub type ActorStates = BTreeMap<String, ActorState>;

#[derive(Debug, Default)]
struct Entries {
    domain_resolver: Option<Addr<DomainResolver>>,
    domain_checks: Option<Addr<DomainChecks>>,
    worker_registry: Option<Addr<WorkerRegistry>>,
    certificate_keeper: Option<Addr<CertificateKeeper>>,
    sweep: Option<Addr<Sweep>>,
    deployments: BTreeMap<usize, Addr<DeploymentActor>>,
    restarts: BTreeMap<Child, u64>,
}

/// Shared by all who send to an actor. Locked only to copy an address.
#[derive(Debug, Default)]
pub struct AddressBook(Mutex<Entries>);

impl AddressBook {
    pub fn worker_registry(&self) -> Option<Addr<WorkerRegistry>> {
        self.lock().worker_registry.clone()
    }

    pub fn domain_resolver(&self) -> Option<Addr<DomainResolver>> {
        self.lock().domain_resolver.clone()
    }

    pub(super) fn enter_registry(&self, addr: Addr<WorkerRegistry>) {
        self.lock().worker_registry = Some(addr);
    }

    pub(super) fn enter_resolver(&self, addr: Addr<DomainResolver>) {
        self.lock().domain_resolver = Some(addr);
    }

    pub(super) fn enter_checks(&self, addr: Addr<DomainChecks>) {
        self.lock().domain_checks = Some(addr);
    }

    pub(super) fn enter_keeper(&self, addr: Addr<CertificateKeeper>) {
        self.lock().certificate_keeper = Some(addr);
    }

    pub(super) fn enter_sweep(&self, addr: Addr<Sweep>) {
        self.lock().sweep = Some(addr);
    }

    pub(super) fn enter_deployment(&self, slot: usize, addr: Addr<DeploymentActor>) {
        self.lock().deployments.insert(slot, addr);
    }

    pub(super) fn leave(&self, child: Child) {
        let mut entries = self.lock();
        match child {
            Child::DomainResolver => entries.domain_resolver = None,
            Child::DomainChecks => entries.domain_checks = None,
            Child::WorkerRegistry => entries.worker_registry = None,
            Child::CertificateKeeper => entries.certificate_keeper = None,
            Child::Sweep => entries.sweep = None,
            Child::Deployment(slot) => {
                entries.deployments.remove(&slot);
            }
        }
        *entries.restarts.entry(child).or_default() += 1;
    }

    /// Each child, whether it runs and how often it was rebuilt.
    pub fn states(&self, pool: usize) -> ActorStates {
        let entries = self.lock();
        let mut states = ActorStates::new();
        let mut show = |child: Child, running: bool| {
            let restarts = entries.restarts.get(&child).copied().unwrap_or(0);
            states.insert(child.to_string(), ActorState { running, restarts });
        };
        show(Child::DomainResolver, entries.domain_resolver.as_ref().is_some_and(Addr::connected));
        show(Child::DomainChecks, entries.domain_checks.as_ref().is_some_and(Addr::connected));
        show(Child::WorkerRegistry, entries.worker_registry.as_ref().is_some_and(Addr::connected));
        show(Child::CertificateKeeper, entries.certificate_keeper.as_ref().is_some_and(Addr::connected));
        show(Child::Sweep, entries.sweep.as_ref().is_some_and(Addr::connected));
        for slot in 0..pool {
            let running = entries.deployments.get(&slot).is_some_and(Addr::connected);
            show(Child::Deployment(slot), running);
        }
        states
    }

    /// Test-only: panics the child of that name. Answers whether there is one.
    pub fn panic(&self, name: &str) -> bool {
        let entries = self.lock();
        let sent = match name {
            "domain_resolver" => entries.domain_resolver.as_ref().map(|a| a.try_send(PanicNow).is_ok()),
            "domain_checks" => entries.domain_checks.as_ref().map(|a| a.try_send(PanicNow).is_ok()),
            "worker_registry" => entries.worker_registry.as_ref().map(|a| a.try_send(PanicNow).is_ok()),
            "certificate_keeper" => entries.certificate_keeper.as_ref().map(|a| a.try_send(PanicNow).is_ok()),
            "sweep" => entries.sweep.as_ref().map(|a| a.try_send(PanicNow).is_ok()),
            _ => name
                .strip_prefix("deployment_")
                .and_then(|n| n.parse().ok())
                .and_then(|n: usize| entries.deployments.get(&n))
                .map(|a| a.try_send(PanicNow).is_ok()),
        };
        sent.unwrap_or(false)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        // Addresses are copied in and out whole, so a panic elsewhere leaves no half entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
