//! What an install reads: which files and which parts of manifests, and whether anything it installs could
//! run code. Pure words; reads nothing itself.

use serde_json::{Map, Value};

/// Files that an install reads beside manifests: whole, by digest.
const INPUT_FILES: &[&str] = &[
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "bun.lockb",
    "pnpm-workspace.yaml",
    "lerna.json",
    "binding.gyp",
    // Read by the install script of its client.
    "schema.prisma",
];
/// Settings of package managers; some name programs to run.
const SETTINGS: &[&str] = &[
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".pnpmfile.cjs",
    ".pnpmfile.mjs",
    "pnpmfile.js",
    "bunfig.toml",
    ".node-version",
    ".nvmrc",
];
/// Folders whose files managers and their patchers read.
const INPUT_FOLDERS: &[&str] = &["patches", ".yarn", "prisma"];
/// What of a manifest decides what is installed.
const MANIFEST_PARTS: &[&str] = &[
    "name",
    "version",
    "dependencies",
    "devDependencies",
    "optionalDependencies",
    "peerDependencies",
    "peerDependenciesMeta",
    "bundleDependencies",
    "bundledDependencies",
    "dependenciesMeta",
    "overrides",
    "resolutions",
    "workspaces",
    "packageManager",
    "devEngines",
    "engines",
    "os",
    "cpu",
    "bin",
    "pnpm",
    "installConfig",
    "trustedDependencies",
    "patchedDependencies",
    "catalog",
    "catalogs",
];
/// Scripts that an install runs, in groups: running the middle one runs those around it too.
const OWN_SCRIPTS: &[[&str; 3]] = &[
    ["preinstall", "install", "postinstall"],
    ["preprepublish", "prepublish", "postprepublish"],
    ["preprepare", "prepare", "postprepare"],
];

/// Whether an install reads this file.
pub fn is_input(path: &str) -> bool {
    INPUT_FILES.contains(&path.rsplit('/').next().unwrap_or(path))
        || path.split('/').any(|folder| INPUT_FOLDERS.contains(&folder))
}

/// Whether this file sets how a package manager works.
pub fn is_settings_file(name: &str) -> bool {
    SETTINGS.contains(&name)
}

/// What of a source tree decides what is installed.
#[derive(Default)]
pub struct Reading {
    pub manifests: usize,
    pub manifest_bytes: u64,
    pub has_settings: bool,
    /// A manifest that is not the project's own has scripts that an install runs.
    pub members_run: bool,
    pub own_scripts: Vec<String>,
    /// The own manifest without its name and version.
    pub dependencies: Value,
    pub inputs: Vec<(String, Value)>,
}

impl Reading {
    pub fn add(&mut self, path: &str, digest: &str) {
        self.inputs.push((path.to_owned(), Value::from(digest)));
    }

    pub fn manifest(&mut self, path: &str, text: &[u8], own: bool) {
        let Ok(Value::Object(manifest)) = serde_json::from_slice(text) else {
            self.inputs.push((path.to_owned(), Value::from(hex::encode(text))));
            return;
        };
        let mut parts: Map<String, Value> = MANIFEST_PARTS
            .iter()
            .filter_map(|part| Some(((*part).to_owned(), manifest.get(*part)?.clone())))
            .collect();
        let scripts = manifest.get("scripts").and_then(Value::as_object);
        let present = |name: &str| scripts.and_then(|s| s.get(name)).is_some_and(Value::is_string);
        let mut runs = Vec::new();
        for group in OWN_SCRIPTS {
            for name in group.iter().filter(|name| present(name)) {
                parts.insert((*name).to_owned(), scripts.map_or(Value::Null, |s| s[*name].clone()));
            }
            if present(group[1]) {
                runs.push(group[1].to_owned());
            } else {
                runs.extend(group.iter().filter(|name| present(name)).map(|name| (*name).to_owned()));
            }
        }
        self.inputs.push((path.to_owned(), Value::Object(parts.clone())));
        if own {
            self.own_scripts = runs;
            parts.remove("name");
            parts.remove("version");
            self.dependencies = Value::Object(parts);
        } else {
            self.members_run |= !runs.is_empty();
        }
    }
}

/// A variable that a package manager, or the Node beneath it, takes for a setting.
pub fn is_manager_setting(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["npm_", "yarn_", "pnpm_", "bun_", "corepack_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The lockfile without the project's name, if nothing that it installs here could run code: only checked
/// packages of a registry, and none with an install script.
pub fn scriptless(text: &[u8]) -> Option<Value> {
    let mut lockfile: Map<String, Value> = serde_json::from_slice(text).ok()?;
    lockfile.remove("name");
    lockfile.remove("version");
    let packages = lockfile.get_mut("packages")?.as_object_mut()?;
    let root = packages.get_mut("")?.as_object_mut()?;
    root.remove("name");
    root.remove("version");
    for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        let is = |part: &str| package[part].as_bool() == Some(true);
        // An optional package for other systems is not installed.
        let foreign = is("optional")
            && package["os"].as_array().is_some_and(|all| {
                let names: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                !names.is_empty() && names.iter().all(|name| !name.starts_with('!') && *name != "linux")
            });
        // Lockfiles may leave out where the registry keeps a package; of others they don't.
        let fetched = package["resolved"].as_str().is_none_or(|from| from.starts_with("http"));
        let checked = fetched && package["integrity"].as_str().is_some_and(|sum| sum.contains('-'));
        let plain = path.starts_with("node_modules/") && !is("link") && (checked || is("inBundle"));
        if !plain || (is("hasInstallScript") && !foreign) {
            return None;
        }
    }
    Some(Value::Object(lockfile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lockfile(package: &Value) -> Vec<u8> {
        let packages = json!({ "": { "name": "p", "version": "1" }, "node_modules/a": package });
        json!({ "name": "p", "version": "1", "lockfileVersion": 3, "packages": packages }).to_string().into()
    }

    #[test]
    fn only_checked_packages_without_scripts_may_be_shared() {
        let plain =
            json!({ "version": "1.0.0", "resolved": "https://r.test/a.tgz", "integrity": "sha512-x" });
        let with = |more: Value| {
            let mut package = plain.clone();
            package.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            scriptless(&lockfile(&package)).is_some()
        };
        assert!(with(json!({})) && with(json!({ "resolved": null })));
        assert!(with(json!({ "hasInstallScript": true, "optional": true, "os": ["darwin"] })));
        for bad in [
            json!({ "hasInstallScript": true }),
            json!({ "hasInstallScript": true, "optional": true, "os": ["linux"] }),
            json!({ "hasInstallScript": true, "optional": true, "os": ["!win32"] }),
            json!({ "hasInstallScript": true, "os": ["darwin"] }),
            json!({ "link": true }),
            json!({ "integrity": null }),
            json!({ "integrity": true }),
            json!({ "resolved": "git+ssh://git@host/a.git#1" }),
            json!({ "resolved": "file:vendor/a.tgz" }),
        ] {
            assert!(!with(bad.clone()), "{bad}");
        }
        let outside = json!({ "packages": { "": {}, "packages/a": plain } }).to_string();
        assert!(scriptless(outside.as_bytes()).is_none());
        assert!(scriptless(b"{}").is_none() && scriptless(b"[").is_none());
        let other = |name: &str| json!({ "name": name, "packages": { "": { "name": name } } }).to_string();
        assert_eq!(scriptless(other("a").as_bytes()), scriptless(other("b").as_bytes()));
    }

    #[test]
    fn own_scripts_run_once_each_and_those_of_others_are_noticed() {
        let mut reading = Reading::default();
        let own = json!({ "scripts": { "preinstall": "a", "install": "b", "prepare": "c", "postprepare": "d",
            "postprepublish": "e", "build": "f" }, "name": "x", "dependencies": { "a": "1" }, "description": "y" });
        reading.manifest("package.json", own.to_string().as_bytes(), true);
        assert_eq!(reading.own_scripts, ["install", "postprepublish", "prepare"]);
        assert!(!reading.members_run);
        let seen = reading.dependencies.as_object().unwrap();
        assert!(
            seen.contains_key("dependencies")
                && !seen.contains_key("name")
                && !seen.contains_key("description")
        );
        reading.manifest("packages/a/package.json", br#"{"scripts":{"prepare":"tsc"}}"#, false);
        assert!(reading.members_run);
        assert_eq!(reading.own_scripts.len(), 3);
    }
}
