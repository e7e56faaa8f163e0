//! What can go wrong with a sandbox that somebody else runs. Never the tenant's fault: a provider that
//! is away, refuses us or answers nonsense is the platform's matter. Names no address and no key.

use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error(
        "the sandbox provider `{provider}` refused to {action} (status {status}); the operator must set sandbox.{provider}.api_key to a key that may"
    )]
    Refused { provider: &'static str, action: &'static str, status: u16 },
    #[error(
        "the sandbox provider `{provider}` limits requests or sandboxes and would not {action} within {} s; raise the provider's quota, or lower pipeline.concurrency",
        waited.as_secs()
    )]
    Limited { provider: &'static str, action: &'static str, waited: Duration },
    #[error("the sandbox provider `{provider}` failed to {action} (status {status})")]
    Failed { provider: &'static str, action: &'static str, status: u16 },
    #[error("the sandbox provider `{provider}` could not be reached to {action}")]
    Away {
        provider: &'static str,
        action: &'static str,
        #[source]
        source: reqwest::Error,
    },
    #[error("the sandbox provider `{provider}` took too long to {action}")]
    Timeout { provider: &'static str, action: &'static str },
    #[error(
        "the sandbox provider `{provider}` answered unlike its published API when asked to {action}: {why}"
    )]
    Answer { provider: &'static str, action: &'static str, why: String },
    #[error("the sandbox at `{provider}` is gone")]
    Gone { provider: &'static str },
    #[error("the connection to a command at `{provider}` was lost, and with it how the command ended")]
    CommandLost { provider: &'static str },
    #[error("the sandbox at `{provider}` did not start: it is `{state}`")]
    NotStarted { provider: &'static str, state: String },
    #[error("the sandbox at `{provider}` has {found}, not Node {wanted}; set {setting} to one that has it")]
    Node { provider: &'static str, wanted: u32, found: String, setting: &'static str },
    #[error("the HTTP client for the sandbox provider could not be made")]
    Client(#[source] reqwest::Error),
}

impl RemoteError {
    /// Whether the provider may have done what was asked although we don't know it.
    pub(in crate::sandbox) fn outcome_is_unknown(&self) -> bool {
        match self {
            Self::Away { source, .. } => !source.is_connect(),
            Self::Timeout { .. } | Self::Answer { .. } => true,
            Self::Failed { status, .. } => *status >= 500,
            Self::Refused { .. }
            | Self::Limited { .. }
            | Self::Gone { .. }
            | Self::CommandLost { .. }
            | Self::NotStarted { .. }
            | Self::Node { .. }
            | Self::Client(_) => false,
        }
    }
}
