//! What can go wrong for somebody at the command line, and the exit code that says so.
//! Owns no output but the one error line.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use super::render;

/// How a command ended when nothing went wrong with the command itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The deployment that was asked for or about has failed or was cancelled.
    DeploymentFailed,
}

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("{path} could not be read", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the folder could not be walked")]
    Walk(#[source] ignore::Error),
    #[error(
        "no server runs on {data_dir}: start one with `libra serve`, or name one with --url or LIBRA_URL",
        data_dir = .data_dir.display()
    )]
    NoServer { data_dir: PathBuf },
    #[error(
        "no credential: set LIBRA_TOKEN, or make one with `libra tokens create` (none is in {path})",
        path = .path.display()
    )]
    NoToken { path: PathBuf },
    #[error("no organization: say which with --org or LIBRA_ORG, and your user with --user or LIBRA_USER")]
    NoIdentity,
    #[error("{base_url} could not be reached")]
    Unreachable {
        base_url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{message} ({code}, {request_id})")]
    Api { status: u16, code: String, message: String, request_id: String },
    #[error("the answer of {base_url} could not be understood; is it a Libra of this version?")]
    Answer {
        base_url: String,
        #[source]
        source: Option<serde_json::Error>,
    },
    #[error("deployment {id} still runs after {seconds} s; follow it with: libra status {id} --watch")]
    StillRunning { id: String, seconds: u64 },
}

impl CliError {
    /// Exit codes of the contract: 1 failed, 2 usage, 69 unreachable, 77 not allowed.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Read { .. } | Self::Walk(_) => 2,
            Self::NoServer { .. } | Self::Unreachable { .. } => 69,
            Self::NoToken { .. } | Self::NoIdentity => 77,
            Self::Api { status: 401 | 403, .. } => 77,
            Self::Api { .. } | Self::Answer { .. } | Self::StillRunning { .. } => 1,
        }
    }
}

/// Prints the error, if any, with its causes, and gives the exit code of the process.
#[must_use]
pub fn finish(result: Result<Outcome, CliError>) -> ExitCode {
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::DeploymentFailed) => ExitCode::from(1),
        Err(error) => {
            render::note(&format!("error: {}", chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let line = next.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16) -> CliError {
        CliError::Api { status, code: "C".into(), message: "Say what to do".into(), request_id: "r1".into() }
    }

    #[test]
    fn exit_codes_follow_the_contract() {
        assert_eq!(api(401).exit_code(), 77);
        assert_eq!(api(403).exit_code(), 77);
        assert_eq!(api(404).exit_code(), 1);
        assert_eq!(api(500).exit_code(), 1);
        assert_eq!(CliError::Usage("no such folder".into()).exit_code(), 2);
        assert_eq!(CliError::NoServer { data_dir: ".libra".into() }.exit_code(), 69);
    }

    #[test]
    fn api_errors_carry_code_and_request_id() {
        assert_eq!(api(409).to_string(), "Say what to do (C, r1)");
    }

    #[test]
    fn the_cause_is_told_once() {
        let source = std::io::Error::new(std::io::ErrorKind::NotFound, "not there");
        let error = CliError::Read { path: "a/b".into(), source };
        assert_eq!(chain(&error), "a/b could not be read: not there");
    }
}
