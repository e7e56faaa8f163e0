//! The `e2b` provider: E2B's published REST API for sandboxes. Its daemon inside each of them (`envd`:
//! files, processes) is `machine`'s. The API key goes to the REST API only; inside there is none.

mod frames;
mod machine;

use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use self::machine::{Envd, EnvdMachine};
use super::SandboxOrder;
use super::remote::{
    Again, Caller, Cloud, E2bSettings, INSTALLATION, Listed, Machine, RemoteError, RemoteSettings, SANDBOX,
    for_node, usable, with_query,
};

const NAME: &str = "e2b";
/// Sandboxes of one page of a list.
const PAGE: u64 = 100;

pub(super) struct E2b {
    api: Arc<Caller>,
    base: String,
    settings: E2bSettings,
    remote: RemoteSettings,
    installation: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewSandbox<'a> {
    #[serde(rename = "templateID")]
    template_id: String,
    metadata: Metadata<'a>,
    /// Seconds until E2B ends it.
    timeout: u64,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(rename = "libra-installation")]
    installation: &'a str,
    #[serde(rename = "libra-sandbox")]
    sandbox: &'a str,
}

/// As `POST /v2/sandboxes` and `…/connect` answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    domain: Option<String>,
    envd_access_token: Option<String>,
}

#[derive(Deserialize)]
struct ListedSandbox {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(default)]
    metadata: std::collections::HashMap<String, String>,
}

impl E2b {
    pub fn open(
        settings: &E2bSettings,
        remote: &RemoteSettings,
        installation: &str,
    ) -> Result<Self, RemoteError> {
        let mut headers = HeaderMap::new();
        // A key that can't be a header is refused like any other that is not theirs.
        if let Ok(mut key) = HeaderValue::from_str(settings.api_key.expose_secret()) {
            key.set_sensitive(true);
            headers.insert(HeaderName::from_static("x-api-key"), key);
        }
        let base = match settings.api_url.as_str() {
            "" => format!("https://api.{}", settings.domain),
            set => set.trim_end_matches('/').to_owned(),
        };
        Ok(Self {
            api: Arc::new(Caller::new(NAME, remote, headers)?),
            base,
            settings: settings.clone(),
            remote: remote.clone(),
            installation: installation.to_owned(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Prepares what runs now; where that fails it is deleted.
    async fn prepare(&self, running: Running, action: &'static str) -> Result<Arc<dyn Machine>, RemoteError> {
        let id =
            checked(&running.sandbox_id).ok_or_else(|| self.api.nonsense(action, "an id of its own kind"))?;
        let domain = running.domain.as_deref().filter(|d| !d.is_empty()).unwrap_or(&self.settings.domain);
        let address = match self.settings.sandbox_url.as_str() {
            "" => format!("https://{}-{id}.{domain}", machine::PORT),
            set => set.trim_end_matches('/').to_owned(),
        };
        if !usable(&address) {
            return Err(self.api.nonsense(action, "a domain that is none"));
        }
        let token = running.envd_access_token.as_deref();
        let envd = Envd::new(&self.remote, id, address, token)?;
        let api = Arc::clone(&self.api);
        let delete = self.url(&format!("/sandboxes/{id}"));
        match EnvdMachine::prepare(envd, api, delete).await {
            Ok(machine) => Ok(Arc::new(machine)),
            Err(e) => {
                if let Err(e) = self.delete(id).await {
                    tracing::warn!(error = %e, "a sandbox that did not start could not be deleted; the sweep tries again");
                }
                Err(e)
            }
        }
    }
}

/// Ids become parts of addresses.
fn checked(id: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ((1..=100).contains(&id.len()) && id.chars().all(plain)).then_some(id)
}

#[async_trait::async_trait]
impl Cloud for E2b {
    fn name(&self) -> &'static str {
        NAME
    }

    fn image_setting(&self) -> &'static str {
        "sandbox.e2b.template"
    }

    fn not_enforced(&self) -> Vec<String> {
        vec![
            "memory, CPU and disk are the E2B template's, not sandbox.*".into(),
            "processes, CPU time and files are not limited one by one".into(),
            "the network is E2B's: builds reach it without the registry mirror and the egress proxy".into(),
        ]
    }

    fn settings(&self) -> &RemoteSettings {
        &self.remote
    }

    async fn create(&self, order: &SandboxOrder) -> Result<Arc<dyn Machine>, RemoteError> {
        const ACTION: &str = "make a sandbox";
        let body = NewSandbox {
            template_id: for_node(&self.settings.template, order.node_major),
            metadata: Metadata { installation: &self.installation, sandbox: &order.id },
            timeout: self.settings.lifetime_seconds,
        };
        let url = self.url("/v2/sandboxes");
        let running: Running = self.api.json(ACTION, Again::Never, |c| c.post(&url).json(&body)).await?;
        self.prepare(running, ACTION).await
    }

    async fn connect(&self, remote: &str) -> Result<Option<Arc<dyn Machine>>, RemoteError> {
        const ACTION: &str = "connect to a sandbox";
        let Some(id) = checked(remote) else { return Ok(None) };
        let url = self.url(&format!("/v2/sandboxes/{id}/connect"));
        let body = serde_json::json!({ "timeout": self.settings.lifetime_seconds });
        match self.api.json::<Running>(ACTION, Again::Harmless, |c| c.post(&url).json(&body)).await {
            Ok(running) => Ok(Some(self.prepare(running, ACTION).await?)),
            Err(RemoteError::Gone { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, RemoteError> {
        const ACTION: &str = "list sandboxes";
        let url = self.url("/v2/sandboxes");
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..self.remote.sweep_sandboxes.div_ceil(PAGE) {
            let page = next.clone();
            let answer =
                self.api.send(ACTION, Again::Harmless, |c| self.page(c, &url, page.as_deref())).await?;
            next = answer.headers().get("x-next-token").and_then(|t| t.to_str().ok()).map(str::to_owned);
            let page: Vec<ListedSandbox> = self.api.read_json(ACTION, answer).await?;
            // What is not ours by its own metadata is not touched, whatever the filter let through.
            found.extend(page.into_iter().filter_map(|mut listed| {
                let ours = listed.metadata.get(INSTALLATION) == Some(&self.installation);
                let sandbox = listed.metadata.remove(SANDBOX).filter(|_| ours)?;
                Some(Listed { remote: listed.sandbox_id, sandbox })
            }));
            if next.as_ref().is_none_or(String::is_empty) {
                break;
            }
        }
        Ok(found)
    }

    async fn delete(&self, remote: &str) -> Result<(), RemoteError> {
        let Some(id) = checked(remote) else { return Ok(()) };
        let url = self.url(&format!("/sandboxes/{id}"));
        delete(&self.api, &url).await
    }

    async fn probe(&self) -> Result<(), RemoteError> {
        let url = self.url("/v2/sandboxes?limit=1");
        self.api.done("list sandboxes", Again::Harmless, |c| c.get(&url)).await
    }
}

impl E2b {
    fn page(&self, client: &Client, url: &str, next: Option<&str>) -> RequestBuilder {
        // Neither holds anything that the encoding inside the parameter would change.
        let metadata = format!("{INSTALLATION}={}", self.installation);
        let limit = PAGE.to_string();
        let mut asked = vec![("metadata", metadata.as_str()), ("limit", &limit)];
        asked.extend(next.map(|token| ("nextToken", token)));
        client.get(with_query(url, &asked))
    }
}

async fn delete(api: &Caller, url: &str) -> Result<(), RemoteError> {
    match api.done("delete a sandbox", Again::Harmless, |c| c.delete(url)).await {
        Err(RemoteError::Gone { .. }) => Ok(()),
        other => other,
    }
}
