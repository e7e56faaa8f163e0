//! What an install depends on, and who may be given what it made. Decides whether dependencies are kept
//! at all, says hit, miss and key in the build log, and repeats the project's own part of an install.
//! Keeps nothing itself: that is the sandbox's room.

use std::time::Instant;

use super::Walk;
use super::build::Bench;
use super::detect::{BuildPlan, Install};
use super::inputs::{Reading, is_input, is_manager_setting, is_settings_file, scriptless};
use super::step::StepError;
use super::sync::Source;
use super::tools::Job;
use crate::domain::Step;
use crate::domain::time::rfc3339;
use crate::sandbox::{
    CacheScope, DependencyOrder, Found, FrameworkCaches, FrameworkOrder, Kept, Restored, Share,
};
use crate::toolchain::Manager;

const STEP: Step = Step::Build;

/// How dependencies are installed, and whether they are kept.
pub struct Installation {
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Scripts of the project itself that belong to an install, in their order.
    own_scripts: Vec<String>,
    order: Result<DependencyOrder, String>,
    /// What was installed in spite of a lockfile that does not fit: for this project and target only.
    misfit: Option<DependencyOrder>,
}

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
        misfit: None,
    };
    match job.plan.install {
        Install::Detected if choice.lockfile.is_none() => return Ok(uncached("there is no lockfile")),
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
        } else if is_settings_file(name) {
            reading.has_settings = true;
            reading.add(path, file.digest.as_str());
        } else if is_input(path) {
            reading.add(path, file.digest.as_str());
        }
    }
    // Scripts of other packages of the tree may build these from any file.
    if reading.members_run || source.tree.files.contains_key(&at(folder, "binding.gyp")) {
        reading.add("source", source.digest.as_str());
    }
    let own_scripts = reading.own_scripts;
    let mut installation =
        Installation { command, env: env.to_vec(), own_scripts, order: Err(String::new()), misfit: None };
    // npm without a version of its own is the one that comes with Node.
    let manager =
        format!("{} {}", choice.manager.program(), choice.manager_version.as_deref().unwrap_or_default());
    let fixed =
        [&manager, &choice.node_version, &installation.command.join("\0"), folder].map(ToOwned::to_owned);
    let lockfile = source.tree.files.get(&at(folder, "package-lock.json"));
    let may_share = choice.manager == Manager::Npm
        && !reading.has_settings
        && reading.manifests == 1
        && installation.own_scripts.is_empty()
        && !env.iter().any(|(name, _)| is_manager_setting(name));
    let scriptless = match lockfile.filter(|_| may_share) {
        Some(file) => scriptless(&read(walk, &file.digest).await?),
        None => None,
    };
    let misfit = serde_json::to_vec(&("misfit", &fixed, &reading.inputs, env));
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
    let source_may_change = !installation.own_scripts.is_empty();
    let order = |share, inputs| DependencyOrder {
        scope: scope(walk),
        share,
        inputs,
        source: source.tree.files.keys().cloned().collect(),
        source_may_change,
        lockfile_may_change: None,
    };
    installation.order = inputs.map_err(|e| e.to_string()).map(|inputs| order(share, inputs));
    // Making the lockfile fit changes it, and must change nothing else of the source.
    let lockfile_may_change = choice.lockfile.map(|name| at(folder, name));
    installation.misfit =
        misfit.ok().map(|inputs| DependencyOrder { lockfile_may_change, ..order(Share::Target, inputs) });
    Ok(installation)
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
                    self.say(&format!("libra: dependencies: not cached: {why}"));
                }
                return Ok(None);
            }
        };
        let forget = self.forget;
        let Some(cache) = self.sandbox.cache() else { return Ok(None) };
        if forget {
            for order in [Some(order), installation.misfit.as_ref()].into_iter().flatten() {
                let forgotten = cache.forget_dependencies(order).await;
                without(forgotten, &self.walk.row.id);
            }
            self.say("libra: dependencies: nothing that was kept is used, as this deployment says");
            return Ok(None);
        }
        let mut restored = cache.restore_dependencies(order).await;
        if let (Ok(Restored::Miss { key }), Some(misfit)) = (&restored, &installation.misfit) {
            let key = key.clone();
            restored = cache.restore_dependencies(misfit).await.map(|other| match other {
                Restored::Miss { .. } => Restored::Miss { key },
                hit @ Restored::Hit(_) => hit,
            });
        }
        match restored.map_err(|e| self.refused(e))? {
            Restored::Miss { key } => {
                self.say(&format!("libra: dependencies: miss {key}"));
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
                self.say(&line);
                self.own_scripts(folder, installation).await.map(Some)
            }
        }
    }

    /// They see this deployment's files, which the kept dependencies don't depend on.
    async fn own_scripts(&mut self, folder: &str, installation: &Installation) -> Result<i32, StepError> {
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

    /// Offers to the next build what was installed after all, with a lockfile that does not fit.
    pub(super) async fn keep_misfit(&mut self, installation: &Installation) -> Result<(), StepError> {
        match &installation.misfit {
            Some(order) => self.keep(order).await,
            None => Ok(()),
        }
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
        self.say(&line);
        Ok(())
    }

    pub(super) async fn take_framework_caches(&mut self, plan: &BuildPlan) {
        let order = FrameworkOrder { scope: scope(self.walk), directory: plan.directory.clone() };
        let forget = self.forget;
        let Some(cache) = self.sandbox.cache() else { return };
        if forget {
            let forgotten = cache.forget_framework_caches(&order).await;
            without(forgotten, &self.walk.row.id);
            return;
        }
        let taken = cache.take_framework_caches(&order).await;
        self.say_framework("put back", taken);
    }

    pub(super) async fn keep_framework_caches(&mut self, plan: &BuildPlan) {
        let order = FrameworkOrder { scope: scope(self.walk), directory: plan.directory.clone() };
        let Some(cache) = self.sandbox.cache() else { return };
        let kept = cache.keep_framework_caches(&order).await;
        self.say_framework("kept", kept);
    }

    fn say_framework(&mut self, done: &str, caches: Result<FrameworkCaches, crate::sandbox::SandboxError>) {
        match caches {
            Ok(caches) if !caches.folders.is_empty() => {
                let (names, bytes) = (caches.folders.join(", "), mib(caches.bytes));
                self.say(&format!("libra: framework caches: {done} {names} ({bytes})"));
            }
            Ok(FrameworkCaches { refused: Some(why), .. }) => {
                self.say(&format!("libra: framework caches: not kept: {why}"));
            }
            Ok(_) => {}
            // A build needs none of them.
            Err(error) => {
                tracing::warn!(deployment.id = %self.walk.row.id, error = %error, "framework caches were left out");
            }
        }
    }
}

/// What could not be removed is only not used.
fn without(forgotten: Result<(), crate::sandbox::SandboxError>, deployment: &str) {
    if let Err(error) = forgotten {
        tracing::warn!(deployment.id = %deployment, error = %error, "what was kept could not be removed");
    }
}

fn size(found: &Found) -> String {
    format!("{} in {} files", mib(found.bytes), found.files)
}

fn mib(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}
