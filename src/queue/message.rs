//! The wire form of a job, as contract §7 has it: ids and a ring number, never files or `env`.
//!
//! Strict about what it knows, tolerant of what it doesn't: publishers may send more. It never
//! decides whether a job may run; the database does.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Version of the message form that we write.
pub const VERSION: u32 = 1;
/// A larger body is not looked at.
pub const MAX_BYTES: usize = 1024 * 1024;
const MAX_TIMESTAMP_BYTES: usize = 64;

/// Why a body is not a job.
#[derive(Debug, thiserror::Error)]
pub enum MalformedJob {
    #[error("the message has {size_bytes} bytes; at most {MAX_BYTES} are allowed")]
    TooLarge { size_bytes: usize },
    #[error("the message is not a job")]
    Form(#[source] serde_json::Error),
    #[error("the message has version {got}; this server reads version {VERSION}")]
    Version { got: u32 },
    #[error("metadata.timestamp has more than {MAX_TIMESTAMP_BYTES} bytes")]
    Timestamp,
}

/// An id as it travels: a UUID in simple form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct WireId(String);

#[derive(Debug, thiserror::Error)]
#[error("an id is 32 lower-case hexadecimal digits")]
pub struct BadWireId;

impl WireId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for WireId {
    type Error = BadWireId;

    fn try_from(text: String) -> Result<Self, BadWireId> {
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if hex && text.len() == 32 { Ok(Self(text)) } else { Err(BadWireId) }
    }
}

impl FromStr for WireId {
    type Err = BadWireId;

    fn from_str(text: &str) -> Result<Self, BadWireId> {
        text.to_owned().try_into()
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobTarget {
    #[default]
    Production,
    Preview,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobParams {
    pub project_id: WireId,
    pub org_id: WireId,
    pub user_id: WireId,
    #[serde(default)]
    pub target: JobTarget,
    /// Which ring of the row this is; 0 in what other programs publish.
    #[serde(default)]
    pub ring: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobMetadata {
    /// RFC 3339, by the sender's clock: for people, never for decisions.
    pub timestamp: String,
    #[serde(default)]
    pub retry_count: u32,
    #[serde(default)]
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployJob {
    #[serde(default = "first_version")]
    pub version: u32,
    pub deployment_id: WireId,
    pub params: JobParams,
    pub metadata: JobMetadata,
}

impl DeployJob {
    /// Reads a message body.
    ///
    /// # Errors
    /// `MalformedJob`, whose text quotes nothing of the body but what serde says about its form.
    pub fn read(body: &[u8]) -> Result<Self, MalformedJob> {
        if body.len() > MAX_BYTES {
            return Err(MalformedJob::TooLarge { size_bytes: body.len() });
        }
        let job: Self = serde_json::from_slice(body).map_err(MalformedJob::Form)?;
        if job.version != VERSION {
            return Err(MalformedJob::Version { got: job.version });
        }
        if job.metadata.timestamp.len() > MAX_TIMESTAMP_BYTES {
            return Err(MalformedJob::Timestamp);
        }
        Ok(job)
    }
}

/// The guide's own message has no version.
fn first_version() -> u32 {
    VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(id: &str) -> String {
        let org = "b".repeat(32);
        format!(
            r#"{{"version":1,"deploymentId":"{id}","more":[1],"params":{{"projectId":"{org}","orgId":"{org}",
            "userId":"{org}","target":"preview","initFiles":[]}},"metadata":{{"timestamp":"2026-01-01T00:00:00Z",
            "retryCount":0,"priority":1}}}}"#
        )
    }

    #[test]
    fn unknown_fields_are_tolerated_and_known_ones_are_read() {
        let job = DeployJob::read(body(&"a".repeat(32)).as_bytes()).unwrap();
        assert_eq!((job.params.target, job.params.ring), (JobTarget::Preview, 0));
        let again = DeployJob::read(&serde_json::to_vec(&job).unwrap()).unwrap();
        assert_eq!(job, again);
    }

    #[test]
    fn ids_that_could_change_a_subject_are_refused() {
        for id in ["", "a.b", "*", ">", &"A".repeat(32), &"a".repeat(33), &"a".repeat(31)] {
            assert!(matches!(DeployJob::read(body(id).as_bytes()), Err(MalformedJob::Form(_))), "{id}");
        }
    }

    #[test]
    fn bodies_that_are_no_job_say_why() {
        assert!(matches!(DeployJob::read(b"\xff\x00"), Err(MalformedJob::Form(_))));
        assert!(matches!(DeployJob::read(b"{}"), Err(MalformedJob::Form(_))));
        let newer = body(&"a".repeat(32)).replace("\"version\":1", "\"version\":2");
        assert!(matches!(DeployJob::read(newer.as_bytes()), Err(MalformedJob::Version { got: 2 })));
        let large = vec![b' '; MAX_BYTES + 1];
        assert!(matches!(DeployJob::read(&large), Err(MalformedJob::TooLarge { .. })));
        let deep = "[".repeat(MAX_BYTES);
        assert!(matches!(DeployJob::read(deep.as_bytes()), Err(MalformedJob::Form(_))));
    }
}
