//! The settings of TLS and of getting certificates, and what can be known of them without trying.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::domain::certificate::Backoff;
use crate::domain::hostname::Hostname;
use crate::domain::{Budget, ChallengeKind};

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: Vec<String>,
    pub redirect: bool,
    pub certificates: Vec<String>,
    pub default_name: String,
    pub public_port: u16,
    pub file_poll_ms: u64,
    pub poll_ms: u64,
    pub kept_certificates: usize,
    pub acme: Acme,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    pub enabled: bool,
    pub terms_agreed: bool,
    pub contact: Vec<String>,
    pub directory: String,
    pub eab_key_id: String,
    pub eab_hmac_key: SecretString,
    pub second_directory: String,
    pub second_eab_key_id: String,
    pub second_eab_hmac_key: SecretString,
    pub ca_file: String,
    pub challenges: Vec<String>,
    pub look_first: bool,
    pub http_port: u16,
    pub tls_port: u16,
    pub look_timeout_ms: u64,
    pub look_again_seconds: u64,
    pub renew_percent: u8,
    pub renewal_info: bool,
    pub renewal_info_seconds: u64,
    pub issuer_tries: u32,
    pub retry_first_seconds: u64,
    pub retry_longest_seconds: u64,
    pub concurrency: usize,
    pub look_ms: u64,
    pub sweep_seconds: u64,
    pub lease_seconds: u64,
    pub challenge_wait_ms: u64,
    pub order_timeout_seconds: u64,
    pub request_timeout_seconds: u64,
    pub answer_bytes: usize,
    pub orders: u64,
    pub orders_for_renewals: u64,
    pub orders_of_one_organization: u64,
    pub orders_window_seconds: u64,
    pub certificates_of_one_domain: u64,
    pub certificates_of_one_host: u64,
    pub certificates_window_seconds: u64,
    pub failures_of_one_host: u64,
    pub failures_window_seconds: u64,
}

/// A budget of the settings.
fn budget(most: u64, window_seconds: u64) -> Budget {
    Budget { most, window_ms: ms(window_seconds) }
}

fn ms(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

impl Acme {
    #[must_use]
    pub fn orders(&self) -> Budget {
        budget(self.orders, self.orders_window_seconds)
    }

    #[must_use]
    pub fn orders_of_one_organization(&self) -> Budget {
        budget(self.orders_of_one_organization, self.orders_window_seconds)
    }

    #[must_use]
    pub fn certificates_of_one_domain(&self) -> Budget {
        budget(self.certificates_of_one_domain, self.certificates_window_seconds)
    }

    #[must_use]
    pub fn certificates_of_one_host(&self) -> Budget {
        budget(self.certificates_of_one_host, self.certificates_window_seconds)
    }

    #[must_use]
    pub fn failures_of_one_host(&self) -> Budget {
        budget(self.failures_of_one_host, self.failures_window_seconds)
    }

    /// For which time orders have to be remembered.
    #[must_use]
    pub fn longest_window_ms(&self) -> i64 {
        let windows =
            [self.orders_window_seconds, self.certificates_window_seconds, self.failures_window_seconds];
        ms(windows.into_iter().max().unwrap_or(0))
    }

    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff { first_ms: ms(self.retry_first_seconds), longest_ms: ms(self.retry_longest_seconds) }
    }

    #[must_use]
    pub fn lease_ms(&self) -> i64 {
        ms(self.lease_seconds)
    }

    #[must_use]
    pub fn order_timeout(&self) -> Duration {
        Duration::from_secs(self.order_timeout_seconds)
    }

    #[must_use]
    pub fn look_again_ms(&self) -> i64 {
        ms(self.look_again_seconds)
    }

    #[must_use]
    pub fn renewal_info_ms(&self) -> i64 {
        ms(self.renewal_info_seconds)
    }

    /// Which challenges are tried, in this order.
    #[must_use]
    pub fn challenge_kinds(&self) -> Vec<ChallengeKind> {
        self.challenges.iter().filter_map(|word| ChallengeKind::parse(word)).collect()
    }
}

impl Settings {
    /// Every mistake as `(key, what is allowed)`.
    #[must_use]
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, key: &str, allowed: &str| {
            if !holds {
                found.push((format!("tls.{key}"), allowed.to_owned()));
            }
        };
        for address in &self.listen {
            demand(address.parse::<SocketAddr>().is_ok(), "listen", "must be IP:PORT, such as 0.0.0.0:443");
        }
        for line in &self.certificates {
            let fine = !line.starts_with(':') && !line.ends_with(':') && line.matches(':').count() <= 1;
            demand(fine, "certificates", "must be CERTIFICATE:KEY, or one file that holds both");
        }
        let name = self.default_name.strip_prefix("*.").unwrap_or(&self.default_name);
        let plain = name.is_empty() || Hostname::parse(name).is_ok_and(|h| h.as_str() == name);
        demand(plain, "default_name", "must be empty or a name that a certificate has, in lower case");
        demand(self.file_poll_ms >= 50, "file_poll_ms", "must be at least 50");
        demand((50..=10_000).contains(&self.poll_ms), "poll_ms", "must be 50 to 10000");
        demand(self.kept_certificates <= 1_000_000, "kept_certificates", "must be 0 to 1000000");
        self.acme.demands(self.poll_ms, &mut demand);
        found
    }
}

impl Acme {
    fn demands(&self, poll_ms: u64, demand: &mut impl FnMut(bool, &str, &str)) {
        let terms = "must be true: read and accept the terms of the issuers that you name";
        demand(!self.enabled || self.terms_agreed, "acme.terms_agreed", terms);
        let https = |url: &str| {
            Url::parse(url).is_ok_and(|u| u.scheme() == "https" && u.has_host()) && url.len() <= 500
        };
        demand(https(&self.directory), "acme.directory", "must be an https:// address");
        let second = self.second_directory.is_empty() || https(&self.second_directory);
        demand(second, "acme.second_directory", "must be empty or an https:// address");
        demand(
            self.second_directory != self.directory,
            "acme.second_directory",
            "must be another issuer's than acme.directory",
        );
        for (id, key, name) in [
            (&self.eab_key_id, &self.eab_hmac_key, "acme.eab_hmac_key"),
            (&self.second_eab_key_id, &self.second_eab_hmac_key, "acme.second_eab_hmac_key"),
        ] {
            let key = key.expose_secret();
            demand(id.is_empty() == key.is_empty(), name, "must be set together with its key id");
            demand(super::acme::eab_key(key).is_some(), name, "must be base64url as the issuer shows it");
        }
        for contact in &self.contact {
            let plain = contact.contains('@') && contact.chars().all(|c| c.is_ascii_graphic());
            demand(plain, "acme.contact", "must be mail addresses");
        }
        let kinds = self.challenge_kinds();
        demand(
            !kinds.is_empty() && kinds.len() == self.challenges.len(),
            "acme.challenges",
            "must be http-01, tls-alpn-01 or both, in the order in which they are tried",
        );
        demand(self.http_port > 0, "acme.http_port", "must be 1 to 65535");
        demand(self.tls_port > 0, "acme.tls_port", "must be 1 to 65535");
        let timeout = (100..=60_000).contains(&self.look_timeout_ms);
        demand(timeout, "acme.look_timeout_ms", "must be 100 to 60000");
        let again = (1..=86_400).contains(&self.look_again_seconds);
        demand(again, "acme.look_again_seconds", "must be 1 to 86400");
        demand((10..=95).contains(&self.renew_percent), "acme.renew_percent", "must be 10 to 95");
        let seconds = (60..=86_400).contains(&self.renewal_info_seconds);
        demand(seconds, "acme.renewal_info_seconds", "must be 60 to 86400");
        demand((1..=100).contains(&self.issuer_tries), "acme.issuer_tries", "must be 1 to 100");
        demand(self.retry_first_seconds >= 1, "acme.retry_first_seconds", "must be at least 1");
        demand(
            self.retry_longest_seconds >= self.retry_first_seconds,
            "acme.retry_longest_seconds",
            "must be at least acme.retry_first_seconds",
        );
        demand((1..=64).contains(&self.concurrency), "acme.concurrency", "must be 1 to 64");
        demand(self.look_ms >= 50, "acme.look_ms", "must be at least 50");
        demand(self.sweep_seconds >= 1, "acme.sweep_seconds", "must be at least 1");
        demand((3..=600).contains(&self.lease_seconds), "acme.lease_seconds", "must be 3 to 600");
        demand(
            self.challenge_wait_ms > poll_ms,
            "acme.challenge_wait_ms",
            "must be more than tls.poll_ms, within which the other servers see a challenge",
        );
        demand(
            (5..=3_600).contains(&self.order_timeout_seconds),
            "acme.order_timeout_seconds",
            "must be 5 to 3600",
        );
        demand(
            (1..=300).contains(&self.request_timeout_seconds),
            "acme.request_timeout_seconds",
            "must be 1 to 300",
        );
        demand(
            (16_384..=16_777_216).contains(&self.answer_bytes),
            "acme.answer_bytes",
            "must be 16384 to 16777216",
        );
        for (key, most) in [
            ("acme.orders", self.orders),
            ("acme.orders_of_one_organization", self.orders_of_one_organization),
            ("acme.certificates_of_one_domain", self.certificates_of_one_domain),
            ("acme.certificates_of_one_host", self.certificates_of_one_host),
            ("acme.failures_of_one_host", self.failures_of_one_host),
        ] {
            demand((1..=1_000_000).contains(&most), key, "must be 1 to 1000000");
        }
        demand(
            self.orders_for_renewals < self.orders,
            "acme.orders_for_renewals",
            "must be less than acme.orders",
        );
        for (key, seconds) in [
            ("acme.orders_window_seconds", self.orders_window_seconds),
            ("acme.certificates_window_seconds", self.certificates_window_seconds),
            ("acme.failures_window_seconds", self.failures_window_seconds),
        ] {
            demand((1..=31_536_000).contains(&seconds), key, "must be 1 to 31536000");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use crate::config::{Mistakes, load};

    fn told(list: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let name = |key: &str| format!("LIBRA__TLS__{key}");
        let variables: HashMap<String, String> =
            list.iter().map(|(k, v)| (name(k), (*v).to_owned())).collect();
        match load(folder.path(), None, &variables) {
            Ok(_) => Vec::new(),
            Err(Mistakes(found)) => found.into_iter().map(|m| m.key).collect(),
        }
    }

    #[test]
    fn nobody_is_asked_before_the_terms_are_accepted_and_never_in_clear() {
        assert_eq!(told(&[("ACME__ENABLED", "true")]), ["tls.acme.terms_agreed"]);
        assert!(told(&[("ACME__ENABLED", "true"), ("ACME__TERMS_AGREED", "true")]).is_empty());
        assert_eq!(told(&[("ACME__DIRECTORY", "http://ca.example/dir")]), ["tls.acme.directory"]);
        assert_eq!(told(&[("ACME__SECOND_DIRECTORY", "ca.example")]), ["tls.acme.second_directory"]);
        assert_eq!(told(&[("ACME__EAB_KEY_ID", "id")]), ["tls.acme.eab_hmac_key"]);
        assert!(told(&[("ACME__EAB_KEY_ID", "id"), ("ACME__EAB_HMAC_KEY", "c2VjcmV0")]).is_empty());
    }

    #[test]
    fn values_that_could_not_work_are_mistakes() {
        for (key, value) in [
            ("LISTEN", "443"),
            ("CERTIFICATES", "a:b:c"),
            ("DEFAULT_NAME", "Upper.example"),
            ("ACME__CHALLENGES", "dns-01"),
            ("ACME__CHALLENGE_WAIT_MS", "900"),
            ("ACME__ORDERS_FOR_RENEWALS", "250"),
            ("ACME__RENEW_PERCENT", "100"),
            ("ACME__CONTACT", "nobody"),
        ] {
            let expected = format!("tls.{}", key.to_lowercase().replace("__", "."));
            assert_eq!(told(&[(key, value)]), [expected], "{key}");
        }
        assert!(
            told(&[("LISTEN", "0.0.0.0:443,[::]:443"), ("CERTIFICATES", "a.pem,b.pem:b.key")]).is_empty()
        );
    }
}
