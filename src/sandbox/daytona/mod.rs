//! The `daytona` provider: Daytona's published REST API for sandboxes. The toolbox inside each of them
//! (files, sessions) is `machine`'s. The API key goes to the API and its toolbox proxy only; inside there
//! is none.

mod logs;
mod machine;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use self::machine::{Toolbox, ToolboxMachine};
use super::SandboxOrder;
use super::limits::Limits;
use super::remote::{
    Again, Caller, Cloud, DaytonaSettings, INSTALLATION, Listed, Machine, RemoteError, RemoteSettings,
    SANDBOX, for_node, usable, with_query,
};

const NAME: &str = "daytona";
/// Sandboxes of one page of a list.
const PAGE: u64 = 100;
/// Between two looks at a sandbox that is starting.
const LOOK: Duration = Duration::from_millis(500);

pub(super) struct Daytona {
    api: Arc<Caller>,
    base: String,
    settings: DaytonaSettings,
    remote: RemoteSettings,
    installation: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NewSandbox<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_info: Option<BuildInfo>,
    env: serde_json::Map<String, serde_json::Value>,
    labels: Labels<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    auto_stop_interval: u64,
    /// Deleted as soon as it stops.
    auto_delete_interval: u64,
    ttl_minutes: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildInfo {
    dockerfile_content: String,
}

#[derive(Serialize)]
struct Labels<'a> {
    #[serde(rename = "libra-installation")]
    installation: &'a str,
    #[serde(rename = "libra-sandbox")]
    sandbox: &'a str,
}

/// Cores, and GiB of memory and disk.
#[derive(Serialize, Debug, PartialEq, Eq)]
struct Resources {
    cpu: u64,
    memory: u64,
    disk: u64,
}

impl Resources {
    /// Daytona counts in whole units: never less than the limit of ours.
    fn of(limits: &Limits) -> Self {
        let gib = |bytes: u64| bytes.div_ceil(1 << 30).max(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked settings: a small positive number"
        )]
        let cpu = limits.cpu_cores.ceil().max(1.0) as u64;
        Self { cpu, memory: gib(limits.memory_bytes), disk: gib(limits.disk_bytes) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    toolbox_proxy_url: String,
    #[serde(default)]
    labels: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    items: Vec<Described>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct ProxyUrl {
    url: String,
}

impl Daytona {
    pub fn open(
        settings: &DaytonaSettings,
        remote: &RemoteSettings,
        installation: &str,
    ) -> Result<Self, RemoteError> {
        let mut headers = HeaderMap::new();
        // A key that can't be a header is refused like any other that is not theirs.
        if let Ok(mut key) = HeaderValue::from_str(&format!("Bearer {}", settings.api_key.expose_secret())) {
            key.set_sensitive(true);
            headers.insert(AUTHORIZATION, key);
        }
        Ok(Self {
            api: Arc::new(Caller::new(NAME, remote, headers)?),
            base: settings.api_url.trim_end_matches('/').to_owned(),
            settings: settings.clone(),
            remote: remote.clone(),
            installation: installation.to_owned(),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Waits until it runs and prepares it; where that fails it is deleted.
    async fn prepare(&self, described: Described) -> Result<Arc<dyn Machine>, RemoteError> {
        const ACTION: &str = "start a sandbox";
        let Some(id) = checked(&described.id).map(str::to_owned) else {
            return Err(self.api.nonsense(ACTION, "an id of its own kind"));
        };
        let preparing = async {
            let running = self.started(&id, described).await?;
            let proxy = match running.toolbox_proxy_url.as_str() {
                "" => {
                    let url = self.url(&format!("/sandbox/{id}/toolbox-proxy-url"));
                    self.api.json::<ProxyUrl>(ACTION, Again::Harmless, |c| c.get(&url)).await?.url
                }
                known => known.to_owned(),
            };
            if !usable(&proxy) {
                return Err(self.api.nonsense(ACTION, "an address that the key must not be sent to"));
            }
            let toolbox =
                Toolbox::new(Arc::clone(&self.api), format!("{}/{id}", proxy.trim_end_matches('/')));
            ToolboxMachine::prepare(toolbox, self.url(&format!("/sandbox/{id}"))).await
        };
        match preparing.await {
            Ok(machine) => Ok(Arc::new(machine)),
            Err(e) => {
                if let Err(e) = self.delete(&id).await {
                    tracing::warn!(error = %e, "a sandbox that did not start could not be deleted; the sweep tries again");
                }
                Err(e)
            }
        }
    }

    async fn started(&self, id: &str, mut described: Described) -> Result<Described, RemoteError> {
        let provider = NAME;
        let url = self.url(&format!("/sandbox/{id}"));
        let deadline = Instant::now() + Duration::from_secs(self.remote.ready_seconds);
        loop {
            match described.state.as_str() {
                "started" => return Ok(described),
                "error" | "build_failed" | "destroyed" | "destroying" | "stopped" | "stopping"
                | "archived" | "archiving" => {
                    return Err(RemoteError::NotStarted { provider, state: described.state });
                }
                _ if Instant::now() >= deadline => {
                    let state = described.state.escape_debug().take(50).collect();
                    return Err(RemoteError::NotStarted { provider, state });
                }
                _ => tokio::time::sleep(LOOK).await,
            }
            described = self.api.json("look at a sandbox", Again::Harmless, |c| c.get(&url)).await?;
        }
    }
}

/// Ids become parts of addresses.
fn checked(id: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ((1..=100).contains(&id.len()) && id.chars().all(plain)).then_some(id)
}

#[async_trait::async_trait]
impl Cloud for Daytona {
    fn name(&self) -> &'static str {
        NAME
    }

    fn image_setting(&self) -> &'static str {
        if self.settings.snapshot.is_empty() { "sandbox.daytona.image" } else { "sandbox.daytona.snapshot" }
    }

    fn not_enforced(&self) -> Vec<String> {
        let resources = if self.settings.snapshot.is_empty() {
            "memory, CPU share and disk are limited in whole GiB and cores"
        } else {
            "memory, CPU and disk are the Daytona snapshot's, not sandbox.*"
        };
        vec![
            resources.into(),
            "processes, CPU time and files are not limited one by one".into(),
            "the network is Daytona's: builds reach it without the registry mirror and the egress proxy"
                .into(),
        ]
    }

    fn settings(&self) -> &RemoteSettings {
        &self.remote
    }

    async fn create(&self, order: &SandboxOrder) -> Result<Arc<dyn Machine>, RemoteError> {
        let by_snapshot = !self.settings.snapshot.is_empty();
        let lifetime = self.settings.lifetime_minutes;
        let body = NewSandbox {
            snapshot: by_snapshot.then(|| for_node(&self.settings.snapshot, order.node_major)),
            build_info: (!by_snapshot).then(|| BuildInfo {
                dockerfile_content: format!("FROM {}\n", for_node(&self.settings.image, order.node_major)),
            }),
            env: serde_json::Map::new(),
            labels: Labels { installation: &self.installation, sandbox: &order.id },
            target: Some(self.settings.target.as_str()).filter(|target| !target.is_empty()),
            resources: (!by_snapshot).then(|| Resources::of(&order.limits)),
            auto_stop_interval: lifetime,
            auto_delete_interval: 0,
            ttl_minutes: lifetime,
        };
        let url = self.url("/sandbox");
        let made: Described =
            self.api.json("make a sandbox", Again::Never, |c| c.post(&url).json(&body)).await?;
        self.prepare(made).await
    }

    async fn connect(&self, remote: &str) -> Result<Option<Arc<dyn Machine>>, RemoteError> {
        let Some(id) = checked(remote) else { return Ok(None) };
        let url = self.url(&format!("/sandbox/{id}"));
        match self.api.json::<Described>("connect to a sandbox", Again::Harmless, |c| c.get(&url)).await {
            Ok(described) => Ok(Some(self.prepare(described).await?)),
            Err(RemoteError::Gone { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn list(&self) -> Result<Vec<Listed>, RemoteError> {
        let url = self.url("/sandbox");
        let labels = json!({ INSTALLATION: self.installation }).to_string();
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        for _ in 0..self.remote.sweep_sandboxes.div_ceil(PAGE) {
            let cursor = next.clone();
            let page: Page = self
                .api
                .json("list sandboxes", Again::Harmless, |c| {
                    let limit = PAGE.to_string();
                    let mut asked = vec![("limit", limit.as_str()), ("labels", &labels)];
                    asked.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                    c.get(with_query(&url, &asked))
                })
                .await?;
            // What is not ours by its own labels is not touched, whatever the filter let through.
            found.extend(page.items.into_iter().filter_map(|mut listed| {
                let ours = listed.labels.get(INSTALLATION) == Some(&self.installation);
                let going = matches!(listed.state.as_str(), "destroyed" | "destroying");
                let sandbox = listed.labels.remove(SANDBOX).filter(|_| ours && !going)?;
                Some(Listed { remote: listed.id, sandbox })
            }));
            next = page.next_cursor.filter(|cursor| !cursor.is_empty());
            if next.is_none() {
                break;
            }
        }
        Ok(found)
    }

    async fn delete(&self, remote: &str) -> Result<(), RemoteError> {
        let Some(id) = checked(remote) else { return Ok(()) };
        delete(&self.api, &self.url(&format!("/sandbox/{id}"))).await
    }

    async fn probe(&self) -> Result<(), RemoteError> {
        let url = self.url("/sandbox?limit=1");
        self.api.done("list sandboxes", Again::Harmless, |c| c.get(&url)).await
    }
}

async fn delete(api: &Caller, url: &str) -> Result<(), RemoteError> {
    match api.done("delete a sandbox", Again::Harmless, |c| c.delete(url)).await {
        Err(RemoteError::Gone { .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_never_less_than_the_limits() {
        let limits = |memory_bytes, cpu_cores, disk_bytes| Limits {
            memory_bytes,
            processes: 1,
            cpu_seconds: 1,
            cpu_cores,
            disk_bytes,
            output_bytes: 1,
            wall: Duration::from_secs(1),
            tmp_bytes: 1,
        };
        assert_eq!(Resources::of(&limits(1 << 20, 0.5, 1)), Resources { cpu: 1, memory: 1, disk: 1 });
        let odd = limits((2 << 30) + 1, 2.1, 4 << 30);
        assert_eq!(Resources::of(&odd), Resources { cpu: 3, memory: 3, disk: 4 });
    }
}
