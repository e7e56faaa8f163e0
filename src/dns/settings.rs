//! Which name servers are asked, and how patiently.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

const PORT: u16 = 53;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub servers: Vec<String>,
    pub timeout_ms: u64,
    pub attempts: usize,
}

impl Settings {
    /// The longest that one question takes, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> u64 {
        self.timeout_ms.saturating_mul(self.attempts as u64 + 1)
    }

    /// Every mistake as `(key, what is allowed)`.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.servers.iter().any(|s| server(s).is_none()) {
            found.push(("domains.dns.servers", "must be IP addresses, with :PORT where it is not 53"));
        }
        if !(100..=30_000).contains(&self.timeout_ms) {
            found.push(("domains.dns.timeout_ms", "must be 100 to 30000"));
        }
        if !(1..=10).contains(&self.attempts) {
            found.push(("domains.dns.attempts", "must be 1 to 10"));
        }
        found
    }
}

/// `IP` or `IP:PORT`.
pub(super) fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_address_with_or_without_a_port() {
        for (text, address) in [
            ("9.9.9.9", Some("9.9.9.9:53")),
            ("127.0.0.1:5353", Some("127.0.0.1:5353")),
            ("2620:fe::fe", Some("[2620:fe::fe]:53")),
            ("[::1]:53", Some("[::1]:53")),
            ("dns.example", None),
        ] {
            assert_eq!(server(text).map(|a| a.to_string()).as_deref(), address, "{text}");
        }
    }
}
