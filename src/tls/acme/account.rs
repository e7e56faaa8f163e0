//! An issuer and our account there: made once, restored from its sealed credentials afterwards.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use secrecy::{ExposeSecret, SecretString};

use super::failure::{Failure, FailureKind};
use super::{IssuerClient, order};
use crate::tls::Acme;

/// One issuer of the settings.
#[derive(Debug, Clone)]
pub struct Issuer {
    pub directory: String,
    /// The host of its directory: what is shown.
    pub name: String,
    contact: Vec<String>,
    eab_key_id: String,
    eab_hmac_key: SecretString,
    client: IssuerClient,
}

impl Issuer {
    /// The first issuer of the settings and, if there is one, the second.
    #[must_use]
    pub fn all(settings: &Acme, client: &IssuerClient) -> Vec<Self> {
        let issuer = |directory: &String, id: &String, key: &SecretString| Self {
            directory: directory.clone(),
            name: host_of(directory),
            contact: settings.contact.iter().map(|mail| format!("mailto:{mail}")).collect(),
            eab_key_id: id.clone(),
            eab_hmac_key: key.clone(),
            client: client.clone(),
        };
        [
            (&settings.directory, &settings.eab_key_id, &settings.eab_hmac_key),
            (&settings.second_directory, &settings.second_eab_key_id, &settings.second_eab_hmac_key),
        ]
        .into_iter()
        .filter(|(directory, ..)| !directory.is_empty())
        .map(|(directory, id, key)| issuer(directory, id, key))
        .collect()
    }

    /// Makes an account. The credentials hold its key: they must be sealed before they are kept.
    ///
    /// # Errors
    /// Why the issuer made none.
    pub async fn account_create(&self) -> Result<(Account, Vec<u8>), Failure> {
        let contact: Vec<&str> = self.contact.iter().map(String::as_str).collect();
        let wanted =
            NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let bound = (!self.eab_key_id.is_empty())
            .then(|| eab_key(self.eab_hmac_key.expose_secret()))
            .flatten()
            .map(|key| ExternalAccountKey::new(self.eab_key_id.clone(), &key));
        let made = Account::builder_with_http(Box::new(self.client.clone()))
            .create(&wanted, self.directory.clone(), bound.as_ref())
            .await;
        let (account, credentials) = made.map_err(|e| self.failed(&e))?;
        let kept = serde_json::to_vec(&credentials).map_err(|e| self.failed(&Error::Json(e)))?;
        Ok((account, kept))
    }

    /// # Errors
    /// If the issuer can't be reached, or the credentials are none.
    pub async fn account_restore(&self, credentials: &[u8]) -> Result<Account, Failure> {
        let credentials: AccountCredentials = serde_json::from_slice(credentials)
            .map_err(|_| Failure::new(FailureKind::AccountUnknown, "The account's key can't be read."))?;
        Account::builder_with_http(Box::new(self.client.clone()))
            .from_credentials(credentials)
            .await
            .map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &Error) -> Failure {
        order::logged(&self.name, "account", error)
    }
}

fn host_of(directory: &str) -> String {
    let host = reqwest::Url::parse(directory).ok().and_then(|url| {
        let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
        Some(format!("{}{port}", url.host_str()?))
    });
    host.unwrap_or_else(|| "issuer".to_owned()).chars().take(253).collect()
}

/// The key of an external account binding, as issuers show it.
#[must_use]
pub fn eab_key(shown: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(shown.trim_end_matches('=')).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_is_shown_by_its_host() {
        assert_eq!(host_of("https://acme-v02.api.letsencrypt.org/directory"), "acme-v02.api.letsencrypt.org");
        assert_eq!(host_of("https://127.0.0.1:14000/dir"), "127.0.0.1:14000");
    }
}
