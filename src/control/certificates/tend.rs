//! One round of getting certificates: take the lease, do what is due, give the lease back.
//! One server at a time over all; what its holder writes names the fence.

use std::time::Duration;

use futures_util::StreamExt;

use super::super::{Control, ControlError};
use crate::store::StoreError;
use crate::store::certificates::Due;
use crate::store::issuing::IssuerHold;

/// Names taken in one round, per order at once.
const ROUND: u64 = 8;
/// Certificates taken out of service in one round.
const RETIRED: u64 = 200;

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tended {
    /// Nothing was due, or another server does it.
    Nothing,
    Names(usize),
}

impl Control {
    /// Gets and renews what is due; answers when those orders are over.
    ///
    /// # Errors
    /// If the record can't be read or written, or the lease was lost: the orders were given up.
    pub async fn certificates_tend(&self, node: &str) -> Result<Tended, ControlError> {
        let acme = &self.settings.tls.acme;
        if self.issuers.is_empty() {
            return Ok(Tended::Nothing);
        }
        let due = self.store.certificate_due(acme.concurrency as u64 * ROUND).await?;
        if due.is_empty() {
            return Ok(Tended::Nothing);
        }
        let Some(hold) = self.store.issuer_lease_take(node, acme.lease_ms()).await? else {
            return Ok(Tended::Nothing);
        };
        let count = due.len();
        let lost = tokio::select! {
            () = self.get_all(&hold, due) => None,
            lost = self.keep(&hold) => Some(lost),
        };
        if let Some(error) = lost {
            return Err(error.into());
        }
        self.store.issuer_lease_release(&hold).await?;
        Ok(Tended::Names(count))
    }

    /// Forgets what no budget counts any more, and takes certificates out of service whose name nobody
    /// owns any more. Seldom.
    ///
    /// # Errors
    /// If the record can't be read or written.
    pub async fn certificates_sweep(&self, node: &str) -> Result<(), ControlError> {
        let acme = &self.settings.tls.acme;
        let Some(hold) = self.store.issuer_lease_take(node, acme.lease_ms()).await? else { return Ok(()) };
        let done = async {
            self.store.acme_prune(&hold, acme.longest_window_ms()).await?;
            let retired = self.store.certificate_retire(&hold, RETIRED).await?;
            Ok::<u64, ControlError>(retired)
        };
        // An issuer may be slow: what is asked of it ends with the lease.
        let asking = async {
            let retired = done.await?;
            self.renewals_ask(&hold).await?;
            Ok::<u64, ControlError>(retired)
        };
        let retired = tokio::select! {
            done = asking => done,
            lost = self.keep(&hold) => Err(lost.into()),
        };
        self.store.issuer_lease_release(&hold).await?;
        let retired = retired?;
        if retired > 0 {
            tracing::info!(count = retired, "certificates whose name nobody owns were taken out of service");
        }
        Ok(())
    }

    async fn get_all(&self, hold: &IssuerHold, due: Vec<Due>) {
        let at_once = self.settings.tls.acme.concurrency;
        futures_util::stream::iter(due)
            .for_each_concurrent(at_once, |due| async move {
                if let Err(e) = self.certificate_get(hold, &due).await {
                    tracing::warn!(domain = %due.hostname, error = %e, "a certificate's order could not be written down");
                }
            })
            .await;
    }

    /// Extends the lease until it is lost.
    async fn keep(&self, hold: &IssuerHold) -> StoreError {
        let lease_ms = self.settings.tls.acme.lease_ms();
        let third = Duration::from_millis(lease_ms.unsigned_abs() / 3);
        loop {
            tokio::time::sleep(third).await;
            match self.store.issuer_lease_extend(hold, lease_ms).await {
                Ok(()) => {}
                // The lease may last until the database is back.
                Err(e) if e.may_pass() => {
                    tracing::warn!(error = %e, "the issuers' lease could not be extended")
                }
                Err(e) => return e,
            }
        }
    }
}
