//! The configuration of HTTPS listeners: one for all names.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;

use super::{CertificateTable, TlsError};

/// The application protocol of TLS-ALPN-01. A connection that agreed on it is closed after the handshake.
pub const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// TLS 1.2 and 1.3, `h2` and `http/1.1`; sessions resumed by tickets; no early data, which could be
/// replayed. The cryptography is named, so that no other provider in the process can take its place.
///
/// # Errors
/// If the system gives no randomness for the tickets' key.
pub fn server_config(table: Arc<CertificateTable>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Config)?
        .with_no_client_auth()
        .with_cert_resolver(table);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_PROTOCOL.to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Config)?;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{
        ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConnection, SignatureScheme,
    };

    use super::super::certificate::tests::certificate;
    use super::super::{Certificate, Challenges, Outstanding};
    use super::*;
    use crate::domain::ChallengeKind;

    /// Takes whatever is shown, as issuers do: what it is, is compared afterwards.
    #[derive(Debug)]
    struct Anything;

    impl ServerCertVerifier for Anything {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }

    /// What a handshake came to: the leaf that was shown and the protocol agreed on.
    type Shown = Option<(Vec<u8>, Option<Vec<u8>>)>;

    fn shake(config: &Arc<ServerConfig>, name: &str, protocols: &[&[u8]]) -> Shown {
        let mut wanted = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anything))
            .with_no_client_auth();
        wanted.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(wanted), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(config)).unwrap();
        for _ in 0..4 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut read = &*wire;
            while !read.is_empty() {
                server.read_tls(&mut read).unwrap();
                server.process_new_packets().ok()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut read = &*wire;
            while !read.is_empty() {
                client.read_tls(&mut read).unwrap();
                client.process_new_packets().ok()?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let leaf = client.peer_certificates()?.first()?.to_vec();
        Some((leaf, client.alpn_protocol().map(<[u8]>::to_vec)))
    }

    fn leaf(certificate: &Certificate) -> Vec<u8> {
        certificate.key.cert[0].to_vec()
    }

    #[test]
    fn handshakes_get_the_certificate_of_their_name_or_none() {
        let table = Arc::new(CertificateTable::new("", Arc::default()));
        let (a, b) = (certificate(&["a.example"]), certificate(&["*.b.example"]));
        table.put_issued("a.example", a.clone());
        table.replace_files([Arc::new(b.clone())]);
        let config = server_config(Arc::clone(&table)).unwrap();
        let both: &[&[u8]] = &[b"h2", b"http/1.1"];
        assert_eq!(shake(&config, "a.example", both), Some((leaf(&a), Some(b"h2".to_vec()))));
        let one: &[&[u8]] = &[b"http/1.1"];
        assert_eq!(shake(&config, "X.B.Example", one), Some((leaf(&b), Some(b"http/1.1".to_vec()))));
        for unknown in ["c.example", "b.example", "x.y.b.example", "127.0.0.1"] {
            assert_eq!(shake(&config, unknown, both), None, "{unknown}");
        }
        // Another certificate takes its place without another configuration.
        let newer = certificate(&["a.example"]);
        table.put_issued("a.example", newer.clone());
        assert_eq!(shake(&config, "a.example", both).unwrap().0, leaf(&newer));
    }

    #[test]
    fn unknown_names_get_the_default_where_one_is_set() {
        let table = Arc::new(CertificateTable::new("a.example", Arc::default()));
        let config = server_config(Arc::clone(&table)).unwrap();
        assert_eq!(shake(&config, "c.example", &[b"h2"]), None);
        let a = certificate(&["a.example"]);
        table.put_issued("a.example", a.clone());
        assert_eq!(shake(&config, "c.example", &[b"h2"]).unwrap().0, leaf(&a));
    }

    #[test]
    fn an_issuer_gets_the_challenge_certificate_and_nobody_else_does() {
        let challenges = Arc::new(Challenges::default());
        let table = Arc::new(CertificateTable::new("a.example", Arc::clone(&challenges)));
        let a = certificate(&["a.example"]);
        table.put_issued("a.example", a.clone());
        let config = server_config(table).unwrap();
        let issuer: &[&[u8]] = &[ACME_PROTOCOL];
        // No challenge: no certificate, not even the real or the default one.
        assert_eq!(shake(&config, "a.example", issuer), None);
        let asked = Outstanding {
            hostname: "a.example".into(),
            kind: ChallengeKind::TlsAlpn01,
            token: "t".into(),
            key_authorization: "t.thumb".into(),
        };
        challenges.replace(1, vec![asked]);
        let answer = challenges.tls_alpn01("a.example").unwrap();
        let shown = shake(&config, "a.example", issuer);
        assert_eq!(shown, Some((answer.cert[0].to_vec(), Some(ACME_PROTOCOL.to_vec()))));
        assert_eq!(shake(&config, "b.example", issuer), None);
        assert_eq!(shake(&config, "a.example", &[b"h2", ACME_PROTOCOL]), None);
        assert_eq!(shake(&config, "a.example", &[b"h2"]).unwrap().0, leaf(&a));
    }
}
