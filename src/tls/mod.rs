//! TLS of the front door: certificates by host name, the answers to issuers' challenges, and how an
//! issuer is asked. The only room that makes rustls server configurations, reads X.509 and speaks ACME;
//! it also reads the authorities that an operator names for origins.
//!
//! Handshakes only read; they never wait for a database, a file or an issuer. Never decides for whom a
//! certificate is got: that is the record's word, by way of `control`.

pub mod acme;
mod authorities;
mod certificate;
mod challenges;
mod error;
mod files;
mod resolve;
mod server;
mod settings;
mod table;

use std::sync::Arc;

pub use authorities::{AuthoritiesError, check_authorities, client_config, trusting_nobody};
pub use certificate::Certificate;
#[cfg(test)]
pub use certificate::tests::certificate as test_certificate;
pub use challenges::{Challenges, Outstanding};
pub use error::TlsError;
pub use files::OperatorFiles;
pub use server::{ACME_PROTOCOL, server_config};
pub use settings::{Acme, Settings};
pub use table::{CertificateTable, Served};

/// What every handshake reads, and the operator's files. Made once, in the composition root.
#[derive(Debug)]
pub struct Tls {
    pub table: Arc<CertificateTable>,
    pub challenges: Arc<Challenges>,
    pub files: OperatorFiles,
    /// Names whose stored certificate could not be opened or read here.
    pub unreadable: papaya::HashSet<Box<str>>,
}

impl Tls {
    /// Reads the operator's files; one that can't be used is logged, shown in health and tried again.
    #[must_use]
    pub fn open(settings: &Settings) -> Self {
        let challenges = Arc::new(Challenges::default());
        let table = Arc::new(CertificateTable::new(&settings.default_name, Arc::clone(&challenges)));
        let files = OperatorFiles::new(&settings.certificates);
        files.look(&table);
        Self { table, challenges, files, unreadable: papaya::HashSet::new() }
    }
}
