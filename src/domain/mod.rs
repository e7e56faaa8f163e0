//! Pure words and rules: names, states and their transitions, faults.
//! Knows no framework and nothing else of ours.

pub mod address;
pub mod budget;
pub mod cause;
pub mod certificate;
pub mod dead_letter;
pub mod egress;
pub mod fingerprint;
pub mod hostname;
pub mod id;
pub mod origin;
pub mod pace;
pub mod principal;
pub mod proof;
pub mod schedule;
pub mod source;
pub mod status;
pub mod step;
pub mod time;
pub mod tree_path;
pub mod upstream;
pub mod worker_name;

pub use budget::Budget;
pub use cause::{Cause, Fault};
pub use certificate::{CertificateState, ChallengeKind};
pub use dead_letter::{AttemptOutcome, DeadLetterClass, DeadLetterState, RedriveFrom};
pub use fingerprint::fingerprint;
pub use id::{DeploymentId, Digest, DomainId, OrgId, ProjectId, TokenId, UserId, VersionId};
pub use principal::{OrgScope, Principal, Scope};
pub use status::{DeploymentStatus, DomainStatus, StepStatus, Target};
pub use step::Step;
pub use tree_path::{TreePath, TreePathError};
pub use worker_name::{WorkerName, preview_label};
