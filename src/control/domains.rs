//! The addresses that we print, and which custom domains may be claimed.

use crate::domain::hostname::Hostname;
use crate::domain::proof::MAX_PROVABLE_BYTES;

/// Scheme, base domain and port of every address we print.
#[derive(Debug, Clone)]
pub struct Addresses {
    scheme: String,
    base: String,
    /// With its colon, or empty.
    port: String,
}

impl Addresses {
    /// `public_url` gives scheme and port; without one, plain HTTP on the first listener's port.
    #[must_use]
    pub fn new(base: &str, public_url: &str, listen_port: u16) -> Self {
        let (scheme, rest) = public_url.split_once("://").unwrap_or(("http", ""));
        let port = match rest.trim_end_matches('/').rsplit_once(':') {
            Some((_, port)) => format!(":{port}"),
            None if rest.is_empty() && listen_port != 80 => format!(":{listen_port}"),
            None => String::new(),
        };
        Self { scheme: scheme.into(), base: base.into(), port }
    }

    #[must_use]
    pub fn platform(&self) -> String {
        format!("{}://{}{}", self.scheme, self.base, self.port)
    }

    /// The host of a Worker or preview label, without a port.
    #[must_use]
    pub fn host(&self, label: &str) -> String {
        format!("{label}.{}", self.base)
    }

    #[must_use]
    pub fn worker(&self, label: &str) -> String {
        format!("{}://{}{}", self.scheme, self.host(label), self.port)
    }
}

/// Whether a claim on `hostname` may be made at all; the text says why not.
///
/// # Errors
/// With what is wrong, fit for the person who asked.
pub fn claimable(hostname: &Hostname, base: &str, platform_hosts: &[String]) -> Result<(), &'static str> {
    let name = hostname.as_str();
    if hostname.is_ip_literal() {
        return Err("must be a domain name, not an IP address");
    }
    for own in std::iter::once(base).chain(platform_hosts.iter().map(String::as_str)) {
        let under = |a: &str, b: &str| a == b || a.strip_suffix(b).is_some_and(|rest| rest.ends_with('.'));
        if under(name, own) || under(own, name) {
            return Err("belongs to the platform; use a domain of your own");
        }
    }
    if name.len() > MAX_PROVABLE_BYTES {
        return Err("is too long: the name of its TXT record would have more than 253 characters");
    }
    let registrable = psl::domain_str(name);
    if registrable.is_none() || !name.contains('.') {
        return Err("is a public suffix; use a domain registered beneath it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_scheme_and_port_from_the_public_url() {
        assert_eq!(
            Addresses::new("libra.sh", "https://libra.sh", 3008).worker("app"),
            "https://app.libra.sh"
        );
        assert_eq!(Addresses::new("libra.sh", "", 3008).worker("app"), "http://app.libra.sh:3008");
        assert_eq!(Addresses::new("l.test", "http://l.test:8080/", 1).platform(), "http://l.test:8080");
    }

    #[test]
    fn platform_names_suffixes_and_addresses_cannot_be_claimed() {
        let platform = ["console.example.org".to_owned()];
        for bad in
            ["libra.sh", "app.libra.sh", "console.example.org", "example.org", "co.uk", "com", "127.0.0.1"]
        {
            let host = Hostname::parse(bad).unwrap();
            assert!(claimable(&host, "libra.sh", &platform).is_err(), "{bad}");
        }
        let long = format!("{}.example.com", vec!["a".repeat(60); 4].join("."));
        let long = Hostname::parse(&long[long.len() - 247..]).unwrap();
        assert!(claimable(&long, "libra.sh", &platform).is_err());
        let host = Hostname::parse("shop.example.com").unwrap();
        assert_eq!(claimable(&host, "libra.sh", &platform), Ok(()));
    }
}
