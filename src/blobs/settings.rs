//! The `[blobs]` section: what may be set, and the checks that need no store.
//!
//! Has no defaults of its own: `config.toml` is the default. Never shows a secret.

use std::time::Duration;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

/// S3 takes no smaller parts, but for the last one.
const SMALLEST_PART: usize = 5 * 1024 * 1024;
/// Nor larger ones than this are worth their memory.
const LARGEST_PART: usize = 256 * 1024 * 1024;

/// Settings of the blob store. `config.toml` documents each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub url: String,
    pub endpoint: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: SecretString,
    pub session_token: SecretString,
    pub path_style: bool,
    pub allow_plaintext: bool,
    pub ca_file: String,
    pub connect_timeout_ms: u64,
    pub read_timeout_ms: u64,
    pub operation_timeout_seconds: u64,
    pub retries: usize,
    pub retry_backoff_min_ms: u64,
    pub retry_backoff_max_ms: u64,
    pub retry_total_seconds: u64,
    pub part_bytes: usize,
    pub part_parallel: usize,
    pub parallel: usize,
    pub memory_bytes: u64,
    pub memory_blob_bytes: usize,
    pub memory_seconds: u64,
}

/// What `s3://bucket/prefix` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) name: String,
    /// Empty, or path segments without a slash at either end.
    pub(super) prefix: String,
}

impl Settings {
    /// Everything that the keys alone show to be wrong, as `(key, what is allowed)`.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        let mut demand = |holds: bool, key: &'static str, allowed: &'static str| {
            if !holds {
                found.push((key, allowed));
            }
        };
        demand((1..=256).contains(&self.parallel), "blobs.parallel", "must be 1 to 256");
        demand((1..=64).contains(&self.part_parallel), "blobs.part_parallel", "must be 1 to 64");
        demand(
            (SMALLEST_PART..=LARGEST_PART).contains(&self.part_bytes),
            "blobs.part_bytes",
            "must be 5242880 (5 MiB, the least that S3 takes) to 268435456",
        );
        demand(
            self.memory_bytes == 0 || self.memory_blob_bytes as u64 <= self.memory_bytes / 8,
            "blobs.memory_blob_bytes",
            "must not be more than an eighth of blobs.memory_bytes, unless that is 0",
        );
        demand(
            (1..=3600).contains(&self.memory_seconds),
            "blobs.memory_seconds",
            "must be 1 to 3600; blobs.memory_bytes = 0 keeps nothing in memory",
        );
        demand(self.retries <= 20, "blobs.retries", "must be 0 to 20");
        demand(
            self.retry_backoff_max_ms >= self.retry_backoff_min_ms,
            "blobs.retry_backoff_max_ms",
            "must not be less than blobs.retry_backoff_min_ms",
        );
        for (key, value) in [
            ("blobs.connect_timeout_ms", self.connect_timeout_ms),
            ("blobs.read_timeout_ms", self.read_timeout_ms),
            ("blobs.operation_timeout_seconds", self.operation_timeout_seconds),
            ("blobs.retry_backoff_min_ms", self.retry_backoff_min_ms),
        ] {
            demand(value > 0, key, "must be at least 1");
        }
        if !self.is_remote() {
            return found;
        }
        demand(
            self.bucket().is_some(),
            "blobs.url",
            "must be empty (a folder beneath data_dir) or s3://bucket/prefix, without user or password",
        );
        demand(!self.region.is_empty(), "blobs.region", "must name a region, such as us-east-1");
        let keys = !self.access_key_id.is_empty() && !self.secret_access_key.expose_secret().is_empty();
        demand(
            keys,
            "blobs.secret_access_key",
            "S3 needs blobs.access_key_id and blobs.secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        );
        if self.endpoint.is_empty() {
            return found;
        }
        let endpoint = self.endpoint_url();
        demand(
            endpoint.is_some(),
            "blobs.endpoint",
            "must be empty (AWS) or https://host:port, without user, password or path",
        );
        let plain = endpoint.is_some_and(|url| url.scheme() == "http" && !is_loopback(&url));
        demand(
            !plain || self.allow_plaintext,
            "blobs.endpoint",
            "is not encrypted; use https://, or set blobs.allow_plaintext = true for a network you trust",
        );
        found
    }

    /// Whether the blobs lie on another machine than this one's disk.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        !self.url.trim().is_empty()
    }

    /// Where the blobs lie, without any secret.
    #[must_use]
    pub fn shown(&self) -> String {
        match (self.bucket(), self.endpoint_url()) {
            (None, _) => "a folder beneath data_dir".to_owned(),
            (Some(bucket), None) => format!("s3://{} in {}", bucket.name, self.region),
            (Some(bucket), Some(url)) => {
                format!("s3://{} at {}", bucket.name, url.as_str().trim_end_matches('/'))
            }
        }
    }

    pub(super) fn bucket(&self) -> Option<Bucket> {
        let rest = self.url.trim().strip_prefix("s3://")?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let edges = name.starts_with(['-', '.']) || name.ends_with(['-', '.']);
        if !(3..=63).contains(&name.len()) || !name.chars().all(plain) || edges {
            return None;
        }
        let segment = |s: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !s.is_empty() && !matches!(s, "." | "..") && s.chars().all(plain)
        };
        (prefix.is_empty() || prefix.split('/').all(segment))
            .then(|| Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
    }

    pub(super) fn endpoint_url(&self) -> Option<Url> {
        let url = Url::parse(self.endpoint.trim()).ok()?;
        let clean = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        (clean && matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
    }

    pub(super) fn operation_timeout(&self) -> Duration {
        Duration::from_secs(self.operation_timeout_seconds)
    }

    pub(super) fn retry_total(&self) -> Duration {
        Duration::from_secs(self.retry_total_seconds)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(changes: &str) -> Settings {
        let defaults: toml::Table = crate::config::DEFAULTS.parse().unwrap();
        let mut table = defaults["blobs"].as_table().unwrap().clone();
        table.extend(changes.parse::<toml::Table>().unwrap());
        table.try_into().unwrap()
    }

    const KEYS: &str = "access_key_id = 'me'\nsecret_access_key = 'hidden'\n";

    #[test]
    fn a_bucket_with_keys_is_all_that_is_needed() {
        let s3 = settings(&format!("url = 's3://my-bucket/a/b/'\n{KEYS}"));
        assert_eq!(s3.problems(), []);
        assert_eq!(s3.bucket().unwrap(), Bucket { name: "my-bucket".into(), prefix: "a/b".into() });
        assert_eq!(s3.shown(), "s3://my-bucket in us-east-1");
        assert!(!format!("{s3:?}").contains("hidden"));
        assert!(!settings("").is_remote());
    }

    #[test]
    fn the_memory_is_bounded_and_can_be_nothing() {
        for (changes, wrong) in [
            ("memory_bytes = 0", 0),
            ("memory_bytes = 8388608", 0),
            ("memory_bytes = 8388607", 1),
            ("memory_seconds = 0", 1),
            ("memory_seconds = 3601", 1),
        ] {
            assert_eq!(settings(changes).problems().len(), wrong, "{changes}");
        }
    }

    #[test]
    fn addresses_that_hide_something_are_refused() {
        for url in
            ["s3://", "s3://me:secret@bucket", "s3://b", "s3://Bucket", "s3://ok-1/../x", "gs://bucket"]
        {
            let keys: Vec<_> = settings(&format!("url = '{url}'\n{KEYS}"))
                .problems()
                .into_iter()
                .map(|(key, _)| key)
                .collect();
            assert_eq!(keys, ["blobs.url"], "{url}");
        }
    }

    #[test]
    fn plain_text_leaves_this_machine_only_where_it_is_allowed() {
        let with = |endpoint: &str, more: &str| {
            settings(&format!("url = 's3://bucket'\nendpoint = '{endpoint}'\n{KEYS}{more}")).problems()
        };
        for fine in ["http://127.0.0.1:9000", "http://[::1]:9000", "http://localhost", "https://s3.example"] {
            assert_eq!(with(fine, ""), [], "{fine}");
        }
        assert_eq!(with("http://10.0.0.1:9000", "").len(), 1);
        assert_eq!(with("http://127.0.0.1.example:9000", "").len(), 1);
        assert_eq!(with("http://10.0.0.1:9000", "allow_plaintext = true"), []);
        assert_eq!(with("https://me:pass@s3.example", "").len(), 1);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let wrong = settings(
            "url = 's3://bucket'\nregion = ''\npart_bytes = 1\nretries = 99\nread_timeout_ms = 0\nparallel = 0",
        );
        let keys: Vec<_> = wrong.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "blobs.parallel",
                "blobs.part_bytes",
                "blobs.retries",
                "blobs.read_timeout_ms",
                "blobs.region",
                "blobs.secret_access_key"
            ]
        );
    }
}
