//! The folder `<data_dir>/nats`: the broker's configuration, its store, and `server.json`, by which
//! the other servers on this `data_dir` find the broker.
//!
//! Everything here is private to our user, and it never logs what it writes: two files hold the password.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::broker_process::ProcessIdentity;
use super::error::QueueError;
use super::settings::Settings;

const USER: &str = "libra";
const PASSWORD_BYTES: usize = 32;
/// One per server on this data_dir, and the publishers.
const MAX_CONNECTIONS: u16 = 512;
/// nats keeps this many full log files beside the current one.
const OLD_LOG_FILES: u8 = 1;

/// Where the broker's things lie.
#[derive(Debug, Clone)]
pub(super) struct EmbeddedFiles {
    folder: PathBuf,
}

impl EmbeddedFiles {
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, QueueError> {
        // The broker's configuration wants absolute paths: its working folder is not ours for ever.
        let folder =
            std::path::absolute(data_dir.join("nats")).map_err(QueueError::file("find", data_dir))?;
        for path in [folder.clone(), folder.join("ports")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o700)))
                .map_err(QueueError::file("create", &path))?;
        }
        Ok(Self { folder })
    }

    pub(super) fn owner_lock(&self) -> PathBuf {
        self.folder.join("owner.lock")
    }

    pub(super) fn store_lock(&self) -> PathBuf {
        self.folder.join("store.lock")
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("nats.conf")
    }

    pub(super) fn launch_log(&self) -> PathBuf {
        self.folder.join("launch.log")
    }

    fn record(&self) -> PathBuf {
        self.folder.join("server.json")
    }

    fn ports(&self) -> PathBuf {
        self.folder.join("ports")
    }

    /// Writes the broker's configuration for `port`, or for a port of its own choice.
    pub(super) fn write_config(
        &self,
        settings: &Settings,
        port: Option<u16>,
        credential: &Credential,
    ) -> Result<(), QueueError> {
        let port = port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let quoted = |path: PathBuf| quote(&path.to_string_lossy());
        let lines = [
            "server_name: libra".to_owned(),
            "host: \"127.0.0.1\"".to_owned(),
            format!("port: {port}"),
            format!("ports_file_dir: {}", quoted(self.ports())),
            format!("max_payload: {}", settings.max_payload_bytes),
            format!("max_connections: {MAX_CONNECTIONS}"),
            format!("log_file: {}", quoted(self.folder.join("nats.log"))),
            format!("logfile_size_limit: {}", settings.log_max_bytes),
            format!("logfile_max_num: {OLD_LOG_FILES}"),
            "authorization {".to_owned(),
            format!("  user: {}", quote(&credential.user)),
            format!("  password: {}", quote(credential.password.expose_secret())),
            "}".to_owned(),
            "jetstream {".to_owned(),
            format!("  store_dir: {}", quoted(self.folder.join("store"))),
            format!("  max_file_store: {}", settings.store_max_bytes),
            // Streams here are on file; without this line the broker would take most of the memory as its due.
            "  max_memory_store: 1048576".to_owned(),
            // Anything else loses acknowledged messages when the power is cut (findings 2.3).
            "  sync_interval: always".to_owned(),
            "}".to_owned(),
        ];
        let path = self.config();
        write_private(&path, (lines.join("\n") + "\n").as_bytes()).map_err(QueueError::file("write", &path))
    }

    /// Forgets the ports files of earlier brokers, so that one found later is this one's.
    pub(super) fn clear_ports(&self) -> Result<(), QueueError> {
        let path = self.ports();
        let clear = || -> io::Result<()> {
            for entry in std::fs::read_dir(&path)? {
                std::fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        clear().map_err(QueueError::file("clear", &path))
    }

    /// The port on which process `pid` says that it listens: proof that the port is the broker's own
    /// and not somebody else's who would then be sent the password.
    pub(super) fn listening_port(&self, pid: u32) -> Option<u16> {
        #[derive(Deserialize)]
        struct Ports {
            nats: Vec<String>,
        }
        let suffix = format!("_{pid}.ports");
        let entry = std::fs::read_dir(self.ports())
            .ok()?
            .filter_map(Result::ok)
            .find(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))?;
        let ports: Ports = serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
        ports.nats.iter().find_map(|url| url.rsplit_once(':')?.1.parse().ok())
    }

    /// The record of the broker, if there is a readable one.
    pub(super) fn read_record(&self) -> Option<ServerRecord> {
        let bytes = std::fs::read(self.record()).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(error = %error, "server.json is unreadable and counts as missing");
                None
            }
        }
    }

    pub(super) fn write_record(&self, record: &ServerRecord) -> Result<(), QueueError> {
        let path = self.record();
        serde_json::to_vec_pretty(record)
            .map_err(io::Error::other)
            .and_then(|bytes| write_private(&path, &bytes))
            .map_err(QueueError::file("write", &path))
    }

    /// What the launcher or the broker said on standard error before it ended, shortened.
    pub(super) fn last_words(&self) -> String {
        const MOST_BYTES: usize = 500;
        let said = std::fs::read(self.launch_log()).unwrap_or_default();
        let tail = &said[said.len().saturating_sub(MOST_BYTES)..];
        String::from_utf8_lossy(tail).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// What `server.json` holds.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ServerRecord {
    #[serde(flatten)]
    pub(super) identity: ProcessIdentity,
    pub(super) url: String,
    pub(super) user: String,
    pub(super) password: String,
    /// Counts the brokers that were started on this folder, so that a reader sees a new one.
    pub(super) generation: u64,
}

impl ServerRecord {
    pub(super) fn port(&self) -> Option<u16> {
        self.url.rsplit_once(':')?.1.parse().ok()
    }

    pub(super) fn credential(&self) -> Credential {
        Credential { user: self.user.clone(), password: self.password.clone().into() }
    }
}

/// User and password that the embedded broker demands.
#[derive(Debug, Clone)]
pub(super) struct Credential {
    pub(super) user: String,
    pub(super) password: SecretString,
}

impl Credential {
    pub(super) fn random() -> Result<Self, QueueError> {
        let mut bytes = [0_u8; PASSWORD_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| QueueError::Start {
            problem: format!("there are no random bytes for its credential: {error}"),
        })?;
        Ok(Self { user: USER.into(), password: URL_SAFE_NO_PAD.encode(bytes).into() })
    }
}

/// Replaces the file whole, so that a reader sees the old one or the new one.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
