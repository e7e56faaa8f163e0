//! The only writer of the host table: proved custom domains and the Workers they lead to.

use std::collections::HashMap;
use std::time::Duration;

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::routing::{CustomHost, HostTable};
use crate::store::StoreError;

/// A changed domain is seen within this, also when the broker is away.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct DomainResolver {
    parts: Parts,
    owner: Recipient<ChildStopped>,
    epoch: Option<i64>,
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
        Self { parts: Parts(parts), owner, epoch: None }
    }
}

impl Actor for DomainResolver {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.notify(Look);
        ctx.run_interval(POLL, |_, ctx| ctx.notify(Look));
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
        let known = self.epoch;
        let work = async move { read(&parts, known).await };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|read, this, _| match read {
            Ok(Some(epoch)) => this.epoch = Some(epoch),
            Ok(None) => {}
            Err(e) => tracing::warn!(error = %e, "custom domains could not be read; the last table serves"),
        })))
    }
}

async fn read(parts: &ActorParts, known: Option<i64>) -> Result<Option<i64>, StoreError> {
    let store = &parts.pipeline.control.store;
    let epoch = store.route_epoch().await?;
    if known == Some(epoch) {
        return Ok(None);
    }
    let hosts: HashMap<Box<str>, CustomHost> = store
        .domain_served()
        .await?
        .into_iter()
        .map(|d| {
            let leads_to = match d.project_active {
                true => CustomHost::Worker(d.worker_name.into()),
                false => CustomHost::Inactive,
            };
            (d.hostname.into(), leads_to)
        })
        .collect();
    parts.tables.publish_hosts(HostTable { epoch: u64::try_from(epoch).unwrap_or(0), hosts });
    Ok(Some(epoch))
}
