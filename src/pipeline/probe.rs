//! Fetches a version through a real edge listener and believes only a signed answer with the right
//! version and digest: a 200 from an older version must not complete a deployment.

use std::time::Duration;

use futures_util::StreamExt;
use sha2::Digest as _;

use crate::domain::{id, time};
use crate::routing::probe::{self, ProbeKey};
use crate::runtime::Manifest;
use crate::runtime::site_rules::is_rules_file;

/// What an edge answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub version: String,
    /// The digest of the body matched the manifest's.
    pub verified: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the edge at {edge} could not be reached")]
    Unreachable {
        edge: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("the edge at {edge} answered {status} without a version")]
    NoVersion { edge: String, status: u16 },
    #[error("the edge at {edge} answered with version {version}")]
    OtherVersion { edge: String, version: String },
    #[error("the edge at {edge} answered version {version} with other bytes than were deployed")]
    WrongBytes { edge: String, version: String },
    #[error("no edge is live")]
    NoEdge,
}

/// Sends signed probes. Kept, for its connections.
pub struct Prober {
    client: reqwest::Client,
    key: ProbeKey,
}

/// A file to fetch, and what its bytes must hash to.
#[derive(Debug, Clone)]
pub struct Sample {
    path: String,
    digest: String,
    size: u64,
}

impl Sample {
    /// The file that says most about a version: its root page, else its smallest file that is served.
    pub fn of(manifest: &Manifest) -> Option<Self> {
        let served = || manifest.files.iter().filter(|f| !is_rules_file(&f.path));
        let file = served().find(|f| f.path == "index.html").or_else(|| served().min_by_key(|f| f.size))?;
        let path = if file.path == "index.html" {
            "/".to_owned()
        } else {
            let escaped = percent_encoding::utf8_percent_encode(&file.path, PATH);
            format!("/{escaped}")
        };
        Some(Self { path, digest: file.digest.clone(), size: file.size })
    }
}

/// What must be escaped in a path; `/` stays.
const PATH: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Prober {
    /// # Errors
    /// If the client can't be made.
    pub fn new(key: ProbeKey, timeout: Duration) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .timeout(timeout)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_idle_timeout(Duration::from_secs(5))
            .build()?;
        Ok(Self { client, key })
    }

    /// Fetches `sample` on `host` from the edge at `address`.
    ///
    /// # Errors
    /// If the edge can't be reached or does not answer as an edge of ours.
    pub async fn fetch(&self, address: &str, host: &str, sample: &Sample) -> Result<Answer, ProbeError> {
        let now = u64::try_from(time::now_ms() / 1_000).unwrap_or(0);
        let token = probe::sign(&self.key, now, &id::random(), host, &sample.path);
        let unreachable = |source| ProbeError::Unreachable { edge: address.to_owned(), source };
        let response = self
            .client
            .get(format!("http://{address}{}", sample.path))
            .header("host", host)
            .header("accept-encoding", "identity")
            .header(probe::HEADER, token)
            .send()
            .await
            .map_err(unreachable)?;
        let header =
            |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(ToOwned::to_owned);
        let Some(version) = header("x-libra-version") else {
            return Err(ProbeError::NoVersion {
                edge: address.to_owned(),
                status: response.status().as_u16(),
            });
        };
        let mut hasher = sha2::Sha256::new();
        let mut size = 0_u64;
        let mut body = response.bytes_stream();
        while let Some(part) = body.next().await {
            let part = part.map_err(unreachable)?;
            size += part.len() as u64;
            if size > sample.size {
                break;
            }
            hasher.update(&part);
        }
        let verified = size == sample.size && hex::encode(hasher.finalize()) == sample.digest;
        Ok(Answer { version, verified })
    }
}
