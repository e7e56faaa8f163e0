//! Where a broker is, how to sign in, and how the way there is secured.
//!
//! It opens connections and never keeps one. It never shows a password, a seed or an address with either.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::embedded_files::ServerRecord;
use super::error::QueueError;
use super::settings::Settings;

const CONNECT: &str = "connect";
/// Connection events that wait to be looked at; more than these say nothing new.
const WAITING_EVENTS: usize = 16;

/// Not `Debug`: it holds the password.
#[derive(Clone)]
pub(super) struct Endpoint {
    servers: Vec<ServerAddr>,
    sign_in: SignIn,
    tls: Tls,
    pub(super) generation: u64,
}

#[derive(Clone)]
enum SignIn {
    Nobody,
    Password(String, SecretString),
    CredentialsFile(PathBuf),
    NkeyFile(PathBuf),
}

#[derive(Clone, Default)]
struct Tls {
    required: bool,
    ca_file: Option<PathBuf>,
    /// A certificate and its key.
    client: Option<(PathBuf, PathBuf)>,
}

impl Endpoint {
    pub(super) fn of_settings(settings: &Settings) -> Self {
        let servers = settings.url.servers().unwrap_or_default();
        let client = path(&settings.client_certificate_file).zip(path(&settings.client_key_file));
        Self {
            sign_in: SignIn::of_settings(settings, &servers),
            tls: Tls {
                // For each of them: a server may name others in plain text.
                required: servers.iter().any(ServerAddr::tls_required),
                ca_file: path(&settings.ca_file),
                client,
            },
            servers,
            generation: 0,
        }
    }

    pub(super) fn of_record(record: &ServerRecord) -> Self {
        let credential = record.credential();
        Self {
            servers: record.url.parse().into_iter().collect(),
            sign_in: SignIn::Password(credential.user, credential.password),
            tls: Tls::default(),
            generation: record.generation,
        }
    }

    /// Signs in once and leaves again.
    pub(super) async fn probe(&self, settings: &Settings) -> Result<(), QueueError> {
        self.connect(settings).await.map(drop)
    }

    pub(super) async fn connect(
        &self,
        settings: &Settings,
    ) -> Result<(Client, mpsc::Receiver<Event>), QueueError> {
        let (sender, events) = mpsc::channel(WAITING_EVENTS);
        let wait = Duration::from_millis(settings.connect_timeout_ms);
        let options = self
            .tls
            .apply(self.sign_in.apply(ConnectOptions::new()).await?)
            .name("libra")
            .connection_timeout(wait)
            .request_timeout(Some(settings.request_timeout()))
            .ping_interval(Duration::from_secs(settings.ping_interval_seconds))
            .subscription_capacity(settings.event_buffer_messages)
            // As few tries as the library allows: going on is the connector's, with the newest endpoint.
            .max_reconnects(self.servers.len().max(1))
            // What a server tells of others is not what the operator configured.
            .ignore_discovered_servers()
            .event_callback(move |event| {
                let sender = sender.clone();
                async move { drop(sender.try_send(event)) }
            });
        // Each server, and each address of one host, may take the connection timeout.
        let tries = u32::try_from(self.servers.len()).unwrap_or(u32::MAX).saturating_mul(4).max(4);
        let client = timeout(wait.saturating_mul(tries), options.connect(self.servers.as_slice()))
            .await
            .map_err(|elapsed| QueueError::unavailable(CONNECT, elapsed))?
            .map_err(not_connected)?;
        Ok((client, events))
    }
}

impl SignIn {
    fn of_settings(settings: &Settings, servers: &[ServerAddr]) -> Self {
        if !settings.user.is_empty() {
            return Self::Password(settings.user.clone(), settings.password.clone());
        }
        // The library reads user and password from an address but never sends them.
        let credential = servers.iter().find_map(|server| Some((server.username()?, server.password()?)));
        if let Some((user, password)) = credential {
            return Self::Password(decoded(user), decoded(password).into());
        }
        match (path(&settings.credentials_file), path(&settings.nkey_file)) {
            (Some(file), _) => Self::CredentialsFile(file),
            (None, Some(file)) => Self::NkeyFile(file),
            (None, None) => Self::Nobody,
        }
    }

    async fn apply(&self, options: ConnectOptions) -> Result<ConnectOptions, QueueError> {
        Ok(match self {
            Self::Nobody => options,
            Self::Password(user, password) => {
                options.user_and_password(user.clone(), password.expose_secret().to_owned())
            }
            Self::CredentialsFile(file) => {
                options.credentials_file(file).await.map_err(QueueError::file("read", file))?
            }
            Self::NkeyFile(file) => {
                let seed = tokio::fs::read_to_string(file).await;
                let seed: SecretString = seed.map_err(QueueError::file("read", file))?.into();
                options.nkey(seed.expose_secret().trim().to_owned())
            }
        })
    }
}

impl Tls {
    fn apply(&self, options: ConnectOptions) -> ConnectOptions {
        let mut options = options.require_tls(self.required);
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        if let Some((certificate, key)) = &self.client {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        options
    }
}

/// What waiting can't mend is told apart from a broker that is away.
fn not_connected(error: ConnectError) -> QueueError {
    if of_tls(&error) {
        return QueueError::Untrusted { source: error.into() };
    }
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            QueueError::Denied { source: error.into() }
        }
        ConnectErrorKind::Tls => QueueError::Untrusted { source: error.into() },
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => QueueError::unavailable(CONNECT, error),
    }
}

/// Whether the way could not be secured: the library calls that an IO error.
fn of_tls(error: &ConnectError) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        // A certificate that we refuse, or the server's word that it refuses ours.
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) =
            cause.downcast_ref()
        {
            return true;
        }
        let wrapped = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => cause.source(),
        };
    }
    false
}

fn path(text: &str) -> Option<PathBuf> {
    let text = text.trim();
    (!text.is_empty()).then(|| Path::new(text).to_owned())
}

fn decoded(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}
