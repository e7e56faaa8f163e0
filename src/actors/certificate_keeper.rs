//! Keeps what handshakes read up to the record and the operator's files, and has what is due got.
//! Rounds of asking issuers run beside the looks: an issuer comes while its order is still open.

use std::time::{Duration, Instant};

use actix::prelude::*;

use super::{ActorParts, Child, ChildStopped, child_actor};
use crate::control::certificates::Tended;

pub struct CertificateKeeper {
    parts: ActorParts,
    owner: Recipient<ChildStopped>,
    /// The epoch that is served; a fresh keeper has read none.
    epoch: i64,
    files_looked: Instant,
    swept: Instant,
    asking: bool,
}

impl CertificateKeeper {
    pub(super) fn new(parts: ActorParts, owner: Recipient<ChildStopped>) -> Self {
        let now = Instant::now();
        Self { parts, owner, epoch: 0, files_looked: now, swept: now, asking: false }
    }
}

impl Actor for CertificateKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let control = &self.parts.pipeline.control;
        let settings = &control.settings.tls;
        ctx.notify(Look);
        ctx.run_interval(Duration::from_millis(settings.poll_ms), |_, ctx| ctx.notify(Look));
        if !control.issuers.is_empty() {
            ctx.notify(Tend);
            ctx.run_interval(Duration::from_millis(settings.acme.look_ms), |_, ctx| ctx.notify(Tend));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        // A supervisor that is gone needs no report.
        drop(self.owner.try_send(ChildStopped(Child::CertificateKeeper)));
    }
}

child_actor!(CertificateKeeper);

/// Reads what has changed in the record, and the files when it is their time.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Look;

impl Handler<Look> for CertificateKeeper {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        let control = std::sync::Arc::clone(&self.parts.pipeline.control);
        let settings = &control.settings.tls;
        let file_poll = Duration::from_millis(settings.file_poll_ms);
        let files_due = !settings.certificates.is_empty() && self.files_looked.elapsed() >= file_poll;
        if files_due {
            self.files_looked = Instant::now();
        }
        let known = self.epoch;
        let work = async move {
            if files_due {
                let tls = std::sync::Arc::clone(&control.tls);
                // A look that was cut off is made again.
                drop(tokio::task::spawn_blocking(move || tls.files.look(&tls.table)).await);
            }
            control.certificates_refresh(known).await
        };
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|read, this, _| match read {
            Ok(epoch) => this.epoch = epoch,
            Err(e) => {
                tracing::warn!(error = %e, "certificates could not be read; those that were read serve");
            }
        })))
    }
}

/// Has what is due got, unless that is being done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Tend;

impl Handler<Tend> for CertificateKeeper {
    type Result = ();

    fn handle(&mut self, _: Tend, ctx: &mut Self::Context) {
        let draining = self.parts.draining.clone();
        if self.asking || draining.is_cancelled() {
            return;
        }
        self.asking = true;
        let every = self.parts.pipeline.control.settings.tls.acme.sweep_seconds;
        let sweep = self.swept.elapsed() >= Duration::from_secs(every);
        if sweep {
            self.swept = Instant::now();
        }
        let parts = self.parts.clone();
        let work = async move {
            let control = &parts.pipeline.control;
            let node = &parts.pipeline.node;
            let round = async {
                if sweep {
                    control.certificates_sweep(node).await?;
                }
                control.certificates_tend(node).await
            };
            tokio::select! {
                done = round => Some(done),
                // Orders that are given up are found by whoever takes the lease next.
                () = draining.cancelled() => None,
            }
        };
        ctx.spawn(work.into_actor(self).map(|done, this, _| {
            this.asking = false;
            match done {
                Some(Ok(Tended::Names(count))) => tracing::debug!(count, "certificates were tended"),
                Some(Ok(Tended::Nothing)) | None => {}
                Some(Err(e)) => tracing::warn!(error = %e, "certificates could not be tended"),
            }
        }));
    }
}
