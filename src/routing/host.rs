//! Owns whom a host belongs to: the platform, a Worker by its label, or a custom domain.
//! Never looks into a table, and allocates nothing for a host that is already in its stored form.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use crate::domain::hostname::{Hostname, HostnameError, strip_port};
use crate::domain::worker_name::{WorkerName, WorkerNameError};
use crate::routing::refusal::EdgeRefusal;

/// The rules that come from the settings `domains.*`; they hold for the life of the process.
#[derive(Debug, Clone)]
pub struct HostRules {
    base: Box<str>,
    platform_hosts: Vec<Box<str>>,
    reserved: Vec<String>,
}

/// Whom a host belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostClass<'h> {
    Platform,
    /// The one label before the base domain, in lower case, not yet checked against any rule.
    Worker(Cow<'h, str>),
    /// A host in its stored form.
    Custom(Cow<'h, str>),
}

impl HostRules {
    pub fn new(
        base: &str,
        platform_hosts: &[String],
        reserved: &[String],
    ) -> Result<HostRules, HostnameError> {
        let stored = |host: &String| Hostname::parse(host).map(|host| host.as_str().into());
        Ok(HostRules {
            base: Hostname::parse(base)?.as_str().into(),
            platform_hosts: platform_hosts.iter().map(stored).collect::<Result<_, _>>()?,
            reserved: reserved.to_vec(),
        })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn reserved(&self) -> &[String] {
        &self.reserved
    }

    /// `authority` as the client sent it, with or without a port.
    pub fn classify<'h>(&self, authority: &'h str) -> Result<HostClass<'h>, EdgeRefusal> {
        let host = strip_port(authority).map_err(|_| EdgeRefusal::InvalidHost)?;
        let host = host.strip_suffix('.').unwrap_or(host);
        // A second port or last dot would be taken off further down.
        if host.ends_with('.') || host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(EdgeRefusal::InvalidHost);
        }
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(host.to_ascii_lowercase())
        } else {
            Cow::Borrowed(host)
        };
        if self.is_platform(&host) {
            return Ok(HostClass::Platform);
        }
        // A Worker's label is judged by the Worker rules, whose messages say more than "invalid host".
        if host.is_ascii()
            && let Some(label_bytes) = self.bytes_before_base(&host)
        {
            return label(host, label_bytes);
        }
        self.classify_other(host)
    }

    /// The refusal for a label that no table knows.
    pub fn unknown_worker(&self, label: &str) -> EdgeRefusal {
        match WorkerName::parse(label, &self.reserved) {
            Ok(_) => EdgeRefusal::WorkerNotFound,
            Err(error @ WorkerNameError::Reserved { .. }) => {
                EdgeRefusal::ReservedSubdomain { message: error.to_string() }
            }
            Err(error) => EdgeRefusal::InvalidWorkerName { message: error.to_string() },
        }
    }

    fn is_platform(&self, host: &str) -> bool {
        *host == *self.base
            || host == "localhost"
            || self.platform_hosts.iter().any(|platform| **platform == *host)
            || (host.starts_with(|first: char| first.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_ok())
    }

    fn bytes_before_base(&self, host: &str) -> Option<usize> {
        host.strip_suffix(&*self.base)?.strip_suffix('.').map(str::len)
    }

    fn classify_other<'h>(&self, host: Cow<'h, str>) -> Result<HostClass<'h>, EdgeRefusal> {
        let stored = Hostname::parse(&host).map_err(|_| EdgeRefusal::InvalidHost)?;
        if stored.is_ip_literal() || self.is_platform(stored.as_str()) {
            return Ok(HostClass::Platform);
        }
        // Only an internationalized spelling of the base can end here.
        if let Some(label_bytes) = self.bytes_before_base(stored.as_str()) {
            return label(Cow::Owned(stored.as_str().to_owned()), label_bytes);
        }
        if *stored.as_str() == *host {
            Ok(HostClass::Custom(host))
        } else {
            Ok(HostClass::Custom(Cow::Owned(stored.as_str().to_owned())))
        }
    }
}

fn label(host: Cow<'_, str>, label_bytes: usize) -> Result<HostClass<'_>, EdgeRefusal> {
    if host[..label_bytes].contains('.') || label_bytes == 0 {
        return Err(EdgeRefusal::InvalidWorkerName { message: "Invalid worker name".to_owned() });
    }
    Ok(HostClass::Worker(match host {
        Cow::Borrowed(host) => Cow::Borrowed(&host[..label_bytes]),
        Cow::Owned(mut host) => {
            host.truncate(label_bytes);
            Cow::Owned(host)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> HostRules {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        HostRules::new("libra.localhost", &list(&["console.example.com"]), &list(&["shop"])).unwrap()
    }

    #[test]
    fn hosts_belong_to_the_platform_a_worker_or_a_domain() {
        let rules = rules();
        let worker = |name: &'static str| Ok(HostClass::Worker(name.into()));
        let custom = |name: &'static str| Ok(HostClass::Custom(name.into()));
        for (host, expected) in [
            ("libra.localhost", Ok(HostClass::Platform)),
            ("LIBRA.localhost.:3008", Ok(HostClass::Platform)),
            ("localhost:3008", Ok(HostClass::Platform)),
            ("127.0.0.1:3008", Ok(HostClass::Platform)),
            ("[::1]:3008", Ok(HostClass::Platform)),
            ("console.example.com", Ok(HostClass::Platform)),
            ("blog.libra.localhost", worker("blog")),
            ("Blog.Libra.Localhost:3005", worker("blog")),
            ("blog.libra.localhost.", worker("blog")),
            ("my_app.libra.localhost", worker("my_app")),
            ("www.example.com", custom("www.example.com")),
            ("BÜCHER.example", custom("xn--bcher-kva.example")),
            ("badlibra.localhost", custom("badlibra.localhost")),
            ("a_b.example.com", Err(EdgeRefusal::InvalidHost)),
            ("", Err(EdgeRefusal::InvalidHost)),
            ("a.com:http", Err(EdgeRefusal::InvalidHost)),
            ("blog.libra.localhost..", Err(EdgeRefusal::InvalidHost)),
            ("a.com:80:80", Err(EdgeRefusal::InvalidHost)),
            ("blog.libra.localhost:80:80", Err(EdgeRefusal::InvalidHost)),
            ("[::1]:80:80", Err(EdgeRefusal::InvalidHost)),
        ] {
            assert_eq!(rules.classify(host), expected, "{host}");
        }
    }

    #[test]
    fn two_labels_are_never_a_worker() {
        let refused = rules().classify("a.b.libra.localhost");
        assert_eq!(
            refused,
            Err(EdgeRefusal::InvalidWorkerName { message: "Invalid worker name".to_owned() })
        );
        for host in [".libra.localhost", "evil.com/blog.libra.localhost"] {
            assert!(matches!(rules().classify(host), Err(EdgeRefusal::InvalidWorkerName { .. })), "{host}");
        }
    }

    #[test]
    fn a_label_nobody_knows_is_refused_with_the_guides_words() {
        let rules = rules();
        assert_eq!(rules.unknown_worker("blog"), EdgeRefusal::WorkerNotFound);
        assert_eq!(
            rules.unknown_worker("shop"),
            EdgeRefusal::ReservedSubdomain { message: "Subdomain 'shop' is reserved".to_owned() }
        );
        assert!(matches!(rules.unknown_worker("my_app"), EdgeRefusal::InvalidWorkerName { .. }));
    }

    proptest! {
        #[test]
        fn case_changes_nothing_and_what_is_stored_is_found_as_itself(
            host in "(\\PC{0,12}|[a-zA-Z0-9.:@_/%é。\\[\\]-]{0,30})(\\.libra\\.localhost)?\\.?(:[0-9]{0,6})?"
        ) {
            let rules = rules();
            let upper = host.to_ascii_uppercase();
            let class = rules.classify(&host);
            prop_assert_eq!(&class, &rules.classify(&upper));
            match class {
                Ok(HostClass::Worker(label)) => prop_assert!(!label.is_empty() && !label.contains('.')),
                Ok(HostClass::Custom(name)) => {
                    prop_assert!(name.is_ascii() && !name.ends_with(".libra.localhost"), "{}", name);
                    prop_assert!(!name.contains(['@', '/', ':', '%', ' ', '\\']), "{}", name);
                    prop_assert_eq!(rules.classify(&name), Ok(HostClass::Custom(name.as_ref().into())));
                }
                Ok(HostClass::Platform) | Err(_) => {}
            }
        }

        #[test]
        fn what_is_classified_is_in_lower_case_without_a_last_dot(host in "[a-zA-Z0-9.:_é\\[\\]-]{0,30}(\\.libra\\.localhost)?(:[0-9]{1,5})?") {
            if let Ok(HostClass::Worker(name) | HostClass::Custom(name)) = rules().classify(&host) {
                prop_assert!(!name.is_empty() && !name.ends_with('.'));
                prop_assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase()));
            }
        }
    }
}
