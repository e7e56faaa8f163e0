//! What issuers may come for: HTTP-01 answers and TLS-ALPN-01 certificates, the same on every server.
//! Read by requests and handshakes without a lock. Never answers an issuer for a name that no order asked about;
//! our own look before an order is answered by whoever has this installation's secret, on any name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;

use super::acme::{Looks, alpn_certificate};
use crate::domain::ChallengeKind;

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outstanding {
    pub hostname: String,
    pub kind: ChallengeKind,
    pub token: String,
    pub key_authorization: String,
}

#[derive(Debug, Clone)]
struct Held {
    asked: Outstanding,
    /// Of TLS-ALPN-01.
    certificate: Option<Arc<CertifiedKey>>,
}

#[derive(Debug, Default)]
struct Book {
    /// The change of the record that it is of.
    epoch: i64,
    by_token: HashMap<String, Held>,
    /// TLS-ALPN-01: the issuer says the name only.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

/// All that is outstanding.
#[derive(Debug, Default)]
pub struct Challenges {
    book: ArcSwap<Book>,
    looks: OnceLock<Looks>,
}

impl Challenges {
    /// The body of `http://<host>/.well-known/acme-challenge/<token>`; `host` in its stored form.
    #[must_use]
    pub fn http01(&self, host: &str, token: &str) -> Option<String> {
        if token.starts_with(Looks::PREFIX) {
            return self.looks.get()?.answer(host, token);
        }
        let book = self.book.load();
        if book.by_token.is_empty() {
            return None;
        }
        let held = book.by_token.get(token)?;
        let asked = &held.asked;
        (asked.kind == ChallengeKind::Http01 && asked.hostname == host)
            .then(|| asked.key_authorization.clone())
    }

    /// Answers our own looks from now on; said once.
    pub fn answer_looks(&self, looks: Looks) {
        drop(self.looks.set(looks));
    }

    /// The certificate that answers an `acme-tls/1` handshake.
    #[must_use]
    pub fn tls_alpn01(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.book.load().by_name.get(host).map(Arc::clone)
    }

    /// Answers exactly these from now on, unless what is answered is of a later `epoch`: two readings
    /// may end in the other order. Certificates that were made are kept.
    pub fn replace(&self, epoch: i64, all: Vec<Outstanding>) {
        let old = self.book.load_full();
        let book = Arc::new(Self::book(&old, epoch, all));
        self.book.rcu(|now| if now.epoch > epoch { Arc::clone(now) } else { Arc::clone(&book) });
    }

    fn book(old: &Book, epoch: i64, all: Vec<Outstanding>) -> Book {
        let mut book = Book { epoch, ..Book::default() };
        for asked in all {
            let known = old.by_token.get(&asked.token).filter(|held| held.asked == asked);
            let certificate = match (known, asked.kind) {
                (_, ChallengeKind::Http01) => None,
                (Some(held), ChallengeKind::TlsAlpn01) => held.certificate.clone(),
                (None, ChallengeKind::TlsAlpn01) => {
                    alpn_certificate(&asked.hostname, &asked.key_authorization)
                        .inspect_err(|e| tracing::error!(error = %e, domain = %asked.hostname, "a challenge can't be answered"))
                        .ok()
                }
            };
            if let Some(certificate) = &certificate {
                book.by_name.insert(asked.hostname.clone(), Arc::clone(certificate));
            }
            book.by_token.insert(asked.token.clone(), Held { asked, certificate });
        }
        book
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.book.load().by_token.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: ChallengeKind, hostname: &str, token: &str) -> Outstanding {
        Outstanding {
            hostname: hostname.into(),
            kind,
            token: token.into(),
            key_authorization: format!("{token}.thumb"),
        }
    }

    #[test]
    fn a_token_is_answered_on_its_own_host_only_and_only_while_it_is_asked_for() {
        let challenges = Challenges::default();
        challenges.replace(1, vec![asked(ChallengeKind::Http01, "a.example", "t1")]);
        assert_eq!(challenges.http01("a.example", "t1").as_deref(), Some("t1.thumb"));
        assert_eq!(challenges.http01("b.example", "t1"), None);
        assert_eq!(challenges.http01("a.example", "t2"), None);
        assert!(challenges.tls_alpn01("a.example").is_none());
        challenges.replace(2, Vec::new());
        assert_eq!((challenges.http01("a.example", "t1"), challenges.count()), (None, 0));
        // A reading that was overtaken.
        challenges.replace(1, vec![asked(ChallengeKind::Http01, "a.example", "t1")]);
        assert_eq!((challenges.http01("a.example", "t1"), challenges.count()), (None, 0));
    }

    #[test]
    fn a_challenge_certificate_is_made_once_and_its_token_is_no_page() {
        let challenges = Challenges::default();
        challenges.replace(1, vec![asked(ChallengeKind::TlsAlpn01, "a.example", "t1")]);
        let first = challenges.tls_alpn01("a.example").unwrap();
        assert_eq!(challenges.http01("a.example", "t1"), None);
        challenges.replace(
            1,
            vec![
                asked(ChallengeKind::TlsAlpn01, "a.example", "t1"),
                asked(ChallengeKind::Http01, "b.example", "t2"),
            ],
        );
        assert!(Arc::ptr_eq(&first, &challenges.tls_alpn01("a.example").unwrap()));
        assert_eq!(challenges.count(), 2);
    }
}
