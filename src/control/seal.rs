//! Keys and sealing: one installation secret, one derived key per purpose.
//! Never logs, shows or stores a key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

use super::ControlError;

/// Seals build variables at rest and derives the key of the edge's probes.
#[derive(Debug)]
pub struct Sealer {
    root: SecretString,
}

const NONCE_BYTES: usize = 12;

impl Sealer {
    #[must_use]
    pub fn new(root: SecretString) -> Self {
        Self { root }
    }

    /// A key for one purpose; knowing it tells nothing about the others.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> SecretSlice<u8> {
        // An HMAC takes a key of any length, so this can't fail.
        let Ok(mut mac) =
            <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.root.expose_secret().as_bytes())
        else {
            return SecretSlice::from(Vec::new());
        };
        mac.update(b"libra/v1/");
        mac.update(purpose.as_bytes());
        SecretSlice::from(mac.finalize().into_bytes().to_vec())
    }

    /// Marks `bytes` so that equal ones are recognised here and nobody else can guess them.
    #[must_use]
    pub fn mark(&self, purpose: &str, bytes: &[u8]) -> String {
        let key = self.derive(purpose);
        match <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.expose_secret()) {
            Ok(mut mac) => {
                mac.update(bytes);
                hex::encode(mac.finalize().into_bytes())
            }
            // An HMAC takes a key of any length, so this can't be.
            Err(_) => String::new(),
        }
    }

    /// Whether both are the same bytes, in a time that does not tell how much of them is.
    #[must_use]
    pub fn is_same(&self, one: &[u8], other: &[u8]) -> bool {
        let key = self.derive("comparison");
        let mac = |bytes: &[u8]| {
            let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.expose_secret()).ok()?;
            mac.update(bytes);
            Some(mac)
        };
        match (mac(one), mac(other)) {
            (Some(one), Some(other)) => one.verify(&other.finalize().into_bytes()).is_ok(),
            // An HMAC takes a key of any length, so this can't be.
            _ => false,
        }
    }

    /// Seals `plain` so that it opens only for the same `owner` (a deployment's id).
    ///
    /// # Errors
    /// If the system gives no randomness.
    pub fn seal(&self, owner: &str, plain: &[u8]) -> Result<String, ControlError> {
        let mut nonce = [0_u8; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| ControlError::Seal)?;
        let payload = Payload { msg: plain, aad: owner.as_bytes() };
        let sealed = self.cipher()?.encrypt(&Nonce::from(nonce), payload).map_err(|_| ControlError::Seal)?;
        Ok(format!("v1.{}.{}", STANDARD.encode(nonce), STANDARD.encode(sealed)))
    }

    /// # Errors
    /// If `sealed` was made with another key or for another owner, or is damaged.
    pub fn open(&self, owner: &str, sealed: &str) -> Result<Vec<u8>, ControlError> {
        let mut parts = sealed.split('.');
        let (Some("v1"), Some(nonce), Some(body), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ControlError::Seal);
        };
        let nonce: [u8; NONCE_BYTES] =
            STANDARD.decode(nonce).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(ControlError::Seal)?;
        let body = STANDARD.decode(body).map_err(|_| ControlError::Seal)?;
        let payload = Payload { msg: &body, aad: owner.as_bytes() };
        self.cipher()?.decrypt(&Nonce::from(nonce), payload).map_err(|_| ControlError::Seal)
    }

    fn cipher(&self) -> Result<ChaCha20Poly1305, ControlError> {
        let key = self.derive("build-variables");
        ChaCha20Poly1305::new_from_slice(key.expose_secret()).map_err(|_| ControlError::Seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_for_its_owner_and_key() {
        let sealer = Sealer::new("0123456789abcdef0123456789abcdef".into());
        let sealed = sealer.seal("deployment-a", b"TOKEN=1").unwrap();
        assert!(!sealed.contains("TOKEN"));
        assert_eq!(sealer.open("deployment-a", &sealed).unwrap(), b"TOKEN=1");
        assert!(sealer.open("deployment-b", &sealed).is_err());
        assert!(Sealer::new("another".into()).open("deployment-a", &sealed).is_err());
    }

    #[test]
    fn only_equal_bytes_are_the_same() {
        let sealer = Sealer::new("0123456789abcdef0123456789abcdef".into());
        assert!(sealer.is_same(b"token", b"token"));
        for other in [&b"tokem"[..], b"toke", b"tokens", b""] {
            assert!(!sealer.is_same(b"token", other));
        }
    }
}
