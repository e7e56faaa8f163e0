//! What an operator may set about sandboxes that somebody else runs. Owns the keys and their checks,
//! never a default: the embedded `config.toml` is the default.

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

/// The `[sandbox.remote]` section: how every provider is talked to.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteSettings {
    pub connect_seconds: u64,
    /// One request and its answer, streams apart.
    pub request_seconds: u64,
    /// A stream that is silent for longer, keep-alives included, is cut.
    pub idle_seconds: u64,
    /// How often a request is made again that may be made twice.
    pub retries: u32,
    /// First wait before that, doubled each time.
    pub retry_wait_ms: u64,
    /// All the time that one request may wait because the provider says «too many».
    pub rate_wait_seconds: u64,
    /// How long a new sandbox may take until it runs.
    pub ready_seconds: u64,
    /// How long the output may take to be packed inside.
    pub pack_seconds: u64,
    /// Sandboxes looked at in one sweep, over all pages.
    pub sweep_sandboxes: u64,
}

/// The `[sandbox.e2b]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct E2bSettings {
    /// Empty: E2B is not used.
    pub api_key: SecretString,
    pub domain: String,
    /// Empty: `https://api.<domain>`.
    pub api_url: String,
    /// Empty: `https://49983-<sandbox>.<domain>`.
    pub sandbox_url: String,
    /// Name or id; `{node_major}` is replaced.
    pub template: String,
    /// E2B ends a sandbox by itself after this, whatever becomes of us.
    pub lifetime_seconds: u64,
}

/// The `[sandbox.daytona]` section.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaytonaSettings {
    /// Empty: Daytona is not used.
    pub api_key: SecretString,
    pub api_url: String,
    /// Region; empty: the account's own.
    pub target: String,
    /// Base image; `{node_major}` is replaced. Used where `snapshot` is empty.
    pub image: String,
    /// Snapshot; `{node_major}` is replaced. It has its own resources.
    pub snapshot: String,
    /// Daytona deletes a sandbox by itself after this, whatever becomes of us.
    pub lifetime_minutes: u64,
}

impl RemoteSettings {
    pub(in crate::sandbox) fn mistakes(&self, demand: &mut impl FnMut(bool, &str)) {
        demand(self.connect_seconds >= 1, "sandbox.remote.connect_seconds: at least 1");
        demand(self.request_seconds >= 1, "sandbox.remote.request_seconds: at least 1");
        demand(self.idle_seconds >= 1, "sandbox.remote.idle_seconds: at least 1");
        demand(self.retries <= 10, "sandbox.remote.retries: at most 10");
        demand((1..=60_000).contains(&self.retry_wait_ms), "sandbox.remote.retry_wait_ms: 1 to 60000");
        demand(self.ready_seconds >= 1, "sandbox.remote.ready_seconds: at least 1");
        demand(self.pack_seconds >= 1, "sandbox.remote.pack_seconds: at least 1");
        demand(self.sweep_sandboxes >= 1, "sandbox.remote.sweep_sandboxes: at least 1");
    }
}

impl E2bSettings {
    pub fn is_configured(&self) -> bool {
        !self.api_key.expose_secret().is_empty()
    }

    pub(in crate::sandbox) fn mistakes(&self, wanted: bool, demand: &mut impl FnMut(bool, &str)) {
        demand(
            self.is_configured() || !wanted,
            "sandbox.e2b.api_key: needed by sandbox.provider = \"e2b\"; set it, or the variable E2B_API_KEY",
        );
        demand(plain_domain(&self.domain), "sandbox.e2b.domain: a domain name, such as e2b.app");
        for (url, key) in
            [(&self.api_url, "sandbox.e2b.api_url"), (&self.sandbox_url, "sandbox.e2b.sandbox_url")]
        {
            demand(url.is_empty() || usable(url), &format!("{key}: empty, or {USABLE}"));
        }
        demand(!self.template.is_empty(), "sandbox.e2b.template: the name of a template that has Node");
        demand(
            (60..=86_400).contains(&self.lifetime_seconds),
            "sandbox.e2b.lifetime_seconds: 60 to 86400; longer than pipeline.total_timeout_seconds",
        );
    }
}

impl DaytonaSettings {
    pub fn is_configured(&self) -> bool {
        !self.api_key.expose_secret().is_empty()
    }

    pub(in crate::sandbox) fn mistakes(&self, wanted: bool, demand: &mut impl FnMut(bool, &str)) {
        demand(
            self.is_configured() || !wanted,
            "sandbox.daytona.api_key: needed by sandbox.provider = \"daytona\"; set it, or the variable DAYTONA_API_KEY",
        );
        demand(usable(&self.api_url), &format!("sandbox.daytona.api_url: {USABLE}"));
        let one_line = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
        demand(
            one_line(&self.image) && (!self.image.is_empty() || !self.snapshot.is_empty()),
            "sandbox.daytona.image: the name of an image that has Node and tar, without spaces",
        );
        demand(
            (1..=1_440).contains(&self.lifetime_minutes),
            "sandbox.daytona.lifetime_minutes: 1 to 1440; longer than pipeline.total_timeout_seconds",
        );
    }
}

const USABLE: &str = "an https:// address without user and password (http:// to this machine only)";

/// Whether a key may be sent there.
pub(in crate::sandbox) fn usable(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let safe = url.scheme() == "https" || (url.scheme() == "http" && here);
    safe && !host.is_empty() && !crate::sandbox::settings::holds_credential(&url)
}

fn plain_domain(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    !text.is_empty() && text.len() <= 253 && text.chars().all(plain)
}

/// `text` with `{node_major}` replaced.
pub(in crate::sandbox) fn for_node(text: &str, major: u32) -> String {
    text.replace("{node_major}", &major.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_over_tls_or_to_this_machine_only() {
        for good in ["https://api.e2b.app", "http://127.0.0.1:1/x", "http://localhost:1", "http://[::1]:2"] {
            assert!(usable(good), "{good}");
        }
        for bad in [
            "",
            "api.e2b.app",
            "http://api.e2b.app",
            "https://u:p@api.e2b.app",
            "ftp://127.0.0.1",
            "http://127.0.0.1.evil.test",
        ] {
            assert!(!usable(bad), "{bad}");
        }
    }
}
