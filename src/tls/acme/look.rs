//! Our own look before an order: does a name lead to this installation? Asked as an issuer would ask, and answered
//! by every server of it from one secret, so that nothing is stored and nobody else can answer.
//! Connects to addresses that were judged, and to no other.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use reqwest::redirect::{Attempt, Policy};
use secrecy::{ExposeSecret, SecretSlice};
use sha2::Sha256;

/// Hops that stay on the name: a proxy before us may send everybody to HTTPS, and issuers follow that.
const HOPS: usize = 3;
const NONCE_BYTES: usize = 16;

/// What answers looks.
#[derive(Debug)]
pub struct Looks(SecretSlice<u8>);

impl Looks {
    /// How tokens of looks begin; no issuer's does, for they have no dot.
    pub const PREFIX: &str = "libra.look.";

    /// `key`: derived from the installation's secret, for this purpose alone.
    #[must_use]
    pub fn new(key: SecretSlice<u8>) -> Self {
        Self(key)
    }

    /// The answer on `host` to a token of ours; nothing to another.
    #[must_use]
    pub fn answer(&self, host: &str, token: &str) -> Option<String> {
        let nonce = token.strip_prefix(Self::PREFIX)?;
        let is_ours = nonce.len() == 2 * NONCE_BYTES && nonce.bytes().all(|b| b.is_ascii_hexdigit());
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(self.0.expose_secret()).ok().filter(|_| is_ours)?;
        mac.update(host.as_bytes());
        mac.update(b"\0");
        mac.update(token.as_bytes());
        Some(hex::encode(mac.finalize().into_bytes()))
    }

    /// A token that nobody has seen before.
    #[must_use]
    pub fn token() -> Option<String> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).ok()?;
        Some(format!("{}{}", Self::PREFIX, hex::encode(nonce)))
    }
}

/// Who answered at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Ours,
    SomebodyElse,
    Nobody,
}

/// Asks for a token at the first of `ports` of `hostname`, where that is `address`, and expects its answer; whoever
/// answers may send us to the other port.
pub async fn ask(
    hostname: &str,
    address: IpAddr,
    ports: [u16; 2],
    (token, answer): (&str, &str),
    patience: Duration,
) -> Seen {
    let of_name = hostname.to_owned();
    let follow = move |attempt: Attempt<'_>| {
        let url = attempt.url();
        let is_here = url.host_str() == Some(&of_name)
            && url.port_or_known_default().is_some_and(|port| ports.contains(&port));
        if is_here && attempt.previous().len() <= HOPS { attempt.follow() } else { attempt.stop() }
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .resolve(hostname, SocketAddr::new(address, 0))
        .redirect(Policy::custom(follow))
        .timeout(patience)
        // There may be no certificate yet, and the answer proves itself.
        .tls_danger_accept_invalid_certs(true)
        .build();
    let Ok(client) = client else { return Seen::Nobody };
    let url = format!("http://{hostname}:{}/.well-known/acme-challenge/{token}", ports[0]);
    let Ok(mut response) = client.get(url).send().await else { return Seen::Nobody };
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > answer.len() {
            break;
        }
    }
    if body == answer.as_bytes() { Seen::Ours } else { Seen::SomebodyElse }
}

/// Whether anybody takes connections there.
pub async fn listens(address: SocketAddr, patience: Duration) -> bool {
    let connecting = tokio::net::TcpStream::connect(address);
    matches!(tokio::time::timeout(patience, connecting).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_answers_and_only_for_its_name_and_token() {
        let looks = Looks::new(SecretSlice::from(vec![7; 32]));
        let token = Looks::token().unwrap();
        let answer = looks.answer("a.example", &token).unwrap();
        assert_eq!(looks.answer("a.example", &token).unwrap(), answer);
        assert_ne!(looks.answer("b.example", &token).unwrap(), answer);
        assert_ne!(looks.answer("a.example", &Looks::token().unwrap()).unwrap(), answer);
        assert_ne!(Looks::new(SecretSlice::from(vec![8; 32])).answer("a.example", &token).unwrap(), answer);
        for other in ["libra.look.", "libra.look.zz", "t1", &token[..token.len() - 1]] {
            assert_eq!(looks.answer("a.example", other), None, "{other}");
        }
    }
}
