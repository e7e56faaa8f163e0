//! Looks after the claims on custom domains: takes no input, and is one of as many as there are servers.

use std::time::Duration;

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};

pub struct DomainChecks {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
}

impl DomainChecks {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        Self { parts, owner }
    }
}

impl Actor for DomainChecks {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let parts = self.parts.clone();
        let work = async move { look_after(&parts).await };
        ctx.spawn(work.into_actor(self).map(|(), _, ctx| ctx.stop()));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::DomainChecks)));
    }
}

child_actor!(DomainChecks);

async fn look_after(parts: &ActorParts) {
    let control = &parts.pipeline.control;
    let checks = &control.settings.domains.checks;
    let mut tick = tokio::time::interval(Duration::from_millis(checks.interval_ms));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut more = false;
    while !parts.draining.is_cancelled() {
        tokio::select! {
            () = parts.draining.cancelled() => return,
            // Where a round took all it could, the next one follows at once.
            _ = tick.tick(), if !more => {}
            () = std::future::ready(()), if more => {}
        }
        more = match control.domains_look_after().await {
            Ok(looked) => looked >= checks.concurrency,
            Err(e) => {
                tracing::warn!(error = %e, "custom domains could not be looked after");
                false
            }
        };
    }
}
