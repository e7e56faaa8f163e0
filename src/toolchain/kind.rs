//! The package managers that are known, and how a project names one: `packageManager` in package.json.

use std::fmt;

use nodejs_semver::Version;

use super::error::Mistake;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Manager {
    Npm,
    Pnpm,
    /// Version 1.
    YarnClassic,
    /// Version 2 and later.
    YarnBerry,
    Bun,
}

impl Manager {
    /// Its program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::YarnClassic | Self::YarnBerry => "yarn",
            Self::Bun => "bun",
        }
    }

    /// The package that its program comes in, wherever it runs.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Npm => "npm",
            Self::Pnpm => "pnpm",
            Self::YarnClassic => "yarn",
            Self::YarnBerry => "@yarnpkg/cli-dist",
            Self::Bun => "bun",
        }
    }

    /// The lockfiles that it reads, the one it prefers first.
    #[must_use]
    pub const fn lockfiles(self) -> &'static [&'static str] {
        match self {
            Self::Npm => &["npm-shrinkwrap.json", "package-lock.json"],
            Self::Pnpm => &["pnpm-lock.yaml"],
            Self::YarnClassic | Self::YarnBerry => &["yarn.lock"],
            Self::Bun => &["bun.lock", "bun.lockb"],
        }
    }

    /// Older ones lack the commands that builds are made with.
    const fn oldest_major(self) -> u64 {
        match self {
            Self::Npm | Self::Pnpm => 7,
            Self::YarnClassic | Self::Bun => 1,
            Self::YarnBerry => 2,
        }
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// What a project says it is to be built with: `pnpm@10.1.0+sha512.<hex>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    /// `npm`, `pnpm`, `yarn` or `bun`.
    pub name: Name,
    pub version: Option<String>,
    pub hash: Option<Hash>,
}

/// As written: which yarn it is may only be known by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Npm,
    Pnpm,
    Yarn,
    Bun,
}

/// A digest of the manager itself, as corepack writes it: of the tarball, and of `yarn.js` for yarn 2
/// and later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hash {
    pub algorithm: String,
    pub hex: String,
}

/// Digests that are kept of every installed tool.
pub(super) const ALGORITHMS: &[&str] = &["sha1", "sha224", "sha256", "sha384", "sha512"];

/// Longer than any that means something; it is shown to people.
const SPEC_BYTES: usize = 400;

impl Spec {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let text = text.trim();
        let bad = |why| Mistake::BadManager { text: shown(text), why };
        if text.len() > SPEC_BYTES {
            return Err(bad("it is too long"));
        }
        let (name, rest) = text.split_once('@').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let name = match name {
            "npm" => Name::Npm,
            "pnpm" => Name::Pnpm,
            "yarn" => Name::Yarn,
            "bun" => Name::Bun,
            _ => return Err(bad("npm, pnpm, yarn and bun are known")),
        };
        let Some(rest) = rest else { return Ok(Self { name, version: None, hash: None }) };
        let (version, hash) = rest.split_once('+').map_or((rest, None), |(v, h)| (v, Some(h)));
        let exact = Version::parse(version).ok().filter(|parsed| parsed.to_string() == version);
        let exact = exact.ok_or_else(|| bad("the version must be an exact one, such as 10.1.0"))?;
        let spec = Self { name, version: Some(version.to_owned()), hash: hash.map(hash_of).transpose()? };
        let manager = spec.manager(false);
        if exact.major() < manager.oldest_major() {
            return Err(bad("it is too old to build with"));
        }
        if spec.hash.is_some() && manager == Manager::Bun {
            return Err(bad("a hash of bun can't be checked; leave it out"));
        }
        Ok(spec)
    }

    /// `berry`: which yarn it is where no version says so.
    pub(super) fn manager(&self, berry: bool) -> Manager {
        let classic = self.version.as_deref().map_or(!berry, |version| version.starts_with("1."));
        match self.name {
            Name::Npm => Manager::Npm,
            Name::Pnpm => Manager::Pnpm,
            Name::Yarn if classic => Manager::YarnClassic,
            Name::Yarn => Manager::YarnBerry,
            Name::Bun => Manager::Bun,
        }
    }
}

fn hash_of(text: &str) -> Result<Hash, Mistake> {
    let bad = || Mistake::BadHash { text: shown(text) };
    let (algorithm, hex) = text.split_once('.').ok_or_else(bad)?;
    let whole = hex::decode(hex).is_ok_and(|digest| !digest.is_empty());
    if !ALGORITHMS.contains(&algorithm) || !whole {
        return Err(bad());
    }
    Ok(Hash { algorithm: algorithm.to_owned(), hex: hex.to_ascii_lowercase() })
}

/// What a stranger wrote, fit to be shown.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_versions_with_and_without_a_hash_are_read() {
        let spec = Spec::parse("pnpm@10.1.0+sha224.ABcd").unwrap();
        assert_eq!((spec.name, spec.version.as_deref()), (Name::Pnpm, Some("10.1.0")));
        assert_eq!(spec.hash, Some(Hash { algorithm: "sha224".into(), hex: "abcd".into() }));
        assert_eq!(Spec::parse("yarn@1.22.22").unwrap().manager(true), Manager::YarnClassic);
        assert_eq!(Spec::parse("yarn@4.0.0-rc.1").unwrap().manager(false), Manager::YarnBerry);
        let plain = Spec::parse(" yarn ").unwrap();
        assert_eq!((plain.manager(true), plain.manager(false)), (Manager::YarnBerry, Manager::YarnClassic));
    }

    #[test]
    fn what_is_not_exact_or_not_known_is_refused() {
        for bad in [
            "",
            "cnpm@1.0.0",
            "pnpm@",
            "pnpm@10",
            "pnpm@^10.0.0",
            "pnpm@latest",
            "pnpm@10.0.0/../x",
            "pnpm@https://example.test/pnpm.tgz",
            "npm@6.14.0",
            "pnpm@6.0.0",
            "pnpm@10.0.0+sha512",
            "pnpm@10.0.0+md5.00",
            "pnpm@10.0.0+sha512.xyz",
            "bun@1.2.0+sha512.00",
            &"p".repeat(500),
        ] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }
}
