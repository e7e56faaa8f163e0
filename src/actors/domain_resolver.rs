//! The only writer of the host table: proved custom domains and the Workers they lead to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::routing::CustomHost;
use crate::store::StoreError;
use crate::store::domains::ServedDomain;

/// A changed domain is seen within this, also when the broker is away.
const POLL: Duration = Duration::from_secs(1);
/// Reading all domains takes at most a twentieth of the time: a million of them are read rarely, ten at once.
const REST: u32 = 20;

#[derive(Debug)]
pub struct DomainResolver {
    parts: Parts,
    owner: Recipient<ChildStopped>,
    known: Known,
}

/// What this actor has published.
#[derive(Debug, Default)]
struct Known {
    epoch: Option<i64>,
    hosts: HashMap<Box<str>, CustomHost>,
    /// Domains whose Worker was not in the table yet.
    unplaced: HashSet<Box<str>>,
    rests_until: Option<Instant>,
}

/// Kept apart so that `Debug` stays short.
struct Parts(ActorParts);

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl DomainResolver {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts: Parts(parts), owner, known: Known::default() }
    }
}

impl Actor for DomainResolver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Look);
        ctx.run_interval(POLL, |_, ctx| ctx.notify(Look));
        // Told at once of what this server itself changed.
        let control = Arc::clone(&self.parts.0.pipeline.control);
        let address = ctx.address();
        ctx.spawn(
            async move {
                loop {
                    control.hosts_changed.notified().await;
                    // A full mailbox has a look waiting already.
                    drop(address.try_send(Look));
                }
            }
            .into_actor(self),
        );
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::DomainResolver)));
    }
}

child_actor!(DomainResolver);

/// Reads the table anew if the epoch has moved.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Look;

impl Handler<Look> for DomainResolver {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        let parts = self.parts.0.clone();
        let known = std::mem::take(&mut self.known);
        let work = async move {
            let mut known = known;
            let read = read(&parts, &mut known).await;
            (known, read)
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|(known, read), this, _| {
            this.known = known;
            if let Err(e) = read {
                tracing::warn!(error = %e, "custom domains could not be read; the last table serves");
            }
        })))
    }
}

/// Where a served domain leads to.
pub fn leads_to(domain: &ServedDomain) -> CustomHost {
    match (domain.project_active, &domain.redirect_to) {
        (false, _) => CustomHost::Inactive,
        (true, Some(to)) => CustomHost::Redirect(to.as_str().into()),
        (true, None) => CustomHost::Worker(domain.worker_name.as_str().into()),
    }
}

async fn read(parts: &ActorParts, known: &mut Known) -> Result<(), StoreError> {
    let store = &parts.pipeline.control.store;
    let tables = &parts.tables;
    // A Worker may be published after the domain that leads to it.
    known.unplaced.retain(|host| known.hosts.get(host).is_some_and(|to| !tables.publish_host(host, to)));
    let epoch = store.route_epoch().await?;
    if known.epoch == Some(epoch) || known.rests_until.is_some_and(|until| Instant::now() < until) {
        return Ok(());
    }
    let started = Instant::now();
    let served: HashMap<Box<str>, CustomHost> = store
        .domain_served()
        .await?
        .into_iter()
        .map(|d| (d.hostname.as_str().into(), leads_to(&d)))
        .collect();
    for (host, to) in &served {
        if known.hosts.get(host) != Some(to) && !tables.publish_host(host, to) {
            known.unplaced.insert(host.clone());
        }
    }
    for gone in known.hosts.keys().filter(|host| !served.contains_key(*host)) {
        tables.remove_host(gone);
    }
    if known.epoch.is_none() {
        // What the actor before this one published is not in our list.
        tables.retain_hosts(|host| served.contains_key(host));
    }
    known.epoch = Some(epoch);
    known.hosts = served;
    known.rests_until = Some(Instant::now() + started.elapsed() * REST);
    tables.hosts_are_loaded();
    Ok(())
}
