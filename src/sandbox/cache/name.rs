//! Under which name something is kept: a digest over all that it depends on, salted, because the inputs
//! hold tenants' variables and the name is shown. Two things that must never be mixed up have two names.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{CacheScope, DependencyOrder, FrameworkOrder, Share};
use crate::sandbox::error::SandboxError;

/// Raised when what a snapshot looks like changes.
const FORMAT: &str = "libra-cache-1";
/// Digits of a name that people see.
const SHOWN: usize = 12;

/// A name on the shelf: the organization's folder, and the entry in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub organization: String,
    pub digest: String,
}

impl Name {
    pub(super) fn short(&self) -> String {
        self.digest.chars().take(SHOWN).collect()
    }
}

pub(super) fn of_dependencies(
    salt: &[u8],
    tools: &str,
    order: &DependencyOrder,
) -> Result<Name, SandboxError> {
    let scope = &order.scope;
    check(scope)?;
    let (share, project, target) = match order.share {
        Share::Organization => ("organization", "", ""),
        Share::Target => ("target", scope.project.as_str(), scope.target.as_str()),
    };
    let platform = platform();
    let parts = ["dependencies", share, project, target, &platform, tools].map(str::as_bytes);
    Ok(named(salt, scope, &[&parts[..], &[order.inputs.as_slice()]].concat()))
}

pub(super) fn of_framework(salt: &[u8], order: &FrameworkOrder) -> Result<Name, SandboxError> {
    let scope = &order.scope;
    check(scope)?;
    let parts = ["framework", &scope.project, &scope.target, &order.directory].map(str::as_bytes);
    Ok(named(salt, scope, &parts))
}

fn named(salt: &[u8], scope: &CacheScope, parts: &[&[u8]]) -> Name {
    let mut digest = Sha256::new();
    for part in [salt, FORMAT.as_bytes(), scope.organization.as_bytes()].iter().chain(parts) {
        // With its length, so that no part can pass for the end of another.
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(part);
    }
    Name { organization: scope.organization.clone(), digest: hex::encode(digest.finalize()) }
}

/// The organization becomes a folder's name.
fn check(scope: &CacheScope) -> Result<(), SandboxError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let good = |part: &str| (1..=64).contains(&part.len()) && part.chars().all(plain);
    if [&scope.organization, &scope.project, &scope.target].into_iter().all(|part| good(part)) {
        Ok(())
    } else {
        Err(SandboxError::BadId)
    }
}

/// Native modules fit one system, one processor and one C library.
fn platform() -> String {
    let musl =
        Path::new("/lib/ld-musl-x86_64.so.1").exists() || Path::new("/lib/ld-musl-aarch64.so.1").exists();
    let libc = if musl { "musl" } else { "glibc" };
    format!("{}-{}-{libc}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Tells one installed Node, with the npm in it, from another, without running it.
pub(super) fn tools(node: Option<&Path>) -> String {
    let Some(node) = node else { return "none".into() };
    let about = |name: &str| std::fs::metadata(node.join(name)).ok().map(|about| stamp(&about));
    format!("{:?} {:?}", about("bin/node"), about("lib/node_modules/npm/package.json"))
}

fn stamp(about: &Metadata) -> (u64, i64, i64) {
    (about.len(), about.mtime(), about.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(organization: &str, project: &str, target: &str, share: Share) -> DependencyOrder {
        DependencyOrder {
            scope: CacheScope {
                organization: organization.into(),
                project: project.into(),
                target: target.into(),
            },
            share,
            inputs: b"lockfile".to_vec(),
            source: Vec::new(),
            source_may_change: false,
            lockfile_may_change: None,
        }
    }

    fn digest(order: &DependencyOrder) -> String {
        of_dependencies(b"salt", "node", order).unwrap().digest
    }

    #[test]
    fn a_name_differs_wherever_mixing_up_would_hurt() {
        let base = digest(&order("o", "p", "production", Share::Target));
        let mut seen = vec![base.clone()];
        for other in [
            order("x", "p", "production", Share::Target),
            order("o", "x", "production", Share::Target),
            order("o", "p", "preview", Share::Target),
            order("o", "p", "production", Share::Organization),
            DependencyOrder { inputs: b"lockfilf".to_vec(), ..order("o", "p", "production", Share::Target) },
        ] {
            assert!(!seen.contains(&digest(&other)), "{other:?}");
            seen.push(digest(&other));
        }
        let p = order("o", "p", "production", Share::Target);
        assert_ne!(of_dependencies(b"other", "node", &p).unwrap().digest, base);
        assert_ne!(of_dependencies(b"salt", "other", &p).unwrap().digest, base);
        let framework = FrameworkOrder { scope: p.scope.clone(), directory: String::new() };
        assert_ne!(of_framework(b"salt", &framework).unwrap().digest, base);
        // Neither project nor target counts once the whole organization may have it.
        let shared = |project, target| digest(&order("o", project, target, Share::Organization));
        assert_eq!(shared("p", "production"), shared("q", "preview"));
        assert_ne!(shared("p", "production"), digest(&order("x", "p", "production", Share::Organization)));
    }

    #[test]
    fn an_organization_that_is_no_folder_name_is_refused() {
        for bad in ["", "..", "a/b", "A", &"a".repeat(65)] {
            assert!(
                of_dependencies(b"", "", &order(bad, "p", "production", Share::Target)).is_err(),
                "{bad}"
            );
        }
    }
}
