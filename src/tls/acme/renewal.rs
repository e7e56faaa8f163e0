//! When an issuer wants a certificate renewed (RFC 9773). Never decides whether that is heeded.

use std::time::Duration;

use instant_acme::{Account, CertificateIdentifier, Error};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, Der};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::failure::Failure;
use super::order;

/// What the issuer suggests, in milliseconds since 1970, and when it wants to be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suggested {
    pub start: i64,
    pub end: i64,
    pub ask_again: Duration,
}

/// Asks about the first certificate of `chain_pem`. Nothing: the issuer says nothing of the kind, or the certificate
/// has no name for it.
///
/// # Errors
/// Why the issuer gave no answer.
pub async fn renewal_of(
    account: &Account,
    issuer: &str,
    chain_pem: &str,
) -> Result<Option<Suggested>, Failure> {
    let Some(name) = identifier(chain_pem) else { return Ok(None) };
    match account.renewal_info(&name).await {
        Ok((info, ask_again)) => {
            let window = info.suggested_window;
            let ms = |seconds: i64| seconds.saturating_mul(1_000);
            let (start, end) = (ms(window.start.unix_timestamp()), ms(window.end.unix_timestamp()));
            Ok(Some(Suggested { start, end, ask_again }))
        }
        Err(Error::Unsupported(_)) => Ok(None),
        Err(e) => Err(order::logged(issuer, "renewal information", &e)),
    }
}

/// What issuers call a certificate: its authority's key, and its number.
fn identifier(chain_pem: &str) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
    let (_, read) = X509Certificate::from_der(&leaf).ok()?;
    let key = read.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(authority) => {
            authority.key_identifier.as_ref().map(|key| key.0)
        }
        _ => None,
    })?;
    let name = CertificateIdentifier::new(Der::from_slice(key), Der::from_slice(read.raw_serial()));
    Some(name.into_owned())
}
