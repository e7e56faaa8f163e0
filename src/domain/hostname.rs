//! Owns how a host is read from an authority (`Host`, `:authority`, a domain somebody typed) and its one stored form.
//! Never decides whom a host belongs to: that is `routing`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::Serialize;

/// Longest name in the DNS, without the trailing dot (RFC 1035).
pub const MAX_HOST_BYTES: usize = 253;

/// A host in the one form in which hosts are stored and compared:
/// lower-case A-labels without port and trailing dot, or an IP literal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub struct Hostname(Form);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Form {
    Name(Box<str>),
    Ip(IpAddr, Box<str>),
}

/// Why a host was refused; each text completes the sentence "the host …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    #[error("is empty")]
    Empty,
    #[error("has a port that is no number up to 65535")]
    Port,
    #[error("has an unclosed or malformed IPv6 literal")]
    Ipv6,
    #[error("ends in a number but is no IPv4 address")]
    Ipv4,
    #[error("is longer than 253 characters")]
    TooLong,
    #[error("has an empty label or one longer than 63 characters, or starts or ends a label with a hyphen")]
    Label,
    #[error("contains a character that no host name may have")]
    Characters,
    #[error("is no valid internationalized name")]
    Idna,
}

impl Hostname {
    /// Parses `host[:port]`; the port is dropped.
    pub fn parse(authority: &str) -> Result<Hostname, HostnameError> {
        let host = strip_port(authority)?;
        if let Some(inner) = host.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostnameError::Ipv6)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| HostnameError::Ipv6)?;
            return Ok(Hostname(Form::Ip(address.into(), format!("[{address}]").into())));
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err(HostnameError::Empty);
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return Ok(Hostname(Form::Ip(address.into(), address.to_string().into())));
        }
        let name = to_a_labels(host)?;
        // What a browser would read as an odd spelling of an IPv4 address (`127.1`) must not become a domain.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(HostnameError::Ipv4);
        }
        Ok(Hostname(Form::Name(name)))
    }

    /// The stored form; an IPv6 literal keeps its brackets.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Form::Name(name) => name,
            Form::Ip(_, text) => text,
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        match &self.0 {
            Form::Name(_) => None,
            Form::Ip(address, _) => Some(*address),
        }
    }

    pub fn is_ip_literal(&self) -> bool {
        self.ip().is_some()
    }

    /// Whether this is `other` or a name beneath it.
    pub fn is_same_or_under(&self, other: &Hostname) -> bool {
        match (&self.0, &other.0) {
            (Form::Name(name), Form::Name(parent)) => {
                name.strip_suffix(&**parent).is_some_and(|front| front.is_empty() || front.ends_with('.'))
            }
            (mine, theirs) => mine == theirs,
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<Hostname> for String {
    fn from(host: Hostname) -> String {
        host.as_str().to_owned()
    }
}

/// The authority without its port. Allocates nothing; looks at nothing but the port.
pub fn strip_port(authority: &str) -> Result<&str, HostnameError> {
    let (host, port) = match authority.rfind(':') {
        // Inside brackets a colon belongs to the address.
        Some(at) if !authority[at..].contains(']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, ""),
    };
    let port_is_fine = port.len() <= 5
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok());
    if !port_is_fine {
        return Err(HostnameError::Port);
    }
    if host.is_empty() { Err(HostnameError::Empty) } else { Ok(host) }
}

fn to_a_labels(host: &str) -> Result<Box<str>, HostnameError> {
    // An ASCII name needs no tables unless it claims to be encoded already.
    let is_plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let name = if is_plain && !contains_ace(host) {
        host.to_ascii_lowercase()
    } else if host.is_ascii() && !is_plain {
        return Err(HostnameError::Characters);
    } else {
        Uts46::new()
            .to_ascii(host.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map_err(|_| HostnameError::Idna)?
            .into_owned()
    };
    if name.len() > MAX_HOST_BYTES {
        return Err(HostnameError::TooLong);
    }
    let label_is_fine =
        |label: &str| (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-');
    if !name.split('.').all(label_is_fine) {
        return Err(HostnameError::Label);
    }
    Ok(name.into_boxed_str())
}

fn contains_ace(host: &str) -> bool {
    host.split('.').any(|label| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_stored_form_for_every_spelling() {
        for (input, stored) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:8080", "example.com"),
            ("example.com:", "example.com"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("xn--bcher-KVA.example:443", "xn--bcher-kva.example"),
            ("ab--cd.example", "ab--cd.example"),
            ("127.0.0.1:3008", "127.0.0.1"),
            ("[::1]:3008", "[::1]"),
            ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ] {
            assert_eq!(Hostname::parse(input).map(String::from), Ok(stored.to_owned()), "{input}");
        }
        assert!(Hostname::parse("[::1]").unwrap().is_ip_literal());
        assert!(!Hostname::parse("localhost").unwrap().is_ip_literal());
    }

    #[test]
    fn hosts_that_could_mean_two_things_are_refused() {
        for (input, reason) in [
            ("", HostnameError::Empty),
            (".", HostnameError::Empty),
            (":80", HostnameError::Empty),
            ("a.com:99999", HostnameError::Port),
            ("a.com:8o", HostnameError::Port),
            ("a.com:-1", HostnameError::Port),
            ("[::1", HostnameError::Ipv6),
            ("[::g]", HostnameError::Ipv6),
            ("127.1", HostnameError::Ipv4),
            ("1.2.3.4.5", HostnameError::Ipv4),
            ("a..com", HostnameError::Label),
            ("a.com..", HostnameError::Label),
            ("-a.com", HostnameError::Label),
            ("a_b.com", HostnameError::Characters),
            ("a b.com", HostnameError::Characters),
            ("user@a.com", HostnameError::Characters),
            ("a.com/x", HostnameError::Characters),
            ("xn--a.com", HostnameError::Idna),
        ] {
            assert_eq!(Hostname::parse(input).map(String::from), Err(reason), "{input}");
        }
        assert!(Hostname::parse(&format!("{}.com", "a".repeat(64))).is_err());
        assert!(Hostname::parse(&"a.".repeat(150)).is_err());
    }

    #[test]
    fn a_parent_is_found_at_label_borders_only() {
        let host = |text: &str| Hostname::parse(text).unwrap();
        assert!(host("a.example.com").is_same_or_under(&host("example.com")));
        assert!(host("example.com").is_same_or_under(&host("example.com")));
        assert!(!host("badexample.com").is_same_or_under(&host("example.com")));
    }

    proptest! {
        #[test]
        fn the_stored_form_parses_to_itself(input in "\\PC{0,40}|[a-zA-Z0-9.:\\[\\]-]{0,40}") {
            if let Ok(host) = Hostname::parse(&input) {
                prop_assert_eq!(Hostname::parse(host.as_str()), Ok(host.clone()));
                prop_assert_eq!(Hostname::parse(&format!("{host}:3008")), Ok(host));
            }
        }
    }
}
