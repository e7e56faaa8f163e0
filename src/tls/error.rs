//! What can be wrong with a certificate or its files.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the file {path} can't be read", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the file {path} is larger than {limit} bytes", path = .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("there is no PEM certificate in it")]
    NoCertificate,
    #[error("there is no PEM private key in it")]
    NoKey,
    #[error("the certificate can't be read as X.509")]
    Malformed,
    #[error("the certificate names no host (a subject alternative name is needed)")]
    NoNames,
    #[error("the private key is of a kind that can't be used, or does not belong to the certificate")]
    Key(#[source] rustls::Error),
    #[error("the text of authorities {0}")]
    Authorities(super::AuthoritiesError),
    #[error("the TLS settings can't be used")]
    Config(#[source] rustls::Error),
    #[error("a key or certificate can't be made")]
    Make(#[from] rcgen::Error),
}
