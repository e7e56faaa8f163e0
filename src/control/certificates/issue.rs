//! Getting one certificate: which issuer, within which budgets, how proved, and what is written down.

use std::cell::Cell;
use std::time::Duration;

use super::super::{Control, ControlError};
use super::preflight::Way;
use super::{account_owner, key_owner};
use crate::domain::certificate::{Waits, issuer_of, renew_at};
use crate::domain::{ChallengeKind, time};
use crate::store::StoreError;
use crate::store::certificates::{Due, NewCertificate, Setback};
use crate::store::issuing::{Budgets, IssuerHold, NewAttempt, Outcome, Reserved, UsedUp};
use crate::tls::acme::{
    self, Account, Failure, FailureKind, Issuer, Obtained, OrderError, Question, Stage, Wanted,
};

/// An issuer that says "too many" is left alone for at least this.
const LIMITED_MS: i64 = 3_600_000;

/// Why an order ended without a certificate.
pub(super) enum Stop {
    Wait { until: i64, words: String },
    Failed(Failure),
    Record(ControlError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ControlError> for Stop {
    fn from(error: ControlError) -> Self {
        Self::Record(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Record(error.into())
    }
}

impl Control {
    /// Gets or renews one certificate, and writes down what came of it.
    pub(super) async fn certificate_get(&self, hold: &IssuerHold, due: &Due) -> Result<(), ControlError> {
        let acme = &self.settings.tls.acme;
        let hostname = &due.hostname;
        if self.tls.table.operators(hostname).is_some() {
            return self.leave_to_operator(hold, due).await;
        }
        let at = issuer_of(due.failures, acme.issuer_tries, self.issuers.len());
        let Some(issuer) = self.issuers.get(at) else { return Ok(()) };
        let pause = acme.backoff().after(due.failures + 1);
        if !self.store.certificate_begin(hold, hostname, pause).await? {
            return Ok(());
        }
        let kinds = match self.way_to(due).await? {
            Way::Open(kinds) => kinds,
            Way::Shut(words) => return self.leads_elsewhere(hold, due, words).await,
        };
        tracing::info!(domain = %hostname, issuer = %issuer.name, renewal = due.not_after.is_some(), "a certificate is ordered");
        let setback = match self.order(hold, due, issuer, kinds).await {
            Ok((challenge, got)) => return self.keep_issued(hold, hostname, issuer, challenge, got).await,
            Err(Stop::Record(error)) => return Err(error),
            Err(Stop::Wait { until, words }) => Setback {
                issuer: issuer.name.clone(),
                words,
                waits: Waits::ForBudget,
                failures: due.failures,
                next_try_at: until,
            },
            Err(Stop::Failed(failure)) => self.failed(hold, due, issuer, failure, pause).await?,
        };
        tracing::warn!(domain = %hostname, issuer = %setback.issuer, words = %setback.words,
            next_try = %time::rfc3339(setback.next_try_at), "there is no new certificate");
        Ok(self.store.certificate_set_back(hold, hostname, &setback).await?)
    }

    async fn leave_to_operator(&self, hold: &IssuerHold, due: &Due) -> Result<(), ControlError> {
        let pause = self.settings.tls.acme.backoff().longest_ms;
        let setback = Setback {
            issuer: String::new(),
            words: "The operator's own certificate serves this name.".to_owned(),
            waits: Waits::ForBudget,
            failures: 0,
            next_try_at: self.store.now().await?.saturating_add(pause),
        };
        Ok(self.store.certificate_set_back(hold, &due.hostname, &setback).await?)
    }

    /// Nobody was asked and nothing counted; what was seen is told.
    async fn leads_elsewhere(&self, hold: &IssuerHold, due: &Due, words: String) -> Result<(), ControlError> {
        let words = Failure::new(FailureKind::Validation, words).words;
        tracing::info!(domain = %due.hostname, words = %words, "a name does not lead here; no certificate is ordered");
        let setback = Setback {
            issuer: String::new(),
            words,
            waits: Waits::AfterFailure,
            failures: due.failures,
            next_try_at: self.store.now().await?.saturating_add(self.settings.tls.acme.look_again_ms()),
        };
        Ok(self.store.certificate_set_back(hold, &due.hostname, &setback).await?)
    }

    async fn failed(
        &self,
        hold: &IssuerHold,
        due: &Due,
        issuer: &Issuer,
        failure: Failure,
        pause: i64,
    ) -> Result<Setback, ControlError> {
        let pause = match failure.kind {
            FailureKind::Limited => pause.max(LIMITED_MS),
            FailureKind::AccountUnknown => {
                self.store.acme_account_forget(hold, &issuer.directory).await?;
                pause
            }
            FailureKind::Unreachable | FailureKind::Validation | FailureKind::Refused | FailureKind::Ours => {
                pause
            }
        };
        Ok(Setback {
            issuer: issuer.name.clone(),
            words: failure.words,
            waits: Waits::AfterFailure,
            failures: due.failures + 1,
            next_try_at: self.store.now().await?.saturating_add(pause),
        })
    }

    async fn keep_issued(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        issuer: &Issuer,
        challenge: ChallengeKind,
        got: Obtained,
    ) -> Result<(), ControlError> {
        let (not_before, not_after) = (got.certificate.not_before, got.certificate.not_after);
        let percent = self.settings.tls.acme.renew_percent;
        let new = NewCertificate {
            issuer: issuer.name.clone(),
            challenge,
            key_sealed: self.sealer.seal(&key_owner(hostname), got.key_pem.as_bytes())?,
            chain: got.chain_pem,
            not_before,
            not_after,
            renew_at: renew_at(hostname, not_before, not_after, percent),
        };
        self.store.certificate_issued(hold, hostname, &new).await?;
        tracing::info!(domain = %hostname, issuer = %issuer.name, challenge = %challenge,
            until = %time::rfc3339(not_after), "a certificate was issued");
        Ok(())
    }

    /// Each way of proving once, until one succeeds.
    async fn order(
        &self,
        hold: &IssuerHold,
        due: &Due,
        issuer: &Issuer,
        kinds: Vec<ChallengeKind>,
    ) -> Result<(ChallengeKind, Obtained), Stop> {
        let account = self.account(hold, issuer).await?;
        let mut failed: Option<Failure> = None;
        for kind in kinds {
            match self.order_by(hold, due, issuer, &account, kind).await {
                Ok(got) => return Ok((kind, got)),
                // What the issuer found wrong says more than that we wait now.
                Err(Stop::Wait { until, words }) => {
                    return Err(failed.map_or(Stop::Wait { until, words }, Stop::Failed));
                }
                Err(Stop::Failed(failure)) if failure.kind == FailureKind::Validation => {
                    let words = match failed.take() {
                        Some(before) => format!("{} | {kind}: {}", before.words, failure.words),
                        None => format!("{kind}: {}", failure.words),
                    };
                    failed = Some(Failure::new(failure.kind, words));
                }
                Err(stop) => return Err(stop),
            }
        }
        let none = || Failure::new(FailureKind::Ours, "No way of proving is set.");
        Err(Stop::Failed(failed.unwrap_or_else(none)))
    }

    async fn order_by(
        &self,
        hold: &IssuerHold,
        due: &Due,
        issuer: &Issuer,
        account: &Account,
        kind: ChallengeKind,
    ) -> Result<Obtained, Stop> {
        let acme = &self.settings.tls.acme;
        let hostname = due.hostname.as_str();
        let attempt = self.reserve(hold, due, issuer).await?;
        let stage = Cell::new(Stage::Begun);
        let wanted =
            Wanted { issuer: &issuer.name, hostname, kind, patience: acme.order_timeout(), stage: &stage };
        let order = acme::obtain(account, &wanted, async |question| {
            self.present(hold, hostname, kind, question).await
        });
        let ended = tokio::time::timeout(acme.order_timeout(), order).await;
        let got = match ended {
            Ok(Ok(got)) => Ok(got),
            Ok(Err(OrderError::Failed(failure))) => Err(Stop::Failed(failure)),
            Ok(Err(OrderError::Present(error))) => Err(Stop::Record(error)),
            Err(_) => Err(Stop::Failed(Failure::new(
                FailureKind::Unreachable,
                "The order did not come to an end in time.",
            ))),
        };
        // Nobody knows whether the issuer looked in vain, unless it said so or went on.
        let may_have_failed = match &got {
            Ok(_) => false,
            Err(_) => stage.get() == Stage::Asked,
        };
        let may_have_certificate = stage.get() == Stage::Finalizing;
        self.store.acme_settle(&attempt, Outcome { may_have_certificate, may_have_failed }).await?;
        self.store.acme_challenge_remove(hostname).await?;
        got
    }

    async fn reserve(&self, hold: &IssuerHold, due: &Due, issuer: &Issuer) -> Result<String, Stop> {
        let acme = &self.settings.tls.acme;
        let wanted = NewAttempt {
            directory: issuer.directory.clone(),
            org_id: due.org_id.clone(),
            hostname: due.hostname.clone(),
            registrable: psl::domain_str(&due.hostname).unwrap_or(&due.hostname).to_owned(),
        };
        // New names leave room for those whose certificate would end.
        let kept = if due.not_after.is_some() { 0 } else { acme.orders_for_renewals };
        let budgets = Budgets {
            orders: acme.orders().without(kept),
            orders_of_org: acme.orders_of_one_organization(),
            certificates_of_domain: acme.certificates_of_one_domain(),
            certificates_of_host: acme.certificates_of_one_host(),
            failures_of_host: acme.failures_of_one_host(),
        };
        match self.store.acme_reserve(hold, &wanted, &budgets).await? {
            Reserved::Granted(attempt) => Ok(attempt),
            Reserved::Wait { until, budget } => Err(Stop::Wait { until, words: waiting(budget).to_owned() }),
        }
    }

    /// Answers when every server that serves could have seen the challenge.
    async fn present(
        &self,
        hold: &IssuerHold,
        hostname: &str,
        kind: ChallengeKind,
        question: Question,
    ) -> Result<(), ControlError> {
        let acme = &self.settings.tls.acme;
        let lifetime_ms = i64::try_from(acme.order_timeout().as_millis()).unwrap_or(i64::MAX / 2);
        let answer = (question.token.as_str(), question.key_authorization.as_str());
        self.store.acme_challenge_put(hold, hostname, kind, answer, lifetime_ms).await?;
        // This server answers from here on.
        self.challenges_refresh().await?;
        let live = self.store.edge_live().await?;
        if live.iter().any(|edge| edge.id != hold.owner) {
            tokio::time::sleep(Duration::from_millis(acme.challenge_wait_ms)).await;
        }
        Ok(())
    }

    /// Our account with the issuer, made at the first need.
    pub(super) async fn account(&self, hold: &IssuerHold, issuer: &Issuer) -> Result<Account, Stop> {
        let owner = account_owner(&issuer.directory);
        let sealed = self.store.acme_account_get(&issuer.directory).await?;
        let opened = sealed.and_then(|sealed| {
            let opened = self.sealer.open(&owner, &sealed);
            opened
                .inspect_err(|_| tracing::warn!(issuer = %issuer.name, "the account's key can't be opened; another account is made"))
                .ok()
        });
        if let Some(credentials) = opened {
            return Ok(issuer.account_restore(&credentials).await?);
        }
        let (account, credentials) = issuer.account_create().await?;
        let sealed = self.sealer.seal(&owner, &credentials)?;
        self.store.acme_account_set(hold, &issuer.directory, &sealed).await?;
        tracing::info!(issuer = %issuer.name, "an account was made");
        Ok(account)
    }
}

fn waiting(budget: UsedUp) -> &'static str {
    match budget {
        UsedUp::Orders => "Waits: this installation's orders are used up for now.",
        UsedUp::OrdersOfOrganization => "Waits: your organization's orders are used up for now.",
        UsedUp::CertificatesOfDomain => {
            "Waits: this registered domain's certificates of the week are used up."
        }
        UsedUp::CertificatesOfHost => "Waits: this name's certificates of the week are used up.",
        UsedUp::FailuresOfHost => "Waits: the issuer looked in vain too often within the hour.",
    }
}
