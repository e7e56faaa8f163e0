//! The states of a deployment and of a step, and which may follow which.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Makes a fieldless enum with its one spelling in API, table and log.
macro_rules! words {
    ($(#[doc = $doc:literal])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $(#[serde(rename = $word)] $variant),+ }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == word)
            }
        }

        // By hand: utoipa's derive can't see a spelling that comes from a macro, and documents the variant's name.
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let description = concat!("", $($doc, "\n"),*).trim();
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::Type::String)
                    .enum_values(Some([$($word),+]))
                    .description((!description.is_empty()).then_some(description))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Where a deployment stands. The last three are final.
    DeploymentStatus {
        Queued = "queued",
        InProgress = "in_progress",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

words! {
    StepStatus {
        Pending = "pending",
        InProgress = "in_progress",
        Completed = "completed",
        Failed = "failed",
        Skipped = "skipped",
    }
}

words! {
    /// What a deployment aims at: the live address, or only its own preview address.
    Target {
        Production = "production",
        Preview = "preview",
    }
}

words! {
    /// Why a deployment ended as `cancelled`.
    CancelReason {
        Requested = "requested",
        Superseded = "superseded",
    }
}

words! {
    /// Where a claim on a domain stands: `verified` is proved, `active` is proved and its project has
    /// something live, `quarantined` has lost its proof and is not served, `failed` was never proved in
    /// time or was proved by somebody else.
    DomainStatus {
        Pending = "pending",
        Verified = "verified",
        Active = "active",
        Failed = "failed",
        Quarantined = "quarantined",
    }
}

impl DomainStatus {
    /// Whether requests to the domain lead to its project.
    #[must_use]
    pub const fn is_served(self) -> bool {
        match self {
            Self::Verified | Self::Active => true,
            Self::Pending | Self::Failed | Self::Quarantined => false,
        }
    }
}

impl DeploymentStatus {
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::InProgress => false,
            Self::Completed | Self::Failed | Self::Cancelled => true,
        }
    }

    /// Whether the state machine has an edge from `self` to `next`.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::InProgress | Self::Failed | Self::Cancelled),
            Self::InProgress => !matches!(next, Self::InProgress),
            Self::Completed | Self::Failed | Self::Cancelled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_have_no_way_out() {
        for &from in DeploymentStatus::ALL {
            for &to in DeploymentStatus::ALL {
                if from.is_final() {
                    assert!(!from.may_become(to), "{from} -> {to}");
                }
            }
        }
    }

    #[test]
    fn every_word_parses_back() {
        for &s in DeploymentStatus::ALL {
            assert_eq!(DeploymentStatus::parse(s.as_str()), Some(s));
        }
        assert_eq!(DeploymentStatus::parse("building"), None);
    }
}
