//! Asking issuers when they want certificates renewed, and heeding it within bounds. A few at a time, seldom.

use futures_util::StreamExt;

use super::super::{Control, ControlError};
use super::issue::Stop;
use crate::domain::certificate::renew_within;
use crate::domain::time;
use crate::store::certificates::CertificateRow;
use crate::store::issuing::IssuerHold;
use crate::tls::acme::{Account, Issuer, Suggested, renewal_of};

/// Certificates asked about in one sweep.
const SWEEP: u64 = 100;
/// What an issuer may say about when it wants to be asked again (RFC 9773, 4.3.3: a minute to a day).
const SOONEST_MS: i64 = 60_000;
const LATEST_MS: i64 = 24 * 3_600_000;

impl Control {
    /// Asks about what has not been asked about for long.
    pub(super) async fn renewals_ask(&self, hold: &IssuerHold) -> Result<(), ControlError> {
        if !self.settings.tls.acme.renewal_info || self.issuers.is_empty() {
            return Ok(());
        }
        let due = self.store.renewal_due(SWEEP).await?;
        for issuer in &self.issuers {
            let is_its_own = |row: &&CertificateRow| row.issuer.as_ref() == Some(&issuer.name);
            let rows: Vec<&CertificateRow> = due.iter().filter(is_its_own).collect();
            if rows.is_empty() {
                continue;
            }
            // Who can't be reached now is asked again as if it had said nothing.
            let account = match self.account(hold, issuer).await {
                Ok(account) => Some(account),
                Err(Stop::Record(error)) => return Err(error),
                Err(Stop::Wait { .. } | Stop::Failed(_)) => None,
            };
            let asked = rows.into_iter().map(|row| self.renewal_ask(hold, issuer, account.as_ref(), row));
            let at_once = self.settings.tls.acme.concurrency;
            let done: Vec<_> = futures_util::stream::iter(asked).buffer_unordered(at_once).collect().await;
            done.into_iter().collect::<Result<(), ControlError>>()?;
        }
        // Of an issuer that is asked nothing any more.
        let known = |row: &&CertificateRow| self.issuers.iter().any(|i| row.issuer.as_ref() == Some(&i.name));
        for row in due.iter().filter(|row| !known(row)) {
            self.store.renewal_set(hold, row, None, self.ask_again(None).await?).await?;
        }
        Ok(())
    }

    async fn renewal_ask(
        &self,
        hold: &IssuerHold,
        issuer: &Issuer,
        account: Option<&Account>,
        row: &CertificateRow,
    ) -> Result<(), ControlError> {
        let said = match (account, &row.chain) {
            (Some(account), Some(chain)) => renewal_of(account, &issuer.name, chain).await.ok().flatten(),
            _ => None,
        };
        let heeded = said.and_then(|said| {
            renew_within(&row.hostname, (said.start, said.end), row.not_before?, row.not_after?)
        });
        // Much the same as before needs no word.
        let moved = heeded.filter(|at| at.abs_diff(row.next_try_at) > 1_000);
        if let Some(at) = moved {
            tracing::info!(domain = %row.hostname, issuer = %issuer.name, renew_at = %time::rfc3339(at),
                "the issuer suggested when to renew a certificate");
        }
        let again = self.ask_again(said).await?;
        Ok(self.store.renewal_set(hold, row, moved, again).await?)
    }

    async fn ask_again(&self, said: Option<Suggested>) -> Result<i64, ControlError> {
        let pause = match said {
            Some(said) => i64::try_from(said.ask_again.as_millis()).unwrap_or(LATEST_MS),
            None => self.settings.tls.acme.renewal_info_ms(),
        };
        Ok(self.store.now().await?.saturating_add(pause.clamp(SOONEST_MS, LATEST_MS)))
    }
}
