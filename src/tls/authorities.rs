//! Authorities that an operator names for one upstream: read from PEM, checked, and made into what its
//! connections trust. Whoever names authorities means those alone.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;

/// Authorities of one upstream that make sense; a file of all public ones is not meant.
const MOST: usize = 32;

/// Why a PEM text names no authorities; each text completes the sentence "the text …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthoritiesError {
    #[error("holds no PEM certificate, or one that is cut off")]
    NoCertificate,
    #[error("holds more than {MOST} certificates")]
    TooMany,
    #[error(
        "holds a private key or something else beside certificates: send the authorities' certificates only"
    )]
    NotOnlyCertificates,
    #[error("holds a certificate that can't be read as X.509 or used as an authority")]
    Malformed,
    #[error("holds a certificate that has ended")]
    Ended,
}

/// The authorities of `pem`, all in force at `now_ms`.
///
/// # Errors
/// Why they can't be used.
pub fn check_authorities(pem: &str, now_ms: i64) -> Result<(), AuthoritiesError> {
    for certificate in certificates(pem)? {
        let (_, read) = X509Certificate::from_der(&certificate).map_err(|_| AuthoritiesError::Malformed)?;
        if read.validity().not_after.timestamp() <= now_ms / 1_000 {
            return Err(AuthoritiesError::Ended);
        }
    }
    roots(pem).map(drop)
}

/// How origins are met whose certificates must lead to one of these authorities.
///
/// # Errors
/// Why they can't be used.
pub fn client_config(pem: &str) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = roots(pem).map_err(TlsError::Authorities)?;
    Ok(trusting(roots))
}

/// How origins are met of whose authorities nothing is known: none is trusted.
#[must_use]
pub fn trusting_nobody() -> Arc<ClientConfig> {
    trusting(RootCertStore::empty())
}

fn trusting(roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider knows both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn roots(pem: &str) -> Result<RootCertStore, AuthoritiesError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|_| AuthoritiesError::Malformed)?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AuthoritiesError> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        let (kind, bytes) = section.map_err(|_| AuthoritiesError::NoCertificate)?;
        if kind != SectionKind::Certificate {
            return Err(AuthoritiesError::NotOnlyCertificates);
        }
        if found.len() == MOST {
            return Err(AuthoritiesError::TooMany);
        }
        found.push(CertificateDer::from(bytes));
    }
    if found.is_empty() { Err(AuthoritiesError::NoCertificate) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::tests::made;
    use super::*;

    #[test]
    fn only_certificates_in_force_are_authorities() {
        let (chain, key) = made(&["ca.example"]);
        let checked = |pem: &str| check_authorities(pem, 1_800_000_000_000);
        assert_eq!(checked(&chain), Ok(()));
        assert_eq!(checked(&format!("words before\n{chain}{chain}")), Ok(()));
        assert!(client_config(&chain).is_ok());
        assert_eq!(checked(""), Err(AuthoritiesError::NoCertificate));
        assert_eq!(checked(&chain[..chain.len() / 2]), Err(AuthoritiesError::NoCertificate));
        assert_eq!(checked(&format!("{chain}{key}")), Err(AuthoritiesError::NotOnlyCertificates));
        assert_eq!(checked(&chain.repeat(33)), Err(AuthoritiesError::TooMany));
        let nonsense = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";
        assert_eq!(checked(nonsense), Err(AuthoritiesError::Malformed));
        assert!(client_config(nonsense).is_err());
        assert_eq!(check_authorities(&chain, i64::MAX), Err(AuthoritiesError::Ended));
    }
}
