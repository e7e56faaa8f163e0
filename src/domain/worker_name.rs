//! Owns the rules for a Worker's name and for the label of its preview address.
//! Never reads settings: what an operator reserves besides the built-in list is an argument.

use std::fmt;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Longest DNS label, and so the longest name (RFC 1035).
pub const MAX_LABEL_CHARS: usize = 63;

/// Names that belong to the platform whatever the operator's settings say.
pub const RESERVED: [&str; 11] =
    ["dispatcher", "api", "health", "admin", "system", "www", "mail", "ftp", "cdn", "assets", "static"];

/// Hex digits of the deployment id that open a preview label.
const PREVIEW_ID_CHARS: usize = 12;
/// Characters of the Worker's name that stay in a preview label which would be too long.
const PREVIEW_NAME_CHARS: usize = 40;

/// A name that passed every rule: lower case, `[a-z0-9-]`, 1–63 characters, no hyphen at either end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WorkerName(Box<str>);

/// Why a name was refused; the texts are the public ones of the dispatcher guide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkerNameError {
    #[error("Subdomain is required")]
    Required,
    #[error("Subdomain '{name}' is reserved")]
    Reserved { name: String },
    #[error("Subdomain can only contain letters, numbers, and hyphens")]
    Characters,
    #[error("Subdomain must be 63 characters or less")]
    TooLong,
    #[error("Subdomain cannot start or end with a hyphen")]
    HyphenAtEnd,
}

impl WorkerName {
    /// Parses what a person or program asked for, in the guide's order of checks.
    /// `also_reserved` is the operator's list, compared without regard to case.
    pub fn parse(input: &str, also_reserved: &[String]) -> Result<WorkerName, WorkerNameError> {
        if input.trim().is_empty() {
            return Err(WorkerNameError::Required);
        }
        if is_reserved(input, also_reserved) {
            return Err(WorkerNameError::Reserved { name: input.to_owned() });
        }
        Self::parse_shape(input)
    }

    /// Parses a name that was accepted once, for example one that lies in the database.
    /// A name reserved only later keeps its Worker reachable.
    pub fn parse_shape(input: &str) -> Result<WorkerName, WorkerNameError> {
        if input.trim().is_empty() {
            return Err(WorkerNameError::Required);
        }
        if !input.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(WorkerNameError::Characters);
        }
        if input.len() > MAX_LABEL_CHARS {
            return Err(WorkerNameError::TooLong);
        }
        if input.starts_with('-') || input.ends_with('-') {
            return Err(WorkerNameError::HyphenAtEnd);
        }
        Ok(WorkerName(input.to_ascii_lowercase().into_boxed_str()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for WorkerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Whether the name belongs to the platform: listed, an IDNA label, or shaped like a preview label.
pub fn is_reserved(name: &str, also_reserved: &[String]) -> bool {
    RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
        || also_reserved.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
        || name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"))
        || looks_like_preview(name)
}

/// Twelve hex digits and two hyphens, in either case because names are lower-cased on the way in.
pub fn looks_like_preview(label: &str) -> bool {
    let bytes = label.as_bytes();
    bytes.len() >= PREVIEW_ID_CHARS + 2
        && bytes[..PREVIEW_ID_CHARS].iter().all(u8::is_ascii_hexdigit)
        && &bytes[PREVIEW_ID_CHARS..PREVIEW_ID_CHARS + 2] == b"--"
}

/// The label of a deployment's preview address, at most 63 characters.
/// It is made once, stored with the deployment and looked up whole; nothing ever takes it apart again.
/// `deployment_id` is the id in simple form (32 lower-case hex digits).
pub fn preview_label(deployment_id: &str, worker: &WorkerName) -> String {
    let id: String = deployment_id.chars().take(PREVIEW_ID_CHARS).collect();
    let whole = format!("{id}--{worker}");
    if whole.len() <= MAX_LABEL_CHARS {
        return whole;
    }
    // The digest keeps two long names apart that share their first 40 characters.
    let digest = hex::encode(Sha256::digest(worker.as_str().as_bytes()));
    let kept: String = worker.as_str().chars().take(PREVIEW_NAME_CHARS).collect();
    format!("{id}--{}-{}", kept.trim_end_matches('-'), &digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(input: &str) -> String {
        WorkerName::parse(input, &["shop".to_owned()]).unwrap_err().to_string()
    }

    #[test]
    fn refusals_follow_the_guides_order_and_words() {
        assert_eq!(refused(""), "Subdomain is required");
        assert_eq!(refused("  "), "Subdomain is required");
        assert_eq!(refused("Api"), "Subdomain 'Api' is reserved");
        assert_eq!(refused("SHOP"), "Subdomain 'SHOP' is reserved");
        assert_eq!(refused("xn--bcher-kva"), "Subdomain 'xn--bcher-kva' is reserved");
        assert_eq!(refused("0123456789ab--x"), "Subdomain '0123456789ab--x' is reserved");
        assert_eq!(refused("a_b"), "Subdomain can only contain letters, numbers, and hyphens");
        assert_eq!(
            refused(&format!("-{}_", "a".repeat(80))),
            "Subdomain can only contain letters, numbers, and hyphens"
        );
        assert_eq!(refused(&format!("-{}", "a".repeat(63))), "Subdomain must be 63 characters or less");
        assert_eq!(refused("-a"), "Subdomain cannot start or end with a hyphen");
        assert_eq!(refused("a-"), "Subdomain cannot start or end with a hyphen");
    }

    #[test]
    fn names_are_lower_cased_and_63_characters_are_allowed() {
        assert_eq!(WorkerName::parse("My-App", &[]).unwrap().as_str(), "my-app");
        assert_eq!(WorkerName::parse(&"a".repeat(63), &[]).unwrap().as_str().len(), 63);
    }

    #[test]
    fn preview_label_keeps_short_names_and_bounds_long_ones() {
        let id = "0123456789abcdef0123456789abcdef";
        let short = WorkerName::parse("blog", &[]).unwrap();
        assert_eq!(preview_label(id, &short), "0123456789ab--blog");
        let longest_whole = WorkerName::parse(&"a".repeat(49), &[]).unwrap();
        assert_eq!(preview_label(id, &longest_whole), format!("0123456789ab--{}", "a".repeat(49)));
        let long = WorkerName::parse(&format!("{}--{}", "a".repeat(38), "b".repeat(20)), &[]).unwrap();
        let label = preview_label(id, &long);
        assert!(label.starts_with(&format!("0123456789ab--{}-", "a".repeat(38))), "{label}");
        assert_eq!(label.len(), 12 + 2 + 38 + 1 + 8);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_a_dns_label(input in "\\PC{0,80}") {
            if let Ok(name) = WorkerName::parse(&input, &[]) {
                let name = name.as_str();
                prop_assert!((1..=63).contains(&name.len()));
                prop_assert!(name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
                prop_assert!(!name.starts_with('-') && !name.ends_with('-'));
            }
        }

        #[test]
        fn preview_labels_fit_dns_and_are_no_worker_names(
            id in "[0-9a-f]{32}", input in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        ) {
            if let Ok(name) = WorkerName::parse(&input, &[]) {
                let label = preview_label(&id, &name);
                prop_assert!(label.len() <= 63 && !label.ends_with('-'));
                let refused_as_reserved =
                    matches!(WorkerName::parse(&label, &[]), Err(WorkerNameError::Reserved { .. }));
                prop_assert!(refused_as_reserved);
            }
        }
    }
}
