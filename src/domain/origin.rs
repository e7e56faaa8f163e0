//! Where an upstream Worker is reached: `http://host[:port]`, `https://host[:port]` or `unix:/absolute/path`.
//! Owns the one stored form; whether an origin may be connected to is [`super::upstream`]'s question.

use std::fmt;

use super::hostname::{Hostname, HostnameError};

/// Longest path of a socket that every kernel takes, without the closing NUL.
pub const MAX_SOCKET_BYTES: usize = 107;
/// Scheme, host and port at their longest.
pub const MAX_ORIGIN_CHARS: usize = 280;

/// One origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    Http {
        host: Hostname,
        port: u16,
        tls: bool,
    },
    /// An absolute path without `.`, `..` and empty parts.
    Unix(Box<str>),
}

/// Why an origin was refused; each text completes the sentence "the origin …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    #[error("must begin with http://, https:// or unix:/")]
    Scheme,
    #[error("has more than scheme, host and port; paths and queries come from the requests")]
    Rest,
    #[error("has a user or password; a header of the application is the place for secrets")]
    User,
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    #[error("has a host that {0}")]
    Host(#[from] HostnameError),
    #[error("has a socket path that is not absolute and plain, or longer than 107 bytes")]
    Socket,
}

impl Origin {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let scheme = |name: &str| {
            let start = text.get(..name.len())?;
            start.eq_ignore_ascii_case(name).then(|| &text[name.len()..])
        };
        if let Some(path) = scheme("unix:") {
            return socket(path);
        }
        let (authority, tls) = match (scheme("http://"), scheme("https://")) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ => return Err(OriginError::Scheme),
        };
        if authority.contains('@') {
            return Err(OriginError::User);
        }
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(OriginError::Rest);
        }
        let host = Hostname::parse(authority)?;
        if spells_an_address(&host) {
            return Err(OriginError::Host(HostnameError::Ipv4));
        }
        let port = match port_of(authority) {
            None => default_port(tls),
            Some(digits) => {
                let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok());
                number.flatten().filter(|port| *port > 0).ok_or(OriginError::Port)?
            }
        };
        Ok(Self::Http { host, port, tls })
    }

    /// What `Host` is where an origin wants its own name: the port only where it is not the scheme's.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Http { host, port, tls } if *port == default_port(*tls) => host.to_string(),
            Self::Http { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// What stands behind the host's colon; an IPv6 literal has colons of its own.
fn port_of(authority: &str) -> Option<&str> {
    let behind = authority.rfind(']').map_or(0, |at| at + 1);
    authority[behind..].rsplit_once(':').map(|(_, port)| port)
}

/// Resolvers read `0x7f000001` as an address.
fn spells_an_address(host: &Hostname) -> bool {
    let last = host.as_str().rsplit('.').next().unwrap_or_default();
    let hex = |digits: &str| digits.bytes().all(|b| b.is_ascii_hexdigit());
    !host.is_ip_literal() && last.strip_prefix("0x").is_some_and(hex)
}

fn socket(path: &str) -> Result<Origin, OriginError> {
    let parts = path.strip_prefix('/').ok_or(OriginError::Scheme)?;
    let plain = parts.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.chars().any(char::is_control)
        && path.len() <= MAX_SOCKET_BYTES;
    if plain { Ok(Origin::Unix(path.into())) } else { Err(OriginError::Socket) }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { tls, .. } => {
                write!(f, "{}://{}", if *tls { "https" } else { "http" }, self.authority())
            }
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn origins_have_one_form() {
        for (text, shown) in [
            ("http://App.Example.com", "http://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("HTTPS://app.example.com:8443", "https://app.example.com:8443"),
            ("http://app.example.com.:08080", "http://app.example.com:8080"),
            ("http://10.0.0.1:3000", "http://10.0.0.1:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
            ("http://bücher.example", "http://xn--bcher-kva.example"),
            ("unix:/run/app/http.sock", "unix:/run/app/http.sock"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), shown, "{text}");
        }
        let unix = Origin::parse("unix:/run/app.sock").unwrap();
        assert_eq!(unix.authority(), "localhost");
    }

    #[test]
    fn whatever_is_more_than_an_origin_is_refused() {
        for (text, why) in [
            ("", OriginError::Scheme),
            ("app.example.com", OriginError::Scheme),
            ("ftp://app.example.com", OriginError::Scheme),
            ("http:/app.example.com", OriginError::Scheme),
            ("http://", OriginError::Host(HostnameError::Empty)),
            ("http://app.example.com/", OriginError::Rest),
            ("http://app.example.com/path", OriginError::Rest),
            ("http://app.example.com?x", OriginError::Rest),
            ("http://app.example.com#x", OriginError::Rest),
            ("http://app.example.com\\x", OriginError::Rest),
            ("http://user:secret@app.example.com", OriginError::User),
            ("http://app.example.com:0", OriginError::Port),
            ("http://app.example.com:", OriginError::Port),
            ("http://app.example.com:+80", OriginError::Host(HostnameError::Port)),
            ("http://app.example.com:65536", OriginError::Host(HostnameError::Port)),
            ("http://127.1", OriginError::Host(HostnameError::Ipv4)),
            ("http://2130706433", OriginError::Host(HostnameError::Ipv4)),
            ("http://0x7f000001", OriginError::Host(HostnameError::Ipv4)),
            ("http://0x7f.0.0.0x1", OriginError::Host(HostnameError::Ipv4)),
            ("http://a b", OriginError::Host(HostnameError::Characters)),
            ("http://[::1", OriginError::Host(HostnameError::Ipv6)),
            ("unix:relative.sock", OriginError::Scheme),
            ("unix:/", OriginError::Socket),
            ("unix:/run/../etc/app.sock", OriginError::Socket),
            ("unix:/run//app.sock", OriginError::Socket),
            ("unix:/run/./app.sock", OriginError::Socket),
            ("unix:/run/app\0.sock", OriginError::Socket),
        ] {
            assert_eq!(Origin::parse(text), Err(why), "{text}");
        }
        assert_eq!(Origin::parse(&format!("unix:/{}", "x".repeat(107))), Err(OriginError::Socket));
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_parsed_again_from_its_form(text in "(?i)(https?://[a-z0-9.:\\[\\]@/_é-]{0,30}|unix:/[a-z./ ]{0,30}|\\PC{0,30})") {
            if let Ok(origin) = Origin::parse(&text) {
                let shown = origin.to_string();
                prop_assert!(shown.len() <= MAX_ORIGIN_CHARS);
                prop_assert_eq!(Origin::parse(&shown), Ok(origin));
            }
        }
    }
}
