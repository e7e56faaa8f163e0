//! Ids of things: random UUIDv4 in simple form (32 hex digits); digests: SHA-256 (64 hex digits).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::Digest as _;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {length} lower-case hexadecimal digits")]
pub struct MalformedId {
    what: &'static str,
    length: usize,
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $length:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub struct $name(String);

        impl $name {
            /// # Errors
            /// If `text` has another length or other characters than an id has.
            pub fn parse(text: &str) -> Result<Self, MalformedId> {
                if is_hex(text, $length) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(MalformedId { what: $what, length: $length })
                }
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(OrgId, "orgId", 32);
id!(UserId, "userId", 32);
id!(ProjectId, "projectId", 32);
id!(DeploymentId, "deploymentId", 32);
id!(VersionId, "versionId", 32);
id!(TokenId, "tokenId", 32);
id!(DomainId, "domainId", 32);
id!(
    /// The SHA-256 of some bytes.
    Digest,
    "digest",
    64
);

/// A fresh random id's text.
#[must_use]
pub fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

macro_rules! random_id {
    ($($name:ident),*) => { $(impl $name {
        #[must_use]
        pub fn random() -> Self {
            Self(random())
        }
    })* };
}
random_id!(OrgId, UserId, ProjectId, DeploymentId, VersionId, TokenId, DomainId);

impl Digest {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(sha2::Sha256::digest(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_32_lower_case_hex_digits() {
        assert!(ProjectId::parse(&random()).is_ok());
        for bad in ["", "abc", &"g".repeat(32), &"A".repeat(32), &"a".repeat(33)] {
            assert!(ProjectId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn digest_is_sha256() {
        assert_eq!(
            Digest::of(b"").as_str(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
