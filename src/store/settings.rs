//! The settings of the database, and what can be known of them without trying.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Secret, because it may hold a password.
    pub url: SecretString,
    pub migrate: bool,
    pub migrate_timeout_seconds: u64,
    pub read_connections: u32,
    pub write_connections: u32,
    pub busy_timeout_ms: u64,
    pub acquire_timeout_ms: u64,
    pub statement_timeout_ms: u64,
    pub idle_in_transaction_timeout_ms: u64,
    pub max_lifetime_seconds: u64,
    pub idle_seconds: u64,
    pub retries: u32,
    pub retry_pause_ms: u64,
    pub ca_file: String,
    pub client_certificate_file: String,
    pub client_key_file: String,
    pub allow_plaintext: bool,
    pub application_name: String,
}

/// Which of the two databases an address names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgresql",
        }
    }
}

/// Words of a PostgreSQL address that mean something here. The others would be ignored silently, or
/// would undo what the settings beside them say.
const PARAMETERS: &[&str] = &["sslmode", "host", "port", "dbname", "user", "password"];

impl Settings {
    #[must_use]
    pub fn kind(&self) -> Kind {
        let url = self.url.expose_secret();
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Kind::Postgres
        } else {
            Kind::Sqlite
        }
    }

    /// Every mistake as `(key, what is allowed)`; never with the address itself.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, key: &str, allowed: &str| {
            if !holds {
                found.push((format!("database.{key}"), allowed.to_owned()));
            }
        };
        demand((1..=1_000).contains(&self.read_connections), "read_connections", "must be 1 to 1000");
        demand((1..=1_000).contains(&self.write_connections), "write_connections", "must be 1 to 1000");
        demand(self.busy_timeout_ms >= 1, "busy_timeout_ms", "must be at least 1");
        demand(self.acquire_timeout_ms >= 1, "acquire_timeout_ms", "must be at least 1");
        demand(
            self.statement_timeout_ms >= self.busy_timeout_ms,
            "statement_timeout_ms",
            "must be at least database.busy_timeout_ms: waiting for a lock is part of a statement",
        );
        let idle = self.idle_in_transaction_timeout_ms;
        demand(idle >= 1_000, "idle_in_transaction_timeout_ms", "must be at least 1000");
        demand(self.migrate_timeout_seconds >= 1, "migrate_timeout_seconds", "must be at least 1");
        demand(self.max_lifetime_seconds >= 1, "max_lifetime_seconds", "must be at least 1");
        demand(self.idle_seconds >= 1, "idle_seconds", "must be at least 1");
        demand(self.retries <= 20, "retries", "must be 0 to 20");
        for (key, file) in self.files() {
            let there = file.is_empty() || Path::new(file).is_file();
            demand(there, key, "must be empty or name a PEM file that is there");
        }
        demand(
            self.client_certificate_file.is_empty() == self.client_key_file.is_empty(),
            "client_key_file",
            "a client's certificate and its key go together: set both or neither",
        );
        let url = self.url.expose_secret();
        match self.kind() {
            Kind::Sqlite => demand(
                url.is_empty() || url.starts_with("sqlite:"),
                "url",
                "must be empty (SQLite beneath data_dir), sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE",
            ),
            Kind::Postgres => {
                if let Err(allowed) = self.postgres() {
                    demand(false, "url", &allowed);
                }
            }
        }
        found
    }

    fn files(&self) -> [(&'static str, &str); 3] {
        [
            ("ca_file", &self.ca_file),
            ("client_certificate_file", &self.client_certificate_file),
            ("client_key_file", &self.client_key_file),
        ]
    }

    /// How to reach the PostgreSQL server, TLS decided; or what the address must be.
    pub(super) fn postgres(&self) -> Result<PgConnectOptions, String> {
        let shape = "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE";
        let text = self.url.expose_secret();
        let url = Url::parse(text).map_err(|_| shape.to_owned())?;
        let mut asked_tls = false;
        for (name, value) in url.query_pairs() {
            if name.starts_with("ssl") && name != "sslmode" {
                return Err("names certificates in database.ca_file, client_certificate_file and client_key_file, not in the address".into());
            }
            if !PARAMETERS.contains(&&*name) {
                return Err(format!(
                    "knows only these words after the question mark: {}",
                    PARAMETERS.join(", ")
                ));
            }
            asked_tls |= name == "sslmode" && matches!(&*value, "require" | "verify-ca" | "verify-full");
        }
        // What the parser says may hold the password, so it is not passed on.
        let mut options = PgConnectOptions::from_str(text).map_err(|_| shape.to_owned())?;
        if options.get_database().is_none() {
            return Err("must name the database: postgres://USER:PASSWORD@HOST:PORT/DATABASE".into());
        }
        let local = options.get_socket().is_some() || is_loopback(options.get_host());
        let verified = PgSslMode::VerifyFull;
        if options.get_socket().is_none()
            && (asked_tls || !self.ca_file.is_empty() || !(local || self.allow_plaintext))
        {
            let refused = url.query_pairs().any(|(name, value)| name == "sslmode" && value != "verify-full");
            if refused && !local && !self.allow_plaintext {
                return Err("must say sslmode=verify-full or nothing for a server on another host: set database.ca_file for a private authority, or database.allow_plaintext = true where the network is trusted".into());
            }
            options = options.ssl_mode(verified);
        }
        if !self.ca_file.is_empty() {
            options = options.ssl_root_cert(&self.ca_file);
        }
        if !self.client_certificate_file.is_empty() {
            options =
                options.ssl_client_cert(&self.client_certificate_file).ssl_client_key(&self.client_key_file);
        }
        Ok(options.application_name(&self.application_name).options([
            ("statement_timeout", self.statement_timeout_ms.to_string()),
            ("lock_timeout", self.busy_timeout_ms.to_string()),
            ("idle_in_transaction_session_timeout", self.idle_in_transaction_timeout_ms.to_string()),
            // What the conditions of every write are made for, whatever the role's own default is.
            ("default_transaction_isolation", "read committed".to_owned()),
        ]))
    }

    /// The longest that one question may take: a connection, and the statement itself.
    pub(super) fn patience(&self) -> Duration {
        Duration::from_millis(self.acquire_timeout_ms + self.statement_timeout_ms)
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    /// What is said of this address and these other settings of the database.
    fn said(url: &str, more: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut variables = HashMap::from([("LIBRA__DATABASE__URL".to_owned(), url.to_owned())]);
        variables.extend(more.iter().map(|(k, v)| (format!("LIBRA__DATABASE__{k}"), (*v).to_owned())));
        let loaded = crate::config::load(folder.path(), None, &variables);
        loaded.map_or_else(|mistakes| mistakes.to_string(), |l| format!("{:?}", l.settings.database))
    }

    #[test]
    fn a_server_on_another_host_is_reached_by_verified_tls_or_not_at_all() {
        let remote = "postgres://libra:hunter2@db.example.com/libra";
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let text = said(&format!("{remote}?sslmode={mode}"), &[]);
            assert!(text.contains("sslmode=verify-full"), "{mode}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
        for url in [remote.to_owned(), format!("{remote}?sslmode=verify-full")] {
            assert!(!said(&url, &[]).contains("mistake"));
        }
        let plain = format!("{remote}?sslmode=disable");
        assert!(!said(&plain, &[("ALLOW_PLAINTEXT", "true")]).contains("mistake"));
    }

    #[test]
    fn tls_is_what_the_address_and_the_files_make_it() {
        let mode = |url: &str, plaintext: bool| {
            let folder = tempfile::tempdir().unwrap();
            let mut s = crate::config::load(folder.path(), None, &HashMap::new()).unwrap().settings.database;
            s.url = url.to_owned().into();
            s.allow_plaintext = plaintext;
            format!("{:?}", s.postgres().unwrap().get_ssl_mode())
        };
        assert_eq!(mode("postgres://u@db.example.com/d", false), "VerifyFull");
        assert_eq!(mode("postgres://u@127.0.0.1/d?sslmode=disable", false), "Disable");
        assert_eq!(mode("postgres://u@localhost/d?sslmode=require", false), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example.com/d?sslmode=disable", true), "Disable");
    }

    #[test]
    fn no_password_is_shown_whatever_is_wrong() {
        for url in [
            "postgres://libra:hunter2@db.example.com",
            "postgres://libra:hunter2@db.example.com/libra?sslrootcert=/x",
            "postgres://libra:hunter2@db.example.com/libra?pasword=hunter2",
            "postgres://libra:hunter2@db.example.com:port/libra",
            "mysql://libra:hunter2@db.example.com/libra",
            "postgres://libra:hunter2@db.example.com/libra",
        ] {
            let text = said(url, &[]);
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert!(said("postgres://u:p@h/d?options=-c%20x", &[]).contains("knows only these words"));
        assert!(
            said("postgres://u:p@h/d", &[("CA_FILE", "/no/such.pem")]).contains("PEM file that is there")
        );
    }
}
