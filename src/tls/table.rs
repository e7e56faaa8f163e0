//! Certificates by host name: read by every handshake without a lock, changed while serving.
//!
//! The operator's exact names come first, then what issuers gave, then the operator's wildcards, which
//! stand for one label. Never waits, never fetches.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;

use super::{Certificate, Challenges};

/// What is served, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Names of the operator's files.
    pub from_files: usize,
    /// Names that issuers gave certificates for.
    pub issued: usize,
    /// When the first of them ends, in milliseconds since 1970.
    pub soonest_end: Option<i64>,
}

pub struct CertificateTable {
    files: ArcSwap<HashMap<Box<str>, Arc<Certificate>>>,
    issued: papaya::HashMap<Box<str>, Arc<Certificate>>,
    default_name: Option<Box<str>>,
    pub(super) challenges: Arc<Challenges>,
}

impl std::fmt::Debug for CertificateTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateTable").field("served", &self.served()).finish_non_exhaustive()
    }
}

impl CertificateTable {
    /// `default_name`: whose certificate answers unknown names; empty: nobody's, the handshake fails.
    #[must_use]
    pub fn new(default_name: &str, challenges: Arc<Challenges>) -> Self {
        Self {
            files: ArcSwap::default(),
            issued: papaya::HashMap::new(),
            default_name: (!default_name.is_empty()).then(|| default_name.into()),
            challenges,
        }
    }

    /// The certificate for a host name in its stored form.
    #[must_use]
    pub fn find(&self, hostname: &str) -> Option<Arc<Certificate>> {
        let files = self.files.load();
        if let Some(found) = files.get(hostname) {
            return Some(Arc::clone(found));
        }
        if let Some(found) = self.issued.pin().get(hostname) {
            return Some(Arc::clone(found));
        }
        if files.is_empty() {
            return None;
        }
        files.get(&*wildcard_of(hostname)?).map(Arc::clone)
    }

    /// Whether the handshake for this host name would succeed: then it may be redirected to HTTPS.
    #[must_use]
    pub fn has(&self, hostname: &str) -> bool {
        self.find(hostname).is_some()
    }

    /// The operator's own certificate for a name, for which no issuer need be asked.
    #[must_use]
    pub fn operators(&self, hostname: &str) -> Option<Arc<Certificate>> {
        let files = self.files.load();
        let exact = files.get(hostname);
        exact.or_else(|| files.get(&*wildcard_of(hostname)?)).map(Arc::clone)
    }

    pub(super) fn default(&self) -> Option<Arc<CertifiedKey>> {
        self.find(self.default_name.as_deref()?).map(|c| Arc::clone(&c.key))
    }

    /// Replaces the operator's certificates; where two name one host, the one that lasts longer serves.
    pub fn replace_files(&self, certificates: impl IntoIterator<Item = Arc<Certificate>>) {
        let mut files: HashMap<Box<str>, Arc<Certificate>> = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                let better = files.get(name).is_none_or(|other| other.not_after < certificate.not_after);
                if better {
                    files.insert(name.clone(), Arc::clone(&certificate));
                }
            }
        }
        self.files.store(Arc::new(files));
    }

    /// Serves what an issuer gave for exactly this name.
    pub fn put_issued(&self, hostname: &str, certificate: Certificate) {
        self.issued.pin().insert(hostname.into(), Arc::new(certificate));
    }

    /// Serves of what issuers gave only what is for these names.
    pub fn retain_issued(&self, names: &HashSet<Box<str>>) {
        self.issued.pin().retain(|name, _| names.contains(name));
    }

    pub fn remove_issued(&self, hostname: &str) {
        self.issued.pin().remove(hostname);
    }

    #[must_use]
    pub fn served(&self) -> Served {
        let files = self.files.load();
        let issued = self.issued.pin();
        let ends = files.values().chain(issued.values()).map(|c| c.not_after);
        Served { from_files: files.len(), issued: issued.len(), soonest_end: ends.min() }
    }
}

/// `*.example.com` for `shop.example.com`.
fn wildcard_of(hostname: &str) -> Option<String> {
    let (first, rest) = hostname.split_once('.')?;
    (!first.is_empty() && rest.contains('.')).then(|| format!("*.{rest}"))
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::certificate;
    use super::*;

    fn table() -> CertificateTable {
        CertificateTable::new("", Arc::default())
    }

    fn end(table: &CertificateTable, name: &str) -> Option<Box<str>> {
        table.find(name).map(|c| c.names[0].clone())
    }

    #[test]
    fn an_exact_name_wins_and_a_wildcard_stands_for_one_label() {
        let table = table();
        table.replace_files([
            Arc::new(certificate(&["*.apps.example.com"])),
            Arc::new(certificate(&["own.apps.example.com"])),
        ]);
        assert_eq!(end(&table, "own.apps.example.com").as_deref(), Some("own.apps.example.com"));
        assert_eq!(end(&table, "x.apps.example.com").as_deref(), Some("*.apps.example.com"));
        for none in
            ["apps.example.com", "a.b.apps.example.com", "example.com", "com", "", ".apps.example.com"]
        {
            assert_eq!(end(&table, none), None, "{none}");
        }
        // A certificate for a whole top-level domain is nobody's.
        table.replace_files([Arc::new(certificate(&["*.com"]))]);
        assert_eq!(end(&table, "example.com"), None);
    }

    #[test]
    fn what_an_issuer_gave_comes_between_the_operators_names_and_wildcards() {
        let table = table();
        table.put_issued("x.apps.example.com", certificate(&["x.apps.example.com", "issued"]));
        table.replace_files([Arc::new(certificate(&["*.apps.example.com"]))]);
        assert_eq!(end(&table, "x.apps.example.com").as_deref(), Some("x.apps.example.com"));
        assert!(table.operators("x.apps.example.com").is_some());
        table.replace_files([Arc::new(certificate(&["first", "x.apps.example.com"]))]);
        assert_eq!(end(&table, "x.apps.example.com").as_deref(), Some("first"));
        table.replace_files([]);
        table.remove_issued("x.apps.example.com");
        assert!(!table.has("x.apps.example.com"));
    }

    #[test]
    fn a_new_certificate_serves_at_once_and_the_old_one_as_long_as_somebody_uses_it() {
        let table = table();
        table.put_issued("a.example", certificate(&["a.example"]));
        let held = table.find("a.example").unwrap();
        table.put_issued("a.example", certificate(&["a.example"]));
        let now = table.find("a.example").unwrap();
        assert!(!Arc::ptr_eq(&held.key, &now.key));
        assert_eq!(table.served().issued, 1);
        assert_eq!(table.served().soonest_end, Some(now.not_after));
    }
}
