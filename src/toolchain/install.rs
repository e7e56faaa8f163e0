//! Has the tools of a choice ready: those that are there, and those that are installed now. One server
//! installs, the others wait; what is asked of a stranger's version is checked before it is used.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::Flock;
use nodejs_semver::{Range, Version};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::choose::Choice;
use super::error::{Mistake, ToolError, disk};
use super::kind::{Hash, Manager};
use super::pins::{self, NodePin, PINS, Package, Processor};
use super::settings::Settings;
use super::store::{Lease, Note, Staging, Store};
use super::unpack::{self, Room};
use crate::sandbox::mirror::{Mirror, MirrorError};

/// What the installer put there answers at once; a machine under load gets more.
const NODE_ANSWERS: Duration = Duration::from_secs(30);
/// A package.json of a tool is a few KiB.
const MANIFEST_BYTES: u64 = 1 << 20;

/// Where tools may lie.
#[derive(Debug, Clone)]
pub struct ToolchainPaths {
    /// `<tools>/node/<major>` may hold what the installer laid out.
    pub tools: PathBuf,
    /// The first of these that can be written takes the tools.
    pub folders: Vec<PathBuf>,
}

/// One tool, in use as long as this lives.
#[derive(Debug)]
pub struct Tool {
    /// With its programs in `bin`.
    pub folder: PathBuf,
    pub version: String,
    _lease: Option<Lease>,
}

/// What a build runs with.
#[derive(Debug)]
pub struct Tools {
    pub node: Tool,
    /// `None`: the npm that comes with Node.
    pub manager: Option<Tool>,
}

pub struct Toolchain {
    settings: Settings,
    paths: ToolchainPaths,
    store: Arc<Store>,
    mirror: Arc<Mirror>,
    /// What the installer laid out, by major: asked once.
    laid_out: Mutex<Vec<(u32, Option<String>)>>,
}

/// How one tool is put together.
struct Recipe<'a> {
    /// `<tool>-<version>`.
    name: String,
    version: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Node(&'a NodePin),
    Manager(Manager),
}

impl Toolchain {
    /// # Errors
    /// If none of the folders can be written.
    pub fn open(settings: &Settings, paths: ToolchainPaths, mirror: Arc<Mirror>) -> Result<Self, ToolError> {
        let store = Arc::new(Store::open(&paths.folders, settings.kept_tools)?);
        Ok(Self { settings: settings.clone(), paths, store, mirror, laid_out: Mutex::default() })
    }

    /// The tools of a choice, installed where they are missing.
    ///
    /// # Errors
    /// A `Mistake` where the project asks for what can't be had; anything else is the platform's.
    pub async fn ready(&self, choice: &Choice) -> Result<Tools, ToolError> {
        let processor = Processor::here().ok_or(ToolError::Processor)?;
        let node = self.node(choice.node_major, processor).await?;
        let Some(version) = &choice.manager_version else { return Ok(Tools { node, manager: None }) };
        let manager = choice.manager;
        let name = match manager {
            Manager::YarnBerry => format!("yarn-berry-{version}"),
            other => format!("{other}-{version}"),
        };
        let recipe = Recipe { name, version, kind: Kind::Manager(manager) };
        let lease = self.get(&recipe, processor).await?;
        check(manager, &lease.note, choice.hash.as_ref(), &node.version)?;
        Ok(Tools { node, manager: Some(lease.into()) })
    }

    async fn node(&self, major: u32, processor: Processor) -> Result<Tool, ToolError> {
        let Some(pin) = PINS.node.iter().find(|pin| pin.major == major) else {
            return Err(ToolError::Processor);
        };
        if self.laid_out(major).await.as_deref() == Some(&pin.version) {
            let folder = self.paths.tools.join("node").join(major.to_string());
            return Ok(Tool { folder, version: pin.version.clone(), _lease: None });
        }
        let name = format!("node-{}", pin.version);
        let recipe = Recipe { name, version: &pin.version, kind: Kind::Node(pin) };
        Ok(self.get(&recipe, processor).await?.into())
    }

    /// The version of the Node that the installer laid out for a major, if it did.
    async fn laid_out(&self, major: u32) -> Option<String> {
        let mut known = self.laid_out.lock().await;
        if let Some((_, version)) = known.iter().find(|(known, _)| *known == major) {
            return version.clone();
        }
        let home = self.paths.tools.join("node").join(major.to_string());
        let version = match home.join("lib/node_modules/npm/package.json").is_file() {
            true => node_version(&home.join("bin/node")).await,
            false => None,
        };
        known.push((major, version.clone()));
        version
    }

    async fn get(&self, recipe: &Recipe<'_>, processor: Processor) -> Result<Lease, ToolError> {
        let seconds = self.settings.install_timeout_seconds;
        let got = tokio::time::timeout(Duration::from_secs(seconds), self.find_or_install(recipe, processor));
        got.await.map_err(|_| ToolError::TooLong { tool: recipe.name.clone(), seconds })?
    }

    async fn find_or_install(&self, recipe: &Recipe<'_>, processor: Processor) -> Result<Lease, ToolError> {
        loop {
            if let Some(lease) = self.store.find(&recipe.name)? {
                return Ok(lease);
            }
            let alone = self.store.lock(&recipe.name).await?;
            // Whoever had the lock before may have installed it.
            if let Some(lease) = self.store.find(&recipe.name)? {
                return Ok(lease);
            }
            self.install(recipe, processor, alone).await?;
        }
    }

    /// `alone` is the tool's lock: held until the tool is in place, also if nobody waits any more.
    async fn install(
        &self,
        recipe: &Recipe<'_>,
        processor: Processor,
        alone: Flock<File>,
    ) -> Result<(), ToolError> {
        let started = std::time::Instant::now();
        let packages = match recipe.kind {
            Kind::Node(pin) => vec![pin.package(processor), pin.npm_package()],
            Kind::Manager(manager) => vec![pins::package(manager, recipe.version, processor)],
        };
        let mut fetched = Vec::with_capacity(packages.len());
        for package in packages {
            let file = self.fetch(recipe, &package).await?;
            fetched.push((package, file));
        }
        let room = Room { bytes: self.settings.unpacked_bytes, entries: self.settings.unpacked_entries };
        let is_node = matches!(recipe.kind, Kind::Node(_));
        let (store, name, version) =
            (Arc::clone(&self.store), recipe.name.clone(), recipe.version.to_owned());
        let work = move || {
            let _alone = alone;
            let staging = store.stage()?;
            let note = build(&name, &version, is_node, fetched, &staging, room)?;
            store.place(staging, &name, &note)?;
            store.evict(&is_pinned);
            Ok::<_, ToolError>(())
        };
        tokio::task::spawn_blocking(work).await.map_err(ToolError::Task)??;
        tracing::info!(tool = %recipe.name, wall_ms = started.elapsed().as_millis(), "tool installed");
        Ok(())
    }

    async fn fetch(&self, recipe: &Recipe<'_>, package: &Package) -> Result<File, ToolError> {
        let fetched = self.mirror.package(&package.name, &package.version).await;
        fetched.map_err(|source| match (source, &recipe.kind) {
            (MirrorError::NotFound, Kind::Manager(manager)) if package.integrity.is_none() => {
                let (tool, version) = (manager.to_string(), package.version.clone());
                Mistake::VersionUnknown { tool, version }.into()
            }
            (source, _) => ToolError::Registry { tool: recipe.name.clone(), source },
        })
    }
}

impl From<Lease> for Tool {
    fn from(lease: Lease) -> Self {
        Self { folder: lease.folder.clone(), version: lease.note.version.clone(), _lease: Some(lease) }
    }
}

fn is_pinned(name: &str) -> bool {
    let node = PINS.node.iter().any(|pin| name.strip_prefix("node-") == Some(&pin.version));
    let pnpm = PINS.pnpm.iter().any(|pin| name.strip_prefix("pnpm-") == Some(&pin.version));
    let rest = [
        ("yarn-", &PINS.yarn_classic.version),
        ("yarn-berry-", &PINS.yarn_berry.version),
        ("bun-", &PINS.bun.version),
    ];
    node || pnpm || rest.iter().any(|(tool, version)| name.strip_prefix(tool) == Some(version))
}

async fn node_version(node: &Path) -> Option<String> {
    let mut command = Command::new(node);
    command.arg("--version").env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = crate::process::spawn(command).await.ok()?;
    let output = tokio::time::timeout(NODE_ANSWERS, child.wait_with_output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().strip_prefix('v').map(ToOwned::to_owned)
}

/// Checks each package and puts the tool together.
fn build(
    name: &str,
    version: &str,
    is_node: bool,
    fetched: Vec<(Package, File)>,
    staging: &Staging,
    mut room: Room,
) -> Result<Note, ToolError> {
    let refused = |why: String| ToolError::Unpack { tool: name.to_owned(), why };
    let home = staging.folder.clone();
    let mut note =
        Note { version: version.to_owned(), tarball: Default::default(), program: None, needs_node: None };
    for (package, mut file) in fetched {
        let digests = unpack::digests(&mut file).map_err(disk("read a tarball"))?;
        if package.integrity.as_deref().is_some_and(|pin| !unpack::matches(&digests, pin)) {
            return Err(ToolError::Integrity { package: package.name, version: package.version });
        }
        file.rewind().map_err(disk("read a tarball"))?;
        let npm = is_node && package.name == "npm";
        let into = match (is_node, npm) {
            (true, false) => home.clone(),
            (true, true) => home.join("lib/node_modules/npm"),
            (false, _) => home.join("package"),
        };
        std::fs::create_dir_all(&into).map_err(disk("make a folder"))?;
        // Headers and manuals are twenty times as many files as the rest, and no build reads them.
        let wanted = |path: &Path| !is_node || npm || path.starts_with("bin") || path == Path::new("LICENSE");
        unpack::unpack(&file, &into, &mut room, wanted).map_err(refused)?;
        if !is_node || npm {
            let links = if npm { "../lib/node_modules/npm" } else { "../package" };
            let manifest = link_programs(&home, &into, links).map_err(refused)?;
            note.needs_node = manifest.needs_node.filter(|_| !npm);
            note.tarball = digests;
            note.program = manifest.program;
        }
    }
    Ok(note)
}

struct Linked {
    needs_node: Option<String>,
    /// Digests of the one file that all programs are.
    program: Option<unpack::Digests>,
}

/// Links what a package.json calls its programs into `<home>/bin`.
fn link_programs(home: &Path, package: &Path, links: &str) -> Result<Linked, String> {
    use std::io::Read;
    let failed = |e: std::io::Error| format!("its programs can't be laid out ({e})");
    let mut text = Vec::new();
    let manifest = File::open(package.join("package.json")).map_err(failed)?;
    manifest.take(MANIFEST_BYTES).read_to_end(&mut text).map_err(failed)?;
    let manifest: serde_json::Value =
        serde_json::from_slice(&text).map_err(|_| "its package.json can't be read")?;
    let mut programs: Vec<(String, String)> = match &manifest["bin"] {
        serde_json::Value::Object(all) => {
            all.iter().filter_map(|(name, path)| Some((name.clone(), path.as_str()?.to_owned()))).collect()
        }
        _ => Vec::new(),
    };
    if package.join("bin/bun").is_file() {
        // It is told by its name which of the two it is.
        programs = ["bun", "bunx"].map(|name| (name.to_owned(), "bin/bun".to_owned())).into();
    }
    let folder = home.join("bin");
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let mut targets = std::collections::BTreeSet::new();
    for (name, path) in programs {
        let path = path.trim_start_matches("./").to_owned();
        let plain = |word: &str| !word.is_empty() && !word.starts_with('.');
        if !plain(&name) || name.contains('/') || !path.split('/').all(plain) {
            return Err("its package.json names a program that is not in it".into());
        }
        let target = package.join(&path);
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        symlink(format!("{links}/{path}"), folder.join(name)).map_err(failed)?;
        targets.insert(target);
    }
    let first = targets.first().ok_or("its package.json names no program")?;
    let mut program = File::open(first).map_err(failed)?;
    let single = targets.len() == 1;
    Ok(Linked {
        needs_node: manifest["engines"]["node"].as_str().map(ToOwned::to_owned),
        program: single.then(|| unpack::digests(&mut program)).transpose().map_err(failed)?,
    })
}

/// What the project said about the manager, and what the manager says about Node.
fn check(manager: Manager, note: &Note, hash: Option<&Hash>, node: &str) -> Result<(), Mistake> {
    let (tool, version) = (manager.to_string(), note.version.clone());
    if let Some(hash) = hash {
        // Corepack takes the digest of the one program for yarn 2 and later, and of the tarball for the rest.
        let digests = match manager {
            Manager::YarnBerry => note.program.as_ref(),
            _ => Some(&note.tarball),
        };
        if digests.and_then(|digests| digests.get(&hash.algorithm)) != Some(&hash.hex) {
            return Err(Mistake::WrongHash { tool, version, algorithm: hash.algorithm.clone() });
        }
    }
    if let Some(needs) = &note.needs_node
        && let (Ok(range), Ok(running)) = (Range::parse(needs), Version::parse(node))
        && !range.satisfies(&running)
    {
        return Err(Mistake::WrongNode { tool, version, needs: needs.clone(), node: node.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use base64::Engine;
    use sha2::{Digest, Sha512};

    use super::*;

    fn tarball(content: &str) -> Vec<u8> {
        let mut packed = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), Default::default()));
        for (path, text) in [("package/package.json", r#"{"bin":{"tool":"run"}}"#), ("package/run", content)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(text.len() as u64);
            packed.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        packed.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn a_package_that_is_not_the_pinned_one_is_not_even_unpacked() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&[home.path().join("tools")], 1).unwrap();
        let room = Room { bytes: 10_000, entries: 10 };
        let (good, bad) = (tarball("the program"), tarball("another one"));
        let pin =
            format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(Sha512::digest(&good)));
        let built = |bytes: &[u8], integrity: Option<&str>| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            let package = Package {
                name: "tool".into(),
                version: "1.0.0".into(),
                integrity: integrity.map(Into::into),
            };
            let staging = store.stage().unwrap();
            let note = build("tool-1.0.0", "1.0.0", false, vec![(package, file)], &staging, room);
            (note, staging.folder.join("package").exists())
        };
        for (bytes, pin) in [(&bad, &*pin), (&good, "sha512-AAAA"), (&good, "sha1-AAAA"), (&good, "")] {
            let (note, unpacked) = built(bytes, Some(pin));
            assert!(matches!(note, Err(ToolError::Integrity { .. })) && !unpacked, "{pin}");
        }
        assert!(built(&good, Some(&pin)).0.is_ok() && built(&bad, None).0.is_ok());
    }
}
