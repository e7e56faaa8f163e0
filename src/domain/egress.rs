//! The hosts that a project's builds may call, as people write them: `host`, `host:port`, `*.host`.
//! Owns their one stored form and whether one matches; what an allowed name resolves to is not its concern.

use std::fmt;

use super::hostname::{Hostname, MAX_HOST_BYTES};

/// What a line without a port means: builds fetch over TLS.
const DEFAULT_PORT: u16 = 443;

/// One line of an allow-list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressHost {
    /// Names beneath `name`, not `name` itself.
    beneath: bool,
    name: String,
    port: u16,
}

/// Why a line was refused; each text completes the sentence "the host …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EgressHostError {
    #[error("is no host name; write it as in api.example.com, api.example.com:8443 or *.example.com")]
    Name,
    #[error("is an IP address; name the host")]
    Address,
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    #[error("stands for a whole public suffix; name the domain beneath it")]
    TooWide,
}

impl EgressHost {
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(text: &str) -> Result<Self, EgressHostError> {
        if text.len() > MAX_HOST_BYTES + 8 {
            return Err(EgressHostError::Name);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => {
                let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
                (host, number.filter(|p| *p > 0).ok_or(EgressHostError::Port)?)
            }
            _ => (text, DEFAULT_PORT),
        };
        let (beneath, host) = host.strip_prefix("*.").map_or((false, host), |rest| (true, rest));
        let name = Hostname::parse(host).map_err(|_| EgressHostError::Name)?;
        if name.is_ip_literal() {
            return Err(EgressHostError::Address);
        }
        let name = name.as_str().to_owned();
        if beneath && psl::domain_str(&name).is_none() {
            return Err(EgressHostError::TooWide);
        }
        Ok(Self { beneath, name, port })
    }

    /// Whether a connection to `name` (lower case, no trailing dot) and `port` is meant.
    #[must_use]
    pub fn matches(&self, name: &str, port: u16) -> bool {
        self.port == port
            && if self.beneath {
                name.strip_suffix(&*self.name).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            } else {
                name == self.name
            }
    }
}

impl fmt::Display for EgressHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.beneath {
            f.write_str("*.")?;
        }
        f.write_str(&self.name)?;
        if self.port == DEFAULT_PORT { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_one_form_and_match_what_they_say() {
        for (text, shown) in [
            ("API.Example.com", "api.example.com"),
            ("api.example.com.", "api.example.com"),
            ("api.example.com:443", "api.example.com"),
            ("cms.example.com:8443", "cms.example.com:8443"),
            ("*.example.com", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(EgressHost::parse(text).unwrap().to_string(), shown);
        }
        let line = |text| EgressHost::parse(text).unwrap();
        assert!(line("a.test").matches("a.test", 443));
        assert!(!line("a.test").matches("a.test", 80));
        assert!(!line("a.test").matches("b.a.test", 443));
        assert!(!line("a.test").matches("evila.test", 443));
        assert!(line("*.a.test").matches("b.a.test", 443) && line("*.a.test").matches("c.b.a.test", 443));
        assert!(!line("*.a.test").matches("a.test", 443) && !line("*.a.test").matches("evila.test", 443));
        assert!(!line("*.a.test").matches(".a.test", 443));
    }

    #[test]
    fn addresses_and_whole_suffixes_are_refused() {
        for (text, why) in [
            ("10.0.0.1", EgressHostError::Address),
            ("[::1]:443", EgressHostError::Address),
            ("127.0.0.1:80", EgressHostError::Address),
            ("*", EgressHostError::Name),
            ("*.com", EgressHostError::TooWide),
            ("*.co.uk", EgressHostError::TooWide),
            ("a.*.com", EgressHostError::Name),
            ("a.test:0", EgressHostError::Port),
            ("a.test:70000", EgressHostError::Port),
            ("a.test:", EgressHostError::Port),
            ("https://a.test", EgressHostError::Port),
            ("", EgressHostError::Name),
        ] {
            assert_eq!(EgressHost::parse(text), Err(why), "{text}");
        }
    }
}
