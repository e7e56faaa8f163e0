//! The registry behind the mirror. Sends nothing of a build's request upstream but a checked name.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use futures_util::StreamExt;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use sha1::Sha1;
use sha2::{Digest, Sha512};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::MirrorError;
use super::asset::{ABBREVIATED, Form};
use super::document::Origin;
use super::store::disk;
use crate::sandbox::settings::{MirrorSettings, holds_credential};

pub(in crate::sandbox) struct Upstream {
    base: Url,
    client: Client,
}

const REDIRECTS: usize = 3;

/// npm answers within a second; a machine under load gets more.
const NPM_ANSWERS: Duration = Duration::from_secs(30);

impl Upstream {
    pub(super) async fn find(settings: &MirrorSettings, tools: &Path) -> Result<Self, MirrorError> {
        let url = match settings.registry_url.as_str() {
            "" => ask_npm(tools).await?,
            set => set.to_owned(),
        };
        let base = parse_base(&url)?;
        let client = Client::builder()
            .redirect(within(base.clone()))
            .connect_timeout(Duration::from_secs(settings.upstream_connect_seconds))
            .read_timeout(Duration::from_secs(settings.upstream_read_seconds))
            .user_agent(concat!("libra/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(MirrorError::Client)?;
        Ok(Self { base, client })
    }

    /// Writes a package document to `target`: not into memory, which belongs to all builds.
    pub(super) async fn document(
        &self,
        name: &str,
        form: Form,
        limit_bytes: u64,
        target: &Path,
    ) -> Result<u64, MirrorError> {
        let accept = match form {
            Form::Abbreviated => ABBREVIATED,
            Form::Full => "application/json",
        };
        // Registries know a scoped name as one segment.
        let url = self.beneath(&name.replace('/', "%2f"))?;
        Ok(self.download(url, accept, limit_bytes, target).await?.size)
    }

    /// Writes a tarball to `target`, after its digest was checked where one is known.
    pub(super) async fn tarball(
        &self,
        name: &str,
        file: &str,
        origin: Option<&Origin>,
        limit_bytes: u64,
        target: &Path,
    ) -> Result<Tarball, MirrorError> {
        let known = origin.and_then(|origin| Url::parse(&origin.url).ok());
        let url = match known {
            // A document may name any host; only the registry's own is asked.
            Some(url) if url.origin() == self.base.origin() => url,
            Some(_) | None => self.beneath(&format!("{name}/-/{file}"))?,
        };
        let got = self.download(url, "*/*", limit_bytes, target).await?;
        match origin.and_then(|origin| got.matches(origin)) {
            Some(false) => Err(MirrorError::Integrity),
            Some(true) => Ok(Tarball::Verified { size: got.size }),
            None => Ok(Tarball::Unverified { size: got.size }),
        }
    }

    async fn download(
        &self,
        url: Url,
        accept: &str,
        limit_bytes: u64,
        target: &Path,
    ) -> Result<Downloaded, MirrorError> {
        let response = self.get(url, accept).await?;
        let mut written = tokio::fs::File::create(target).await.map_err(disk("write a fetched file"))?;
        let (mut size, mut sha512, mut sha1) = (0_u64, Sha512::new(), Sha1::new());
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(unreachable)?;
            size += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if size > limit_bytes {
                return Err(MirrorError::TooLarge { limit_bytes });
            }
            sha512.update(&chunk);
            sha1.update(&chunk);
            written.write_all(&chunk).await.map_err(disk("write a fetched file"))?;
        }
        written.flush().await.map_err(disk("write a fetched file"))?;
        Ok(Downloaded { size, sha512: sha512.finalize().to_vec(), sha1: sha1.finalize().to_vec() })
    }

    fn beneath(&self, path: &str) -> Result<Url, MirrorError> {
        self.base.join(path).map_err(|_| MirrorError::RegistryUrl { url: shown(&self.base) })
    }

    async fn get(&self, url: Url, accept: &str) -> Result<Response, MirrorError> {
        let response =
            self.client.get(url).header(reqwest::header::ACCEPT, accept).send().await.map_err(unreachable)?;
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(MirrorError::NotFound),
            other => Err(MirrorError::Refused { status: other.as_u16() }),
        }
    }
}

/// A fetched tarball, by what vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tarball {
    Verified {
        size: u64,
    },
    /// The document names no digest that is known here.
    Unverified {
        size: u64,
    },
}

struct Downloaded {
    size: u64,
    sha512: Vec<u8>,
    sha1: Vec<u8>,
}

impl Downloaded {
    /// Whether the strongest digest that the document names fits; `None` where it names none.
    fn matches(&self, origin: &Origin) -> Option<bool> {
        let text = |digest: &[u8]| base64::engine::general_purpose::STANDARD.encode(digest);
        let named = |prefix: &str, digest: &[u8]| {
            let all = origin.integrity.as_deref().unwrap_or_default();
            // Options may follow a digest after a question mark.
            let mut found = all.split_whitespace().filter_map(|one| one.strip_prefix(prefix)).peekable();
            found.peek().is_some().then(|| found.any(|one| one.split('?').next() == Some(&text(digest))))
        };
        let hex_digits = || Some(origin.shasum.as_deref()?.eq_ignore_ascii_case(&hex::encode(&self.sha1)));
        named("sha512-", &self.sha512).or_else(|| named("sha1-", &self.sha1)).or_else(hex_digits)
    }
}

/// The address may hold a registry's password, so it is taken out of the error.
fn unreachable(error: reqwest::Error) -> MirrorError {
    MirrorError::Unreachable(error.without_url())
}

fn parse_base(text: &str) -> Result<Url, MirrorError> {
    let slash = if text.ends_with('/') { "" } else { "/" };
    match Url::parse(&format!("{text}{slash}")) {
        // The mirror carries no credential: every tenant's build reads what it can read.
        Ok(url) if holds_credential(&url) => Err(MirrorError::RegistryCredential),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(url) => Err(MirrorError::RegistryUrl { url: shown(&url) }),
        Err(_) => Err(MirrorError::RegistryUrl { url: "the configured text".into() }),
    }
}

/// A registry that leads elsewhere could make this server ask its own network.
fn within(base: Url) -> Policy {
    Policy::custom(move |attempt| {
        if attempt.previous().len() <= REDIRECTS && attempt.url().origin() == base.origin() {
            attempt.follow()
        } else {
            attempt.stop()
        }
    })
}

fn shown(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default())
}

/// No registry's name stands in this program: the machine's npm knows the right one.
async fn ask_npm(tools: &Path) -> Result<String, MirrorError> {
    let mut candidates: Vec<Vec<std::ffi::OsString>> = Vec::new();
    for major in std::fs::read_dir(tools.join("node")).into_iter().flatten().filter_map(Result::ok) {
        let npm = major.path().join("lib/node_modules/npm/bin/npm-cli.js");
        candidates.push(vec![major.path().join("bin/node").into(), npm.into()]);
    }
    candidates.push(vec!["npm".into()]);
    for candidate in candidates {
        let Some((program, first)) = candidate.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(first).args(["config", "get", "registry"]).current_dir("/").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(child) = crate::process::spawn(command).await else { continue };
        let Ok(Ok(output)) = tokio::time::timeout(NPM_ANSWERS, child.wait_with_output()).await else {
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && text.starts_with("http") {
            return Ok(text);
        }
    }
    Err(MirrorError::RegistryUnknown)
}
