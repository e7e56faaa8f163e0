//! The first credential of a development installation, and the installation's secret.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::credentials;
use super::{Control, ControlError};
use crate::domain::Scope;
use crate::store::tenants::NewToken;
use crate::store::{Store, StoreError};

/// What the first token is called; no other one may be, so that production can tell.
pub const TOKEN_NAME: &str = "bootstrap";

/// `<data_dir>/bootstrap.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    pub org_id: String,
    pub user_id: String,
    pub token: String,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("{what} could not be written")]
    Write {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "production refuses the development credential in this database; revoke it: libra tokens revoke {token}"
    )]
    StillValid { token: String },
    #[error("{what} is damaged; delete it and start again")]
    Damaged { what: &'static str },
    #[error("the first credential could not be made")]
    Credential(#[source] ControlError),
    #[error("the first organization could not be recorded")]
    Store(#[from] StoreError),
}

/// In development the installation's secret is made at the first start and kept in `data_dir`.
///
/// # Errors
/// If the file can't be read or written.
pub fn development_secret(data_dir: &Path) -> Result<SecretString, BootstrapError> {
    const WHAT: &str = "secret.key";
    let path = data_dir.join(WHAT);
    match std::fs::read_to_string(&path) {
        Ok(secret) if secret.trim().len() >= 32 => return Ok(secret.trim().to_owned().into()),
        Ok(_) => return Err(BootstrapError::Damaged { what: WHAT }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(BootstrapError::Write { what: WHAT, source }),
    }
    let secret = credentials::generate().map_err(BootstrapError::Credential)?;
    write_private(&path, secret.expose_secret().as_bytes())
        .map_err(|source| BootstrapError::Write { what: WHAT, source })?;
    // Another server that started at the same moment may have won; its secret is the one.
    development_secret(data_dir)
}

/// Makes the first organization, user and token, once, and writes them where only this user can read.
/// The caller holds the folder's start lock.
///
/// # Errors
/// If the rows or the file can't be written.
pub async fn bootstrap(store: &Store, data_dir: &Path) -> Result<(), BootstrapError> {
    const WHAT: &str = "bootstrap.json";
    let path = data_dir.join(WHAT);
    if path.exists() {
        return Ok(());
    }
    // A start that was killed between rows and file leaves names behind; the file decides.
    let suffix = &crate::domain::id::random()[..6];
    let org = match store.organization_create("development").await {
        Err(StoreError::Duplicate(_)) => store.organization_create(&format!("development-{suffix}")).await?,
        other => other?,
    };
    let user = match store.user_create("developer", &org).await {
        Err(StoreError::Duplicate(_)) => store.user_create(&format!("developer-{suffix}"), &org).await?,
        other => other?,
    };
    let token = credentials::generate().map_err(BootstrapError::Credential)?;
    store
        .token_create(NewToken {
            org: org.clone(),
            user: user.clone(),
            name: TOKEN_NAME.into(),
            secret_hash: credentials::hash_secret(&token),
            scopes: Scope::ALL.to_vec(),
            admin: true,
            lifetime_ms: None,
        })
        .await?;
    let document = Bootstrap {
        org_id: org.to_string(),
        user_id: user.to_string(),
        token: token.expose_secret().to_owned(),
    };
    let text = serde_json::to_vec_pretty(&document).map_err(|_| BootstrapError::Damaged { what: WHAT })?;
    write_private(&path, &text).map_err(|source| BootstrapError::Write { what: WHAT, source })
}

/// A development credential does not become a production one because its file was deleted.
///
/// # Errors
/// With what to do, if the bootstrap's token is still valid; or if the database can't be asked.
pub async fn refuse_bootstrap(store: &Store) -> Result<(), BootstrapError> {
    match store.token_valid_named(TOKEN_NAME).await?.first() {
        Some(token) => Err(BootstrapError::StillValid { token: token.to_string() }),
        None => Ok(()),
    }
}

/// Writes a file that only its owner can read, whole or not at all; an existing one is left alone.
fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let linked = std::fs::hard_link(&temporary, path);
    std::fs::remove_file(&temporary)?;
    match linked {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

impl Control {
    /// Whether this is a development installation, whose conveniences production refuses.
    #[must_use]
    pub fn is_development(&self) -> bool {
        self.settings.environment == crate::config::Environment::Development
    }
}
