//! The six steps, their order, their progress and their lines in the fixed catalogue.

use super::status::words;
use serde::{Deserialize, Serialize};
use std::fmt;

words! {
    /// A step of a deployment, in the order of the walk.
    Step {
        Validate = "validate",
        Sync = "sync",
        Sandbox = "sandbox",
        Build = "build",
        Deploy = "deploy",
        Cleanup = "cleanup",
    }
}

impl Step {
    /// What `progress` shows once the step is entered: what is done *before* it.
    #[must_use]
    pub const fn progress(self) -> i32 {
        match self {
            Self::Validate => 5,
            Self::Sync => 10,
            Self::Sandbox => 30,
            Self::Build => 60,
            Self::Deploy => 80,
            Self::Cleanup => 95,
        }
    }

    /// The short log line a stranger may see when the step begins.
    #[must_use]
    pub const fn begin_line(self) -> &'static str {
        match self {
            Self::Validate => "Validating deployment parameters...",
            Self::Sync => "Syncing project data...",
            Self::Sandbox => "Creating sandbox environment...",
            Self::Build => "Building project...",
            Self::Deploy => "Deploying to the edge...",
            Self::Cleanup => "Cleaning up...",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_only_grows_along_the_walk() {
        let all: Vec<i32> = Step::ALL.iter().map(|s| s.progress()).collect();
        assert!(all.windows(2).all(|w| w[0] < w[1]));
    }
}
