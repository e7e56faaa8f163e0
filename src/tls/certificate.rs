//! A chain with its key: read from PEM, checked to belong together, and whom it names.

use std::sync::Arc;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::domain::hostname::Hostname;

/// Names of one certificate that count; issuers allow 100.
const NAMES: usize = 1_000;

#[derive(Debug, Clone)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    /// Lower-case A-labels; the first label may be `*`.
    pub names: Vec<Box<str>>,
    /// Milliseconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

impl Certificate {
    /// # Errors
    /// If there is no chain or no key in the PEM texts, or they don't belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|_| TlsError::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?;
        Self::new(chain, &key)
    }

    /// # Errors
    /// As [`Certificate::from_pem`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKeyDer<'_>) -> Result<Self, TlsError> {
        let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| TlsError::Malformed)?;
        let names = names(&parsed)?;
        if names.is_empty() {
            return Err(TlsError::NoNames);
        }
        let validity = parsed.validity();
        let (not_before, not_after) =
            (validity.not_before.timestamp() * 1_000, validity.not_after.timestamp() * 1_000);
        let key = any_supported_type(key).map_err(TlsError::Key)?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(TlsError::Key)?;
        Ok(Self { key: Arc::new(key), names, not_before, not_after })
    }

    /// Whether it names `hostname` itself (wildcards don't count).
    #[must_use]
    pub fn is_for(&self, hostname: &str) -> bool {
        self.names.iter().any(|name| **name == *hostname)
    }
}

/// What is no host name is passed over: a certificate may name addresses and mailboxes too.
fn names(certificate: &X509Certificate<'_>) -> Result<Vec<Box<str>>, TlsError> {
    let found = certificate.subject_alternative_name().map_err(|_| TlsError::Malformed)?;
    let Some(found) = found else { return Ok(Vec::new()) };
    let names = found.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => normalised(name),
        _ => None,
    });
    Ok(names.take(NAMES).collect())
}

fn normalised(name: &str) -> Option<Box<str>> {
    let (star, rest) = match name.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", name),
    };
    let host = Hostname::parse(rest).ok().filter(|host| !host.is_ip_literal())?;
    Some(format!("{star}{host}").into())
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A chain and key in PEM, signed by itself.
    pub fn made(names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub fn certificate(names: &[&str]) -> Certificate {
        let (chain, key) = made(names);
        Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap()
    }

    #[test]
    fn names_are_those_of_the_alternative_names_in_lower_case() {
        let read = certificate(&["Shop.Example.com", "*.Apps.example.com", "127.0.0.1"]);
        let names: Vec<&str> = read.names.iter().map(|n| &**n).collect();
        assert_eq!(names, ["shop.example.com", "*.apps.example.com"]);
        assert!(read.is_for("shop.example.com") && !read.is_for("x.apps.example.com"));
        assert!(read.not_after > read.not_before);
    }

    #[test]
    fn what_can_not_serve_is_refused_with_its_reason() {
        let (chain, key) = made(&["a.example"]);
        let (_, other) = made(&["a.example"]);
        let told =
            |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(matches!(told("", &key), TlsError::NoCertificate));
        assert!(matches!(told(&chain, ""), TlsError::NoKey));
        assert!(matches!(told(&chain, &other), TlsError::Key(_)));
        let (nameless, key) = made(&["127.0.0.1"]);
        assert!(matches!(told(&nameless, &key), TlsError::NoNames));
    }
}
