//! Whether a name leads here, asked before an order is spent on it, and what its owner is told if it does not.
//! Connects to judged addresses only; never decides for whom a certificate is got.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::{Control, ControlError};
use crate::config::Environment;
use crate::dns::Addresses;
use crate::domain::address::is_public;
use crate::domain::{ChallengeKind, time};
use crate::store::certificates::Due;
use crate::tls::acme::{self, Looks, Seen};

/// Addresses of one name that are asked; whoever has more has at least these.
const ADDRESSES: usize = 8;
/// A certificate that ends so soon is ordered whatever we see: our own way there may be what is broken.
const LAST_DAYS_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// What a look came to.
pub(super) enum Way {
    /// These ways of proving may work.
    Open(Vec<ChallengeKind>),
    /// None can work; why, in words for the owner.
    Shut(String),
}

impl Control {
    /// Looks where the name leads, unless the settings say not to.
    pub(super) async fn way_to(&self, due: &Due) -> Result<Way, ControlError> {
        let acme = &self.settings.tls.acme;
        let kinds = acme.challenge_kinds();
        let ends_soon = due.not_after.is_some_and(|end| end - time::now_ms() < LAST_DAYS_MS);
        if !acme.look_first || ends_soon {
            return Ok(Way::Open(kinds));
        }
        let hostname = due.hostname.as_str();
        let seen = match self.dns.addresses(hostname).await {
            Addresses::NoAnswer(why) => {
                return Ok(Way::Shut(format!("The name servers of {hostname} gave no answer: {why}.")));
            }
            Addresses::Nothing => format!("{hostname} has no address."),
            Addresses::Found(found) => match self.reached(hostname, &found, kinds).await {
                Ok(open) => return Ok(Way::Open(open)),
                Err(seen) => seen,
            },
        };
        Ok(Way::Shut(format!("{seen} {}", self.what_to_set(due).await?)))
    }

    /// The ways of proving that may work by these addresses, or what was seen there.
    async fn reached(
        &self,
        hostname: &str,
        found: &[IpAddr],
        kinds: Vec<ChallengeKind>,
    ) -> Result<Vec<ChallengeKind>, String> {
        let acme = &self.settings.tls.acme;
        let patience = Duration::from_millis(acme.look_timeout_ms);
        let ours: Vec<IpAddr> =
            self.settings.domains.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        let is_one_of_ours = |address: &IpAddr| ours.contains(&address.to_canonical());
        let may_ask = |address: &IpAddr| is_one_of_ours(address) || self.may_ask(*address);
        let judged: Vec<IpAddr> = found.iter().copied().filter(may_ask).take(ADDRESSES).collect();
        if judged.is_empty() {
            return Err(format!("{hostname} leads to {}, which is not public.", listed(found)));
        }
        let is_ours = judged.iter().any(is_one_of_ours);
        let mut silent = None;
        let mut open = Vec::new();
        for kind in kinds {
            let port = match kind {
                ChallengeKind::Http01 => acme.http_port,
                ChallengeKind::TlsAlpn01 => acme.tls_port,
            };
            let works = match kind {
                ChallengeKind::Http01 => self.answers(hostname, &judged, patience).await?,
                ChallengeKind::TlsAlpn01 => {
                    let each = judged.iter().map(|a| acme::listens(SocketAddr::new(*a, port), patience));
                    futures_util::future::join_all(each).await.contains(&true)
                }
            };
            if works || is_ours {
                open.push(kind);
            } else {
                silent = silent.or(Some(port));
            }
        }
        match silent {
            Some(port) if open.is_empty() => {
                Err(format!("{hostname} leads to {}, where nobody answers at port {port}.", listed(&judged)))
            }
            _ => Ok(open),
        }
    }

    /// Names are tenants', so what operators may register as origins is not asked: they could tell from our words
    /// what listens in the operator's networks.
    fn may_ask(&self, address: IpAddr) -> bool {
        let is_this_machine = address.to_canonical().is_loopback();
        is_public(address.to_canonical())
            || (is_this_machine && self.settings.environment == Environment::Development)
    }

    /// Whether this installation answers at these addresses; false: nobody does. Somebody else is an error, also at
    /// one of them: an issuer may ask just that one.
    async fn answers(&self, hostname: &str, judged: &[IpAddr], patience: Duration) -> Result<bool, String> {
        let acme = &self.settings.tls.acme;
        let ports = [acme.http_port, acme.tls_port];
        let made =
            Looks::token().and_then(|token| Some((self.tls.challenges.http01(hostname, &token)?, token)));
        // Without randomness nothing else works either; the order will say so.
        let Some((answer, token)) = made else { return Ok(true) };
        let each = judged.iter().map(|a| acme::ask(hostname, *a, ports, (&token, &answer), patience));
        let seen = futures_util::future::join_all(each).await;
        tracing::debug!(domain = %hostname, addresses = %listed(judged), seen = ?seen, "looked where a name leads");
        if let Some(at) = seen.iter().position(|seen| *seen == Seen::SomebodyElse) {
            return Err(format!("{hostname} leads to {}, where something else answers.", judged[at]));
        }
        Ok(seen.contains(&Seen::Ours))
    }

    /// The records that lead a name here, as its owner was told when it was added.
    async fn what_to_set(&self, due: &Due) -> Result<String, ControlError> {
        let told = self.store.domain_owned(&due.hostname).await?.map(|(row, worker)| {
            let told = self.domain_instructions(&row, &worker);
            let lead = told.records.into_iter().filter(|record| record.kind != "TXT");
            let records: Vec<String> = lead.map(|r| format!("{} {} {}", r.kind, r.name, r.value)).collect();
            match (records.is_empty(), told.hint) {
                (false, _) => format!("Set {}.", records.join(", ")),
                (true, hint) => hint.unwrap_or_default(),
            }
        });
        Ok(told.unwrap_or_default())
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    let shown: Vec<String> = addresses.iter().take(ADDRESSES).map(ToString::to_string).collect();
    shown.join(", ")
}
