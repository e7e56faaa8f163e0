//! What an install depends on, and who may be given what it made. Decides whether dependencies are kept
//! at all, says hit, miss and key in the build log, and repeats the project's own part of an install.
//! Keeps nothing itself: that is the sandbox's room.

use std::time::Instant;

use serde_json::{Map, Value};

use super::Walk;
use super::build::Bench;
use super::detect::{BuildPlan, Install};
use super::tools::Job;
use crate::toolchain::Manager;
use super::step::StepError;
use super::sync::Source;
use crate::domain::Step;
use crate::domain::time::rfc3339;
use crate::sandbox::{
    CacheScope, DependencyOrder, Found, FrameworkCaches, FrameworkOrder, Kept, Restored, Share,
};

const STEP: Step = Step::Build;

/// How dependencies are installed, and whether they are kept.
pub struct Installation {
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Scripts of the project itself that belong to an install, in their order.
    own_scripts: Vec<String>,
    order: Result<DependencyOrder, String>,
}

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
/// Manifests looked at, and their bytes together: a tree may be made of them.
const MANIFESTS: usize = 200;
const MANIFEST_BYTES: u64 = 16 << 20;

/// Decides how to install what `job` has locked.
pub async fn installation(
    walk: &Walk<'_>,
    source: &Source,
    job: &Job,
    command: Vec<String>,
    env: &[(String, String)],
) -> Result<Installation, StepError> {
    let (choice, folder) = (&job.choice, &job.choice.workspace);
    let uncached = |why: &str| Installation {
        command: command.clone(),
        env: env.to_vec(),
        own_scripts: Vec::new(),
        order: Err(why.to_owned()),
    };
    match job.plan.install {
        Install::Detected if choice.lockfile.is_none() => return Ok(uncached("there is no lockfile")),
        Install::Detected if choice.manager == Manager::YarnBerry => {
            return Ok(uncached("this yarn keeps what it installed in more places than node_modules"));
        }
        Install::Detected => {}
        Install::Command(_) => {
            return Ok(uncached("build.installCommand may read and write anything"));
        }
        Install::Nothing | Install::Skipped => return Ok(uncached("there is nothing to install")),
    }
    let mut reading = Reading::default();
    for (path, file) in &source.tree.files {
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.split('/').any(|part| part == "node_modules") {
            continue;
        }
        if name == "package.json" {
            reading.manifests += 1;
            reading.manifest_bytes = reading.manifest_bytes.saturating_add(file.size);
            if reading.manifests > MANIFESTS || reading.manifest_bytes > MANIFEST_BYTES {
                return Ok(uncached("there are too many package.json files, or too large ones"));
            }
            let text = read(walk, &file.digest).await?;
            let own = *path == at(folder, "package.json");
            reading.manifest(path, &text, own);
        } else if SETTINGS.contains(&name) {
            reading.has_settings = true;
            reading.add(path, file.digest.as_str());
        } else if INPUT_FILES.contains(&name) || path.split('/').any(|p| INPUT_FOLDERS.contains(&p)) {
            reading.add(path, file.digest.as_str());
        }
    }
    // Scripts of other packages of the tree may build these from any file.
    if reading.members_run || source.tree.files.contains_key(&at(folder, "binding.gyp")) {
        reading.add("source", source.digest.as_str());
    }
    let own_scripts = reading.own_scripts;
    let mut installation = Installation { command, env: env.to_vec(), own_scripts, order: Err(String::new()) };
    // npm without a version of its own is the one that comes with Node.
    let manager = format!("{} {}", choice.manager.program(), choice.manager_version.as_deref().unwrap_or_default());
    let fixed =
        [&manager, &choice.node_version, &installation.command.join("\0"), folder].map(ToOwned::to_owned);
    let lockfile = source.tree.files.get(&at(folder, "package-lock.json"));
    let may_share = choice.manager == Manager::Npm
        && !reading.has_settings
        && reading.manifests == 1
        && installation.own_scripts.is_empty()
        && !env.iter().any(|(name, _)| is_setting(name));
    let scriptless = match lockfile.filter(|_| may_share) {
        Some(file) => scriptless(&read(walk, &file.digest).await?),
        None => None,
    };
    let (share, inputs) = match scriptless {
        Some(lockfile) => {
            // Said by us, and not only by the lockfile; and nothing of the tenant's reaches npm.
            installation.command.push("--ignore-scripts".into());
            installation.env.retain(|(name, _)| name == "NODE_ENV");
            let parts = (fixed, lockfile, reading.dependencies, &installation.env);
            (Share::Organization, serde_json::to_vec(&parts))
        }
        None => (Share::Target, serde_json::to_vec(&(fixed, reading.inputs, &installation.env))),
    };
    installation.order = inputs.map_err(|e| e.to_string()).map(|inputs| DependencyOrder {
        scope: scope(walk),
        share,
        inputs,
        source: source.tree.files.keys().cloned().collect(),
        source_may_change: !installation.own_scripts.is_empty(),
    });
    Ok(installation)
}

#[derive(Default)]
struct Reading {
    manifests: usize,
    manifest_bytes: u64,
    has_settings: bool,
    /// A manifest that is not the project's own has scripts that an install runs.
    members_run: bool,
    own_scripts: Vec<String>,
    /// The own manifest without its name and version.
    dependencies: Value,
    inputs: Vec<(String, Value)>,
}

impl Reading {
    fn add(&mut self, path: &str, digest: &str) {
        self.inputs.push((path.to_owned(), Value::from(digest)));
    }

    fn manifest(&mut self, path: &str, text: &[u8], own: bool) {
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
fn is_setting(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["npm_", "yarn_", "pnpm_", "bun_", "corepack_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The lockfile without the project's name, if nothing that it installs here could run code: only checked
/// packages of a registry, and none with an install script.
fn scriptless(text: &[u8]) -> Option<Value> {
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

fn scope(walk: &Walk<'_>) -> CacheScope {
    CacheScope {
        organization: walk.org.as_str().to_owned(),
        project: walk.row.project_id.clone(),
        target: walk.row.target.clone(),
    }
}

async fn read(walk: &Walk<'_>, digest: &crate::domain::Digest) -> Result<bytes::Bytes, StepError> {
    walk.control().blobs.get(walk.org.as_str(), digest).await.map_err(|e| StepError::blobs(STEP, e))
}

fn at(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

impl Bench<'_, '_, '_> {
    /// Puts kept dependencies in their place, and runs what of an install is the project's own; answers
    /// the exit code of that, or `None` where there was nothing to put.
    pub(super) async fn restore(
        &mut self,
        folder: &str,
        installation: &Installation,
    ) -> Result<Option<i32>, StepError> {
        let begun = Instant::now();
        let order = match &installation.order {
            Ok(order) => order,
            Err(why) => {
                if self.sandbox.cache().is_some() {
                    self.say(&format!("libra: dependencies: not cached: {why}")).await?;
                }
                return Ok(None);
            }
        };
        let Some(cache) = self.sandbox.cache() else { return Ok(None) };
        match cache.restore_dependencies(order).await.map_err(|e| self.refused(e))? {
            Restored::Miss { key } => {
                self.say(&format!("libra: dependencies: miss {key}")).await?;
                Ok(None)
            }
            Restored::Hit(found) => {
                let line = format!(
                    "libra: dependencies: hit {} ({}, kept {}, {}) in {} ms",
                    found.key,
                    size(&found),
                    rfc3339(found.kept_at_ms),
                    found.method,
                    begun.elapsed().as_millis()
                );
                self.say(&line).await?;
                self.own_scripts(folder, installation).await.map(Some)
            }
        }
    }

    /// They see this deployment's files, which the kept dependencies don't depend on.
    async fn own_scripts(
        &mut self,
        folder: &str,
        installation: &Installation,
    ) -> Result<i32, StepError> {
        let manager = installation.command.first().cloned().unwrap_or_default();
        for script in &installation.own_scripts {
            let code = self.command(folder, &[manager.clone(), "run".into(), script.clone()]).await?;
            if code != 0 {
                return Ok(code);
            }
        }
        Ok(0)
    }

    /// Installs as decided, and offers the result to the next build.
    pub(super) async fn install_locked(
        &mut self,
        folder: &str,
        installation: &Installation,
    ) -> Result<i32, StepError> {
        let env = std::mem::replace(&mut self.env, installation.env.clone());
        let code = self.command(folder, &installation.command).await;
        self.env = env;
        let code = code?;
        if let (0, Ok(order)) = (code, &installation.order) {
            self.keep(order).await?;
        }
        Ok(code)
    }

    async fn keep(&mut self, order: &DependencyOrder) -> Result<(), StepError> {
        let begun = Instant::now();
        let Some(cache) = self.sandbox.cache() else { return Ok(()) };
        let line = match cache.keep_dependencies(order).await.map_err(|e| self.refused(e))? {
            Kept::Yes(found) => {
                let took = begun.elapsed().as_millis();
                format!("libra: dependencies: kept as {} ({}) in {took} ms", found.key, size(&found))
            }
            Kept::No(why) => format!("libra: dependencies: not kept: {why}"),
        };
        self.say(&line).await
    }

    pub(super) async fn take_framework_caches(&mut self, plan: &BuildPlan) -> Result<(), StepError> {
        let order = FrameworkOrder { scope: scope(self.walk), directory: plan.directory.clone() };
        let Some(cache) = self.sandbox.cache() else { return Ok(()) };
        let taken = cache.take_framework_caches(&order).await;
        self.say_framework("put back", taken).await
    }

    pub(super) async fn keep_framework_caches(&mut self, plan: &BuildPlan) -> Result<(), StepError> {
        let order = FrameworkOrder { scope: scope(self.walk), directory: plan.directory.clone() };
        let Some(cache) = self.sandbox.cache() else { return Ok(()) };
        let kept = cache.keep_framework_caches(&order).await;
        self.say_framework("kept", kept).await
    }

    async fn say_framework(
        &mut self,
        done: &str,
        caches: Result<FrameworkCaches, crate::sandbox::SandboxError>,
    ) -> Result<(), StepError> {
        match caches {
            Ok(caches) if !caches.folders.is_empty() => {
                let (names, bytes) = (caches.folders.join(", "), mib(caches.bytes));
                self.say(&format!("libra: framework caches: {done} {names} ({bytes})")).await
            }
            Ok(FrameworkCaches { refused: Some(why), .. }) => {
                self.say(&format!("libra: framework caches: not kept: {why}")).await
            }
            Ok(_) => Ok(()),
            // A build needs none of them.
            Err(error) => {
                tracing::warn!(deployment.id = %self.walk.row.id, error = %error, "framework caches were left out");
                Ok(())
            }
        }
    }
}

fn size(found: &Found) -> String {
    format!("{} in {} files", mib(found.bytes), found.files)
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
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
