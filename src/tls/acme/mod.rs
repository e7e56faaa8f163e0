//! Asking an issuer (RFC 8555): accounts, orders, challenges, and what the issuer said.
//! Never decides for whom or when; never remembers anything: `control` does.

mod account;
mod client;
mod failure;
mod look;
mod order;
mod renewal;

pub use account::{Issuer, eab_key};
pub use client::{ClientError, IssuerClient};
pub use failure::{Failure, FailureKind};
pub use instant_acme::Account;
pub use look::{Looks, Seen, ask, listens};
pub use order::{Obtained, OrderError, Question, Stage, Wanted, obtain};
pub use renewal::{Suggested, renewal_of};

use std::sync::Arc;

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use sha2::Digest;

use super::TlsError;

/// The certificate that proves a name by TLS-ALPN-01 (RFC 8737). Its key is made here and leaves
/// nowhere: each server makes its own.
///
/// # Errors
/// If it can't be made.
pub fn alpn_certificate(hostname: &str, key_authorization: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let digest = sha2::Sha256::digest(key_authorization.as_bytes());
    let mut wanted = CertificateParams::new(vec![hostname.to_owned()])?;
    wanted.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
    let key = KeyPair::generate()?;
    let certificate = wanted.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| TlsError::NoKey)?;
    let key = any_supported_type(&key).map_err(TlsError::Key)?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}
