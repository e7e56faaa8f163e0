//! Whose fault a failure is, the cause that every final failure carries, and an error told with its causes.

use serde::{Deserialize, Serialize};

use super::status::words;
use super::step::Step;
use std::error::Error;
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

/// An error with its causes, in one line. For logs and the operator: what a cause says may be a secret
/// of the platform.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the {0}")]
    struct Level(&'static str, #[source] Option<Box<Level>>);

    #[test]
    fn an_error_is_told_with_all_its_causes_in_their_order() {
        let inner = Level("inner", None);
        let outer = Level("outer", Some(Box::new(Level("middle", Some(Box::new(inner))))));
        assert_eq!(chain(&outer), "the outer: the middle: the inner");
        assert_eq!(chain(&Level("only", None)), "the only");
    }
}
