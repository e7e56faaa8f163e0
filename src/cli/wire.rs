//! The documents of the public API as the command line reads them.
//! Words such as a status stay text here: a client must show what a newer server says, not refuse it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The six steps, in the order in which they are shown.
pub const STEPS: [&str; 6] = ["validate", "sync", "sandbox", "build", "deploy", "cleanup"];

/// `GET /deploy-status`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDocument {
    pub deployment_id: String,
    pub status: String,
    pub current_step: Option<String>,
    pub progress: u8,
    #[serde(default)]
    pub steps: BTreeMap<String, StepDocument>,
    pub error: Option<String>,
    #[serde(default)]
    pub attempt: u32,
    #[serde(default)]
    pub max_attempts: u32,
    pub cancel_reason: Option<String>,
    pub url: Option<String>,
    pub preview_url: Option<String>,
    pub cause: Option<CauseDocument>,
    pub queue: Option<QueueDocument>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QueueDocument {
    pub ahead: u32,
    pub reason: Option<String>,
    pub eta: Option<EtaDocument>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtaDocument {
    pub starts_at: String,
    pub earliest: String,
    pub latest: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StepDocument {
    pub status: String,
    pub error: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CauseDocument {
    pub summary: String,
    #[serde(default)]
    pub hint: String,
    /// Lines of the log that prove it; members see them.
    pub evidence: Option<String>,
}

/// `GET /api/v1/deployments/{id}`, as far as the status document does not say it.
#[derive(Debug, Deserialize)]
pub struct DeploymentDetail {
    pub deployment: DetailedDeployment,
    /// What the project was recognised by.
    pub sign: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct DetailedDeployment {
    pub cause: Option<CauseDocument>,
}

impl QueueDocument {
    /// For people: how many are ahead, what it waits for, when it starts.
    #[must_use]
    pub fn words(&self) -> String {
        let reason = match self.reason.as_deref() {
            None => return "about to start".to_owned(),
            Some("slots_busy") => "every slot is taken",
            Some("organization_limit") => "its organization runs as many as it may",
            Some("project_busy") => "another deployment of its project runs",
            Some("older_first") => "an older deployment of its project comes first",
            Some("retry_wait") => "its next attempt is not due yet",
            Some("no_builder") => "no server builds",
            Some("broker_away") => "the broker is away",
            // A newer server's.
            Some(other) => other,
        };
        let ahead = if self.ahead == 0 { "next in line".to_owned() } else { format!("{} ahead", self.ahead) };
        let eta = self.eta.as_ref();
        let eta = eta.map(|e| format!("; starts at about {} ({} to {})", e.starts_at, e.earliest, e.latest));
        format!("{ahead}, {reason}{}", eta.unwrap_or_default())
    }
}

impl StatusDocument {
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }

    /// The address to open: the live one, or the preview of a deployment that did not go live.
    #[must_use]
    pub fn address(&self) -> Option<&str> {
        self.url.as_deref().or(self.preview_url.as_deref())
    }
}

/// `POST /deploy`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployBody<'a> {
    pub project_id: &'a str,
    pub org_id: &'a str,
    pub user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_domain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    pub target: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BuildDocument::is_empty")]
    pub build: BuildDocument<'a>,
    pub init_files: Vec<FileDocument>,
}

/// How to build, where it is not to be found out.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_directory: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub framework: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_directory: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub package_manager: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
}

impl BuildDocument<'_> {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One file of a source tree; `encoding` is left out for text.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FileDocument {
    pub path: String,
    pub content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<&'static str>,
}

/// The answer to `POST /deploy`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployAnswer {
    pub deployment_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    pub id: String,
    pub name: String,
    pub org_id: String,
    pub worker_name: String,
    pub url: String,
    #[serde(default)]
    pub egress_hosts: Vec<String>,
}

/// A page of `GET /api/v1/projects`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectPage {
    pub projects: Vec<Project>,
    pub next_cursor: Option<String>,
}

/// A custom domain, of which nothing is lost that a newer server tells.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomDomain {
    pub id: String,
    pub hostname: String,
    pub status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub records: Vec<DomainRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_to: Option<String>,
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DomainRecord {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    pub value: String,
}

/// A page of `GET /api/v1/domains`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainPage {
    pub domains: Vec<CustomDomain>,
    pub next_cursor: Option<String>,
}

/// Every error answer of the platform.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDocument {
    pub error: String,
    pub code: String,
    pub message: Option<String>,
    pub request_id: Option<String>,
    #[serde(default)]
    pub details: serde_json::Value,
}

/// `<data_dir>/server.json`, as much of it as a client needs.
#[derive(Debug, Deserialize)]
pub struct ServerFile {
    pub pid: Option<u32>,
    pub listen: Vec<String>,
}

/// `<data_dir>/bootstrap.json`. Has no `Debug`, because of the token.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapFile {
    pub org_id: String,
    pub user_id: String,
    pub token: String,
}
