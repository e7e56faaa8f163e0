//! What kind of project a tree is, and why: signs → commands → output folder. Knowledge is in the
//! table, wishes come from the deployment and from `libra.toml`; here is only how they decide.
//! Never runs anything: configuration that is code is run by builds, in their sandbox.

mod error;
mod manifest;
mod place;
mod project_file;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::domain::source::{BuildOverrides, SourceTree};
use crate::domain::tree_path::parse_folder;
use manifest::Manifest;
use table::Framework;

pub use error::DetectError;
pub use place::located;
pub use table::Advice;

/// What is to be done with a tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing to build: the files beneath `directory` (empty: the root) are the site.
    Files {
        directory: String,
        sign: String,
    },
    Build(Box<BuildPlan>),
}

#[derive(Debug, PartialEq, Eq)]
pub struct BuildPlan {
    /// A row of the table, or `script` (any build script) or `command` (the user's, without package.json).
    pub framework: String,
    /// What was recognised, and by which sign.
    pub sign: String,
    /// Where the install runs, relative to the tree's root: the workspace's root where there is one.
    pub root: String,
    /// Where the build runs, relative to the tree's root; empty: the root.
    pub directory: String,
    pub install: Install,
    pub build: BuildCommand,
    /// Output folders to look for, in order, relative to `directory`.
    pub outputs: Outputs,
    /// What to say of a build that turns out to need a server.
    pub needs_server: Option<Advice>,
    /// As `libra.toml` or the deployment wishes; nothing here has looked at them.
    pub node: Option<String>,
    pub package_manager: Option<String>,
}

impl BuildPlan {
    /// Whether an output folder, guessed as one of several, may as well hold what the build copies from.
    pub fn may_be_source(&self, output: &str) -> bool {
        let first =
            || matches!(&self.outputs, Outputs::Guessed(all) if all.first().is_some_and(|o| o == PUBLIC));
        output == PUBLIC && !first()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Install {
    /// The project has no dependencies.
    Nothing,
    /// The project says that nothing is to be installed.
    Skipped,
    /// As the package manager and the lockfile demand.
    Detected,
    /// The user's line.
    Command(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum BuildCommand {
    /// A script of package.json.
    Script(String),
    /// A program of an installed package, with its arguments.
    Tool(Vec<String>),
    /// The user's line.
    Line(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outputs {
    /// The user named it: taken as it is.
    Named(String),
    /// Names to try; one without a page is not it.
    Guessed(Vec<String>),
}

/// Contents that a decision needs, by path.
pub type Files = BTreeMap<String, Bytes>;

/// Parents whose package.json is looked at for workspaces.
const PARENTS: usize = 8;
/// Folders named in a hint.
const NAMED: usize = 5;
const LOCKFILES: &[&str] =
    &["package-lock.json", "npm-shrinkwrap.json", "pnpm-lock.yaml", "yarn.lock", "bun.lock", "bun.lockb"];
/// Where builds usually write.
const USUAL: &[&str] = &["dist", "build", "out", PUBLIC];
/// Some write here and others keep here what they copy: see [`BuildPlan::may_be_source`].
const PUBLIC: &str = "public";
const PNPM_WORKSPACE: &str = "pnpm-workspace.yaml";
/// No framework: files are the site.
pub const PLAIN: &str = "plain";

/// What `framework` may be.
#[must_use]
pub fn names() -> Vec<&'static str> {
    table::all().iter().map(|f| f.name.as_str()).chain([PLAIN]).collect()
}

/// Where the project's `libra.toml` is, if it has one.
///
/// # Errors
/// [`DetectError::BadPath`] if the deployment's root directory is none.
pub fn project_file(tree: &SourceTree, deployment: &BuildOverrides) -> Result<Option<String>, DetectError> {
    Ok(project_file::path(tree, &root(deployment)?))
}

/// What is wished: by the deployment, else by the project's file.
///
/// # Errors
/// [`DetectError::BadProjectFile`] with the line.
pub fn wishes(
    deployment: &BuildOverrides,
    file: Option<(&str, &[u8])>,
) -> Result<BuildOverrides, DetectError> {
    let Some((path, bytes)) = file else { return Ok(deployment.clone()) };
    Ok(project_file::merge(deployment, project_file::parse(path, bytes)?, &root(deployment)?))
}

/// Which files of the tree [`detect`] needs to read.
///
/// # Errors
/// [`DetectError::BadPath`] if the root directory is none.
pub fn sources(tree: &SourceTree, wishes: &BuildOverrides) -> Result<Vec<String>, DetectError> {
    let directory = root(wishes)?;
    let mut paths = vec![join(&directory, "package.json"), join(&directory, "angular.json")];
    paths.extend(parents(&directory).map(|parent| join(parent, "package.json")));
    paths.retain(|path| tree.files.contains_key(path));
    Ok(paths)
}

/// Decides. `files` holds what [`sources`] named.
///
/// # Errors
/// Why there is nothing to deploy, for the user.
pub fn detect(tree: &SourceTree, wishes: &BuildOverrides, files: &Files) -> Result<Plan, DetectError> {
    let project = Project::of(tree, wishes, files)?;
    let forced = wishes.framework.as_deref().filter(|f| !f.is_empty());
    if forced == Some(PLAIN) {
        let plain = project.as_files("plain HTML: the framework is set");
        return plain.ok_or_else(|| DetectError::Nothing(project.packages()));
    }
    if let Some(name) = forced {
        let known = || table::all().iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ");
        let row = table::named(name)
            .ok_or_else(|| DetectError::UnknownFramework { name: name.to_owned(), known: known() })?;
        return Ok(project.plan(Some(row), format!("{}: the framework is set", row.title)));
    }
    let Some(manifest) = &project.manifest else {
        if wishes.command.is_some() {
            return Ok(project.plan(None, "build.command is set".to_owned()));
        }
        let plain = project.as_files("plain HTML: there is no package.json");
        return plain.ok_or_else(|| DetectError::Nothing(project.packages()));
    };
    let found = table::all().iter().find_map(|row| project.sign_of(row).map(|sign| (row, sign)));
    if let Some((row, sign)) = found {
        return Ok(project.plan(Some(row), sign));
    }
    if manifest.script("build").is_some() || wishes.command.is_some() {
        return Ok(project.plan(None, "package.json with a build script".to_owned()));
    }
    let plain = project.as_files("plain HTML: package.json has no build script");
    plain.ok_or_else(|| DetectError::NoBuildScript(project.packages()))
}

/// A tree as the decision sees it.
struct Project<'a> {
    tree: &'a SourceTree,
    wishes: &'a BuildOverrides,
    files: &'a Files,
    directory: String,
    output: Option<String>,
    manifest: Option<Manifest>,
}

impl<'a> Project<'a> {
    fn of(tree: &'a SourceTree, wishes: &'a BuildOverrides, files: &'a Files) -> Result<Self, DetectError> {
        let directory = root(wishes)?;
        let output =
            wishes.output_directory.as_deref().map(|o| relative(o, "outputDirectory")).transpose()?;
        if !directory.is_empty() && !tree.files.keys().any(|p| beneath(p, &directory).is_some()) {
            return Err(DetectError::NoRoot(directory));
        }
        let path = join(&directory, "package.json");
        let manifest = match files.get(&path) {
            Some(bytes) => Some(Manifest::parse(bytes).ok_or(DetectError::BadManifest { path })?),
            None => None,
        };
        Ok(Self { tree, wishes, files, directory, output, manifest })
    }

    fn has(&self, name: &str) -> bool {
        self.tree.files.contains_key(&join(&self.directory, name))
    }

    fn as_files(&self, sign: &str) -> Option<Plan> {
        let (directory, words) = match &self.output {
            Some(named) => {
                let directory = join(&self.directory, named);
                let html = |p: &String| beneath(p, &directory).is_some_and(|p| p.ends_with(".html"));
                self.tree.files.keys().any(html).then_some((directory, None))?
            }
            None => place::of_pages(self.tree, &self.directory)?,
        };
        let sign = words.map_or_else(|| sign.to_owned(), |words| format!("{sign}; {words}"));
        Some(Plan::Files { directory, sign })
    }

    /// Why the project is one of this row's, if it is. A row that names no way to build it is none.
    fn sign_of(&self, row: &Framework) -> Option<String> {
        let manifest = self.manifest.as_ref()?;
        let depends = row.depends.iter().find(|name| manifest.depends_on(name));
        let sign = if let Some(name) = depends {
            format!("{}: package.json depends on {name}", row.title)
        } else if let Some(file) = row.file_in(|name| self.has(name)) {
            format!("{}: {file} is there", row.title)
        } else {
            let script = manifest.script("build")?.trim_start();
            let begins = row.script_is.iter().find(|words| script.starts_with(words.as_str()))?;
            format!("{}: the build script begins with {begins}", row.title)
        };
        (self.wishes.command.is_some() || self.command(Some(row)).is_some()).then_some(sign)
    }

    fn command(&self, row: Option<&Framework>) -> Option<BuildCommand> {
        if let Some(line) = &self.wishes.command {
            return Some(BuildCommand::Line(line.clone()));
        }
        let script = |name: &String| {
            let text = self.manifest.as_ref()?.script(name)?;
            let needed = row.and_then(|r| r.script_has.as_deref());
            needed.is_none_or(|words| text.contains(words)).then(|| BuildCommand::Script(name.clone()))
        };
        match row {
            Some(row) => {
                let tool = || row.tool.clone().map(BuildCommand::Tool);
                row.scripts.iter().find_map(script).or_else(tool)
            }
            None => script(&"build".to_owned()),
        }
    }

    fn plan(&self, row: Option<&Framework>, sign: String) -> Plan {
        let root = self.install_root();
        let nothing = self.manifest.as_ref().is_none_or(Manifest::installs_nothing)
            && !self.has(PNPM_WORKSPACE)
            && root == self.directory;
        let install = match self.wishes.install_command.as_deref().map(str::trim) {
            Some("") => Install::Skipped,
            Some(line) => Install::Command(line.to_owned()),
            None if nothing => Install::Nothing,
            None => Install::Detected,
        };
        let word = if self.manifest.is_some() { "script" } else { "command" };
        let outputs = match &self.output {
            Some(named) => Outputs::Named(named.clone()),
            None => Outputs::Guessed(self.outputs(row)),
        };
        Plan::Build(Box::new(BuildPlan {
            framework: row.map_or_else(|| word.to_owned(), |r| r.name.clone()),
            sign,
            root,
            directory: self.directory.clone(),
            install,
            // A framework that is set without a way to build it fails in npm's own words.
            build: self.command(row).unwrap_or_else(|| BuildCommand::Script("build".to_owned())),
            outputs,
            needs_server: row.and_then(|r| r.server.clone()),
            node: self.wishes.node.clone(),
            package_manager: self.wishes.package_manager.clone(),
        }))
    }

    fn outputs(&self, row: Option<&Framework>) -> Vec<String> {
        let Some(row) = row else { return USUAL.iter().map(|name| (*name).to_owned()).collect() };
        let mut outputs = Vec::new();
        for output in &row.outputs {
            if output == "@angular" {
                let config = self.files.get(&join(&self.directory, "angular.json"));
                outputs.extend(manifest::angular_outputs(config.map(|b| &**b)));
                outputs.push("dist".to_owned());
            } else if let Some(rest) = output.strip_prefix("**/") {
                outputs.extend(self.beside(rest));
            } else {
                outputs.push(output.clone());
            }
        }
        // Some came from a tenant's file.
        outputs.retain(|o| parse_folder(o).is_ok_and(|plain| plain == *o));
        let mut seen = std::collections::HashSet::new();
        outputs.retain(|o| seen.insert(o.clone()));
        outputs
    }

    /// `x/y` beside every folder `x` of the source.
    fn beside(&self, rest: &str) -> Vec<String> {
        let folder = rest.split('/').next().unwrap_or(rest);
        let mut found: Vec<String> = Vec::new();
        for path in self.tree.files.keys().filter_map(|p| beneath(p, &self.directory)) {
            let names: Vec<&str> = path.split('/').collect();
            let Some(at) = names.iter().position(|name| *name == folder) else { continue };
            let output = join(&names[..at].join("/"), rest);
            if at + 1 < names.len() && !found.contains(&output) && found.len() < NAMED {
                found.push(output);
            }
        }
        found
    }

    /// The folder whose lockfile speaks for the project: the workspace's root, if it is in one.
    fn install_root(&self) -> String {
        let own_lockfile = LOCKFILES.iter().any(|name| self.has(name));
        for parent in parents(&self.directory) {
            let Some(bytes) = self.files.get(&join(parent, "package.json")) else { continue };
            let folder = beneath(&self.directory, parent).unwrap_or_default();
            let member = Manifest::parse(bytes).is_some_and(|m| m.has_workspace(folder));
            let pnpm = self.tree.files.contains_key(&join(parent, PNPM_WORKSPACE));
            if member || (pnpm && !own_lockfile) {
                return parent.to_owned();
            }
        }
        self.directory.clone()
    }

    fn packages(&self) -> Vec<String> {
        place::packages(self.tree, &self.directory)
    }
}

/// The folders above, nearest first.
fn parents(directory: &str) -> impl Iterator<Item = &str> {
    let mut at = Some(directory).filter(|d| !d.is_empty());
    std::iter::from_fn(move || {
        let parent = at?.rsplit_once('/').map_or("", |(parent, _)| parent);
        at = Some(parent).filter(|p| !p.is_empty());
        Some(parent)
    })
    .take(PARENTS)
}

fn root(overrides: &BuildOverrides) -> Result<String, DetectError> {
    overrides.root_directory.as_deref().map_or(Ok(String::new()), |r| relative(r, "rootDirectory"))
}

fn relative(path: &str, setting: &'static str) -> Result<String, DetectError> {
    parse_folder(path).map_err(|_| DetectError::BadPath { setting, path: path.to_owned() })
}

/// The path within `folder`; an empty folder is the root.
fn beneath<'p>(path: &'p str, folder: &str) -> Option<&'p str> {
    if folder.is_empty() { Some(path) } else { path.strip_prefix(folder)?.strip_prefix('/') }
}

/// A path in a folder; empty parts are the root.
pub fn join(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", name) => name.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, name) => format!("{directory}/{name}"),
    }
}
