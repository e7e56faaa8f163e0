//! Certificates of custom domains: what this server serves of them, and how each stands.

mod issue;
mod preflight;
mod renewal;
mod tend;

use std::collections::HashSet;

use secrecy::{ExposeSecret, SecretSlice};

use super::seal::Sealer;
use super::{Control, ControlError};
use crate::domain::certificate::CertificateState;
use crate::domain::{ChallengeKind, OrgScope, time};
use crate::store::certificates::{CertificateRow, DomainCertificate};
use crate::store::issuing::ChallengeRow;
use crate::tls::{Certificate, Outstanding};

pub use tend::Tended;

/// Certificates read at a time.
const BATCH: u64 = 500;

/// How one custom domain's certificate stands.
#[derive(Debug, Clone)]
pub struct CertificateView {
    pub hostname: String,
    pub project_id: String,
    pub state: CertificateState,
    /// Whether the operator's own certificate serves the name.
    pub operators: bool,
    /// Whoever gave it, or was asked last.
    pub issuer: Option<String>,
    pub challenge: Option<ChallengeKind>,
    pub not_before: Option<i64>,
    pub not_after: Option<i64>,
    pub last_words: Option<String>,
    /// When a renewal or the next try begins, where anybody is asked.
    pub next_try_at: Option<i64>,
}

/// What health shows.
#[derive(Debug, Clone, Copy)]
pub struct TlsReport {
    pub names: usize,
    pub issued: usize,
    pub soonest_end: Option<i64>,
    pub files: usize,
    pub failed_files: usize,
    pub unreadable: usize,
}

impl TlsReport {
    /// Nothing is broken and nothing has ended.
    #[must_use]
    pub fn is_well(&self) -> bool {
        let ended = self.soonest_end.is_some_and(|end| end <= time::now_ms());
        self.failed_files == 0 && self.unreadable == 0 && !ended
    }
}

impl Control {
    /// Brings what handshakes read up to the record, `known` being the epoch it was read at before
    /// (0: never). Answers the epoch that is served now.
    ///
    /// # Errors
    /// If the record can't be read; what was read before serves on.
    pub async fn certificates_refresh(&self, known: i64) -> Result<i64, ControlError> {
        let epoch = self.store.certificate_epoch().await?;
        if epoch == known {
            return Ok(known);
        }
        self.challenges_refresh().await?;
        let mut after = (known + 1, String::new());
        let mut named = HashSet::new();
        loop {
            let page = self.store.certificate_changes((after.0, &after.1), BATCH).await?;
            let Some(last) = page.last() else { break };
            after = (last.epoch, last.hostname.clone());
            let full = page.len() as u64 == BATCH;
            if known == 0 {
                named.extend(page.iter().map(|row| row.hostname.clone().into_boxed_str()));
            }
            page.into_iter().for_each(|row| self.serve(row));
            if !full {
                break;
            }
        }
        if known == 0 {
            // What an earlier run kept on disk and the record does not name any more.
            self.tls.table.retain_issued(&named);
        }
        Ok(epoch)
    }

    /// Answers what issuers may come for now.
    async fn challenges_refresh(&self) -> Result<(), ControlError> {
        // Before the rows, so that they are at least of this epoch.
        let epoch = self.store.certificate_epoch().await?;
        let rows = self.store.acme_challenge_list().await?;
        self.tls.challenges.replace(epoch, rows.into_iter().filter_map(outstanding).collect());
        Ok(())
    }

    fn serve(&self, row: CertificateRow) {
        let table = &self.tls.table;
        let (Some(chain), Some(sealed)) = (&row.chain, &row.key_sealed) else {
            self.tls.unreadable.pin().remove(&*row.hostname);
            return table.remove_issued(&row.hostname);
        };
        match opened(&self.sealer, &row.hostname, chain, sealed) {
            Ok(certificate) => {
                self.tls.unreadable.pin().remove(&*row.hostname);
                table.put_issued(&row.hostname, certificate);
            }
            Err(problem) => {
                tracing::error!(domain = %row.hostname, problem = %problem, "a stored certificate can't be used; has security.secret_key changed?");
                self.tls.unreadable.pin().insert(row.hostname.into());
            }
        }
    }

    /// The organization's own domains and how their certificates stand, in order of host name.
    ///
    /// # Errors
    /// If the record can't be read.
    pub async fn certificate_list(
        &self,
        scope: &OrgScope,
        hostname: Option<&str>,
        after: Option<&str>,
        limit: u64,
    ) -> Result<Vec<CertificateView>, ControlError> {
        let rows = self.store.certificate_list(scope, hostname, after, limit).await?;
        Ok(rows.into_iter().map(|row| self.view(row)).collect())
    }

    fn view(&self, domain: DomainCertificate) -> CertificateView {
        let DomainCertificate { hostname, project_id, certificate: row } = domain;
        if let Some(own) = self.tls.table.operators(&hostname) {
            return CertificateView {
                hostname,
                project_id,
                state: CertificateState::Valid,
                operators: true,
                issuer: None,
                challenge: None,
                not_before: Some(own.not_before),
                not_after: Some(own.not_after),
                last_words: None,
                next_try_at: None,
            };
        }
        let asked = !self.issuers.is_empty();
        let row = row.as_ref();
        let stored = row.and_then(|r| CertificateState::parse(&r.state));
        let untouched = if asked { CertificateState::Queued } else { CertificateState::None };
        CertificateView {
            hostname,
            project_id,
            state: stored.filter(|s| *s != CertificateState::None).unwrap_or(untouched),
            operators: false,
            issuer: row.and_then(|r| r.issuer.clone()).filter(|name| !name.is_empty()),
            challenge: row.and_then(|r| ChallengeKind::parse(r.challenge.as_deref()?)),
            not_before: row.and_then(|r| r.not_before),
            not_after: row.and_then(|r| r.not_after),
            last_words: row.and_then(|r| r.last_words.clone()),
            next_try_at: row.filter(|_| asked).map(|r| r.next_try_at),
        }
    }

    #[must_use]
    pub fn tls_report(&self) -> TlsReport {
        let served = self.tls.table.served();
        TlsReport {
            names: served.from_files + served.issued,
            issued: served.issued,
            soonest_end: served.soonest_end,
            files: self.tls.files.count(),
            failed_files: self.tls.files.failed(),
            unreadable: self.tls.unreadable.pin().len(),
        }
    }
}

/// A certificate as it is stored: its key opens with this installation's secret alone.
///
/// # Errors
/// Why it can't be used, fit for the log.
pub fn opened(sealer: &Sealer, hostname: &str, chain: &str, key_sealed: &str) -> Result<Certificate, String> {
    let key = sealer.open(&key_owner(hostname), key_sealed).map(SecretSlice::from);
    let key = key.map_err(|e| e.to_string())?;
    Certificate::from_pem(chain.as_bytes(), key.expose_secret()).map_err(|e| e.to_string())
}

fn outstanding(row: ChallengeRow) -> Option<Outstanding> {
    Some(Outstanding {
        kind: ChallengeKind::parse(&row.kind)?,
        hostname: row.hostname,
        token: row.token,
        key_authorization: row.key_authorization,
    })
}

/// What a certificate's key is sealed for.
fn key_owner(hostname: &str) -> String {
    format!("certificate/{hostname}")
}

/// What an account's credentials are sealed for.
fn account_owner(directory: &str) -> String {
    format!("acme-account/{directory}")
}
