//! Whose fault a failure is, and the cause that every final failure carries.

use serde::{Deserialize, Serialize};

use super::status::words;
use super::step::Step;
use std::fmt;

words! {
    /// Whose fault: decides between final (user) and retry (platform, unknown).
    Fault {
        User = "user",
        Platform = "platform",
        Unknown = "unknown",
    }
}

/// Why a deployment failed. `summary` and `hint` come from our own fixed catalogue, so that a
/// stranger may read them; `evidence` (tool output, file names) is shown to members only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    #[serde(rename = "class")]
    pub class: Fault,
    #[schema(nullable)]
    pub step: Option<Step>,
    pub summary: String,
    pub hint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

impl Cause {
    #[must_use]
    pub fn new(
        class: Fault,
        step: Option<Step>,
        summary: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { class, step, summary: summary.into(), hint: hint.into(), evidence: None }
    }

    #[must_use]
    pub fn with_evidence(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = Some(evidence.into());
        self
    }

    /// The part that anybody who knows the deployment's id may see.
    #[must_use]
    pub fn public(&self) -> Self {
        Self { evidence: None, ..self.clone() }
    }
}
