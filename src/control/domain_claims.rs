//! Custom domains: claiming one, proving it, looking after it, giving it up.

use futures_util::StreamExt;

use super::{Control, ControlError};
use crate::control::error::FieldProblem;
use crate::dns::Txt;
use crate::domain::hostname::Hostname;
use crate::domain::proof::{self, Seen, Standing};
use crate::domain::{DomainId, DomainStatus, OrgScope, Principal, ProjectId};
use crate::store::domain_checks::{Asked, Look, Written};
use crate::store::domains::{Claimed, DomainRow, NewClaim};

/// What a claim is told whose proof is there while another project's is, too.
const TAKEN: &str = "The TXT record was found, but another project serves this domain: remove it there.";

/// A record for the owner of a domain to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    pub kind: &'static str,
    pub name: String,
    pub value: String,
}

/// What is to be set at a domain: the proof, and the way here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    pub records: Vec<DnsRecord>,
    pub hint: Option<String>,
}

impl Control {
    /// A claim as it is recorded; the token is bound to organization and name.
    #[must_use]
    pub fn domain_new_claim(&self, org: &str, hostname: &Hostname) -> NewClaim {
        let claims = &self.settings.domains.claims;
        NewClaim {
            hostname: hostname.as_str().to_owned(),
            // Ids have no NUL and a fixed length, so no two pairs are the same bytes.
            token: self.sealer.mark("domain-proof", format!("{org}\0{hostname}").as_bytes()),
            lifetime_ms: claims.pending_ms(),
            per_project: claims.per_project,
            per_organization: claims.per_organization,
        }
    }

    /// Claims `hostname`, which is [`claimable`](super::domains::claimable), for a project, and says where
    /// it redirects to. The second part of the answer: whether the claim is new.
    ///
    /// # Errors
    /// If the project is not the caller's, the name is proved elsewhere, a limit is reached or the
    /// redirect can't be.
    pub async fn domain_add(
        &self,
        who: &Principal,
        project: &ProjectId,
        hostname: &Hostname,
        redirect_to: Option<&Hostname>,
    ) -> Result<(DomainRow, bool), ControlError> {
        let new = self.domain_new_claim(who.org_id.as_str(), hostname);
        let to = redirect_to.map(Hostname::as_str);
        match self.store.domain_claim(&who.scope(), project, &new, to).await? {
            Claimed::New(row) => {
                tracing::info!(domain.id = %row.id, domain.host = %row.hostname, project.id = %project, "domain claimed");
                Ok((*row, true))
            }
            Claimed::Known(row) => {
                self.hosts_changed.notify_one();
                Ok((*row, false))
            }
            Claimed::ProjectMissing => Err(ControlError::ProjectNotFound),
            Claimed::Taken => Err(ControlError::Conflict(
                "Another project has proved this domain; remove it there or choose another one.",
            )),
            Claimed::TooMany { limit, of } => Err(ControlError::TooManyDomains { limit, of }),
            Claimed::Redirect(why) => Err(ControlError::Invalid(vec![FieldProblem::new("redirectTo", why)])),
        }
    }

    /// # Errors
    /// [`ControlError::DomainNotFound`] also for another organization's domain.
    pub async fn domain_get(&self, scope: &OrgScope, id: &DomainId) -> Result<DomainRow, ControlError> {
        self.store.domain_get(scope, id).await?.ok_or(ControlError::DomainNotFound)
    }

    /// Looks for the proof now; the row's `message` says what was seen.
    ///
    /// # Errors
    /// As [`Control::domain_get`], or if it was asked too early, or another project has the domain.
    pub async fn domain_verify(&self, scope: &OrgScope, id: &DomainId) -> Result<DomainRow, ControlError> {
        let checks = &self.settings.domains.checks;
        let (pause_ms, hold_ms) = (checks.asked_seconds * 1_000, checks.hold_seconds * 1_000);
        match self.store.domain_take_asked(scope, id, pause_ms, hold_ms).await? {
            Asked::Unknown => Err(ControlError::DomainNotFound),
            Asked::TooSoon { wait_ms } => {
                Err(ControlError::TooSoon { seconds: u64::try_from(wait_ms / 1_000 + 1).unwrap_or(1) })
            }
            Asked::Look(look) => match self.domain_look(&look).await? {
                Written::Done(row) => Ok(*row),
                Written::Taken(_) => Err(ControlError::Conflict(TAKEN)),
                Written::Outdated => self.domain_get(scope, id).await,
            },
        }
    }

    /// Gives a domain up; at once it is anybody's.
    ///
    /// # Errors
    /// As [`Control::domain_get`].
    pub async fn domain_remove(&self, scope: &OrgScope, id: &DomainId) -> Result<(), ControlError> {
        let row = self.store.domain_remove(scope, id).await?.ok_or(ControlError::DomainNotFound)?;
        self.hosts_changed.notify_one();
        tracing::info!(domain.id = %row.id, domain.host = %row.hostname, "domain removed");
        Ok(())
    }

    /// One round of looking after all claims: looks at those that are due, ends what is overdue.
    /// Answers how many were looked at; as many as one round takes means that more are waiting.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn domains_look_after(&self) -> Result<usize, ControlError> {
        let checks = &self.settings.domains.checks;
        let at_once = checks.concurrency;
        let batch = at_once as u64;
        for hostname in self.store.domain_end_overdue(batch).await? {
            tracing::info!(domain.host = %hostname, "a claim has ended");
        }
        self.store.domain_activate(batch).await?;
        let due = self.store.domain_take_due(batch, checks.hold_seconds * 1_000).await?;
        let looked = due.len();
        let looks = due.into_iter().map(|look| async move {
            if let Err(e) = self.domain_look(&look).await {
                // It is due again when its hold ends.
                tracing::warn!(domain.id = %look.row.id, error = %e, "a look at a domain was not written");
            }
        });
        futures_util::stream::iter(looks).buffer_unordered(at_once).collect::<()>().await;
        Ok(looked)
    }

    async fn domain_look(&self, look: &Look) -> Result<Written, ControlError> {
        let row = &look.row;
        let seen = self.domain_seen(row).await;
        tracing::debug!(domain.id = %row.id, seen = ?seen, "looked at a domain");
        let before = DomainStatus::parse(&row.status).unwrap_or(DomainStatus::Failed);
        let standing = Standing {
            status: before,
            created_at: row.created_at,
            lost_since: row.lost_since,
            lost_checks: row.lost_checks,
            unanswered: row.unanswered,
        };
        let mut judgement = proof::judge(standing, &seen, look.at, &self.settings.domains.rules());
        judgement.pause += spread(&row.id, judgement.pause);
        let written = self.store.domain_write(look, &judgement, TAKEN).await?;
        if let Written::Done(now) = &written
            && now.status != row.status
        {
            self.hosts_changed.notify_one();
            tracing::info!(domain.id = %row.id, domain.host = %row.hostname, from = %row.status, to = %now.status, "domain changed");
        }
        Ok(written)
    }

    async fn domain_seen(&self, row: &DomainRow) -> Seen {
        let name = proof::record_name(&row.hostname);
        let wanted = proof::record_value(&row.token);
        let records = match self.dns.txt(&name).await {
            Txt::NoAnswer(why) => return Seen::NoAnswer(why.to_owned()),
            Txt::Nothing => return Seen::Gone(format!("There is no TXT record at {name}.")),
            Txt::Records(records) => records,
        };
        let mut values = records.iter().flat_map(|record| proof::values_of(record));
        // Each is looked at, found or not.
        let found = values.by_ref().filter(|v| self.sealer.is_same(v, wanted.as_bytes())).count();
        if found > 0 {
            return Seen::Proof;
        }
        let ours = records.iter().flat_map(|record| proof::values_of(record)).any(|v| proof::is_ours(&v));
        // What stands there is a stranger's text, so it is not repeated.
        Seen::Gone(if ours {
            format!("The TXT record at {name} holds another token than this claim's.")
        } else {
            format!("There are {} TXT record(s) at {name}, and none is this claim's.", records.len())
        })
    }

    /// The records that the owner of a domain sets, exactly.
    #[must_use]
    pub fn domain_instructions(&self, row: &DomainRow, worker_name: &str) -> Instructions {
        let mut records = vec![DnsRecord {
            kind: "TXT",
            name: proof::record_name(&row.hostname),
            value: proof::record_value(&row.token),
        }];
        let target = self.addresses.host(worker_name);
        let is_bare = psl::domain_str(&row.hostname) == Some(row.hostname.as_str());
        let addresses = &self.settings.domains.addresses;
        if !is_bare {
            records.push(DnsRecord { kind: "CNAME", name: row.hostname.clone(), value: target });
            return Instructions { records, hint: None };
        }
        // A bare domain has other records beside it, so it can't be an alias by CNAME (RFC 1034, 3.6.2).
        records.extend(addresses.iter().map(|address| DnsRecord {
            kind: if address.contains(':') { "AAAA" } else { "A" },
            name: row.hostname.clone(),
            value: address.clone(),
        }));
        let hint = addresses.is_empty().then(|| {
            format!(
                "{} can't have a CNAME record. If its DNS provider offers ALIAS or ANAME records, set one to {target}; \
                 else ask the operator for this platform's addresses (domains.addresses).",
                row.hostname
            )
        });
        Instructions { records, hint }
    }
}

/// Up to a tenth more, the same for the same domain: what came at once is not looked at at once for ever.
fn spread(id: &str, pause: i64) -> i64 {
    let byte = id.get(..2).and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    pause * byte / 2_550
}
