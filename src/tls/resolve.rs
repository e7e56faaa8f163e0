//! Which certificate answers a handshake. Synchronous: what is not in memory is not there.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::{ACME_PROTOCOL, CertificateTable};

impl ResolvesServerCert for CertificateTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(stored_form);
        let asks = hello.alpn().is_some_and(|mut offered| offered.any(|p| p == ACME_PROTOCOL));
        if asks {
            // RFC 8737: an issuer offers this and nothing else. Who offers more is none, and must get
            // no certificate that this connection could go on with.
            let only = hello.alpn().is_some_and(|mut offered| offered.all(|p| p == ACME_PROTOCOL));
            return self.challenges.tls_alpn01(&name?).filter(|_| only);
        }
        let found = name.and_then(|name| self.find(&name)).map(|c| Arc::clone(&c.key));
        found.or_else(|| self.default())
    }
}

/// rustls has checked that it is a DNS name.
fn stored_form(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
