//! Bearer tokens: made once, shown once, stored as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest as _, Sha256};

use super::{Control, ControlError};
use crate::domain::Principal;

/// Starts every token, so that a leaked one can be recognised by a scanner.
const PREFIX: &str = "libra_";
/// A longer header is not a token of ours.
const MAX_TOKEN_BYTES: usize = 128;

/// A fresh secret of 256 random bits. Being random, it needs no slow hash: nobody can guess it.
///
/// # Errors
/// If the system gives no randomness.
pub fn generate() -> Result<SecretString, ControlError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).map_err(|_| ControlError::Seal)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into())
}

#[must_use]
pub fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret.as_bytes()))
}

#[must_use]
pub fn hash_secret(secret: &SecretString) -> String {
    hash(secret.expose_secret())
}

impl Control {
    /// Who a bearer token stands for.
    ///
    /// # Errors
    /// If the database can't be asked.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Principal>, ControlError> {
        if token.len() > MAX_TOKEN_BYTES || !token.starts_with(PREFIX) {
            return Ok(None);
        }
        Ok(self.store.token_principal(&hash(token)).await?)
    }
}
