//! What kind of project a tree is, and why: signs → commands → output folder.

use serde::Deserialize;
use std::collections::BTreeMap;

use crate::domain::source::{BuildOverrides, SourceTree};
use crate::domain::tree_path::parse_folder;
use crate::toolchain::Wishes;

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
    /// What was recognised, and by which sign.
    pub sign: String,
    /// Where commands run, relative to the tree's root; empty: the root.
    pub directory: String,
    pub install: Install,
    pub build: BuildCommand,
    /// Output folders to look for, in order, relative to `directory`.
    pub outputs: Vec<String>,
    /// What the project wants to be built with, beyond what its files say.
    pub wishes: Wishes,
}

#[derive(Debug, PartialEq, Eq)]
pub enum BuildCommand {
    /// A script of package.json.
    Script(String),
    /// A program of an installed package, with its arguments.
    Tool(Vec<String>),
    /// A user's own command line.
    Line(String),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Install {
    /// By the package manager, as its lockfile says.
    Detected,
    /// The project has no dependencies.
    Nothing,
    /// A user's own command line.
    Command(String),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DetectError {
    #[error("neither a package.json nor an HTML file was found")]
    Nothing,
    #[error("package.json is not a JSON object")]
    BadManifest,
    #[error("package.json has no script named build, and there is no index.html")]
    NoBuildScript,
    #[error("build.{0} is not a path within the project")]
    BadPath(&'static str),
    #[error("no file of the project lies in build.rootDirectory `{0}`")]
    NoRoot(String),
}

impl DetectError {
    pub fn summary(&self) -> &'static str {
        match self {
            Self::Nothing => "Nothing to deploy: no package.json and no HTML file.",
            Self::BadManifest => "package.json can't be read.",
            Self::NoBuildScript => "package.json has no build script.",
            Self::BadPath(_) => "A build setting is not a path within the project.",
            Self::NoRoot(_) => "The root directory does not exist.",
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::Nothing => {
                "Add an index.html, or a package.json with a build script; or set build.rootDirectory."
            }
            Self::BadManifest => "Make package.json a valid JSON object.",
            Self::NoBuildScript => "Add \"build\" to the scripts of package.json, or set build.command.",
            Self::BadPath(_) => {
                "Give rootDirectory and outputDirectory relative to the project, without '..'."
            }
            Self::NoRoot(_) => "Set build.rootDirectory to a folder of the project.",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Manifest {
    scripts: BTreeMap<String, serde_json::Value>,
    dependencies: BTreeMap<String, serde_json::Value>,
    dev_dependencies: BTreeMap<String, serde_json::Value>,
    optional_dependencies: BTreeMap<String, serde_json::Value>,
    workspaces: Option<serde_json::Value>,
}

const VITE_CONFIGS: &[&str] = &[
    "vite.config.ts",
    "vite.config.js",
    "vite.config.mjs",
    "vite.config.mts",
    "vite.config.cjs",
    "vite.config.cts",
];

/// Where the tree's `package.json` is, if it has one.
pub fn manifest_path(tree: &SourceTree, overrides: &BuildOverrides) -> Option<String> {
    let root = root(overrides).ok()?;
    let path = join(&root, "package.json");
    tree.files.contains_key(&path).then_some(path)
}

/// Decides. `manifest` is the content of `package.json`.
pub fn detect(
    tree: &SourceTree,
    overrides: &BuildOverrides,
    manifest: Option<&[u8]>,
) -> Result<Plan, DetectError> {
    let root = root(overrides)?;
    let output = overrides.output_directory.as_deref().map(|o| relative(o, "outputDirectory")).transpose()?;
    if !root.is_empty()
        && !tree.files.keys().any(|p| p.strip_prefix(&*root).is_some_and(|p| p.starts_with('/')))
    {
        return Err(DetectError::NoRoot(root));
    }
    let within = |name: &str| tree.files.contains_key(&join(&root, name));
    let as_files = |sign: &str| {
        let directory = join(&root, output.as_deref().unwrap_or(""));
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let html = tree.files.keys().any(|p| p.starts_with(&prefix) && p.ends_with(".html"));
        html.then(|| Plan::Files { directory, sign: sign.to_owned() })
    };
    let Some(manifest) = manifest else {
        if let Some(command) = &overrides.command {
            return Ok(Plan::Build(Box::new(BuildPlan {
                sign: "build.command is set".into(),
                directory: root.clone(),
                install: install_of(overrides, Install::Nothing),
                build: BuildCommand::Line(command.clone()),
                outputs: output.map_or_else(|| guessed(tree, &root), |o| vec![o]),
                wishes: Wishes::default(),
            })));
        }
        return as_files("plain HTML: there is no package.json").ok_or(DetectError::Nothing);
    };
    let manifest: serde_json::Value =
        serde_json::from_slice(manifest).map_err(|_| DetectError::BadManifest)?;
    // A list would pass for a manifest without entries.
    let manifest = if manifest.is_object() { manifest } else { return Err(DetectError::BadManifest) };
    let manifest: Manifest = serde_json::from_value(manifest).map_err(|_| DetectError::BadManifest)?;
    let has_script = manifest.scripts.get("build").is_some_and(serde_json::Value::is_string);
    let depends =
        |name: &str| manifest.dependencies.contains_key(name) || manifest.dev_dependencies.contains_key(name);
    let vite_config = VITE_CONFIGS.iter().find(|name| within(name));
    let (sign, outputs) = if depends("vite") {
        ("Vite: package.json depends on vite".to_owned(), candidates(&["dist"]))
    } else if let Some(config) = vite_config {
        (format!("Vite: {config} is there"), candidates(&["dist"]))
    } else if has_script || overrides.command.is_some() {
        ("package.json with a build script".to_owned(), guessed(tree, &root))
    } else {
        let plain = as_files("plain HTML: package.json has no build script");
        return plain.ok_or(DetectError::NoBuildScript);
    };
    let build = match &overrides.command {
        Some(command) => BuildCommand::Line(command.clone()),
        None if has_script => BuildCommand::Script("build".to_owned()),
        None => BuildCommand::Tool(words(&["vite", "build"])),
    };
    let no_dependencies = manifest.dependencies.is_empty()
        && manifest.dev_dependencies.is_empty()
        && manifest.optional_dependencies.is_empty()
        && manifest.workspaces.is_none();
    let install = if no_dependencies { Install::Nothing } else { Install::Detected };
    Ok(Plan::Build(Box::new(BuildPlan {
        sign,
        directory: root,
        install: install_of(overrides, install),
        build,
        outputs: output.map_or(outputs, |o| vec![o]),
        wishes: Wishes::default(),
    })))
}

fn install_of(overrides: &BuildOverrides, detected: Install) -> Install {
    match overrides.install_command.as_deref().map(str::trim) {
        None => detected,
        Some("") => Install::Nothing,
        Some(command) => Install::Command(command.to_owned()),
    }
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// Where builds usually write. A `public` that is there before the build holds sources, not output.
fn guessed(tree: &SourceTree, root: &str) -> Vec<String> {
    let public = format!("{}/", join(root, "public"));
    let has_public = tree.files.keys().any(|p| p.starts_with(&public));
    let mut outputs = words(&["dist", "build", "out"]);
    if !has_public {
        outputs.push("public".to_owned());
    }
    outputs
}

fn candidates(list: &[&str]) -> Vec<String> {
    words(list)
}

fn root(overrides: &BuildOverrides) -> Result<String, DetectError> {
    overrides.root_directory.as_deref().map_or(Ok(String::new()), |r| relative(r, "rootDirectory"))
}

fn relative(path: &str, key: &'static str) -> Result<String, DetectError> {
    parse_folder(path).map_err(|_| DetectError::BadPath(key))
}

fn join(directory: &str, name: &str) -> String {
    match (directory, name) {
        ("", name) => name.to_owned(),
        (directory, "") => directory.to_owned(),
        (directory, name) => format!("{directory}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Digest;
    use crate::domain::source::TreeEntry;

    fn tree(paths: &[&str]) -> SourceTree {
        let entry = || TreeEntry { digest: Digest::of(b""), size: 0 };
        SourceTree::new(paths.iter().map(|p| ((*p).to_owned(), entry())).collect())
    }

    fn built(plan: Plan) -> BuildPlan {
        match plan {
            Plan::Build(plan) => *plan,
            Plan::Files { sign, .. } => panic!("no build: {sign}"),
        }
    }

    #[test]
    fn vite_is_recognised_by_its_dependency_and_says_so() {
        let manifest = br#"{"scripts":{"build":"tsc && vite build"},"devDependencies":{"vite":"^8"}}"#;
        let tree = tree(&["package.json", "package-lock.json", "index.html"]);
        let plan = built(detect(&tree, &BuildOverrides::default(), Some(manifest)).unwrap());
        assert!(plan.sign.contains("depends on vite"));
        assert_eq!(plan.install, Install::Detected);
        assert_eq!(plan.build, BuildCommand::Script("build".into()));
        assert_eq!(plan.outputs, ["dist"]);
    }

    #[test]
    fn vite_without_a_script_or_lockfile_is_built_with_vite() {
        let manifest = br#"{"dependencies":{"vite":"8"}}"#;
        let plan =
            built(detect(&tree(&["package.json"]), &BuildOverrides::default(), Some(manifest)).unwrap());
        assert_eq!(plan.build, BuildCommand::Tool(words(&["vite", "build"])));
        assert_eq!(plan.install, Install::Detected);
    }

    #[test]
    fn html_without_a_build_is_served_as_it_is() {
        let plan = detect(&tree(&["index.html", "a.css"]), &BuildOverrides::default(), None).unwrap();
        assert!(matches!(plan, Plan::Files { ref directory, .. } if directory.is_empty()));
        let plan =
            detect(&tree(&["package.json", "index.html"]), &BuildOverrides::default(), Some(b"{}")).unwrap();
        assert!(matches!(plan, Plan::Files { .. }));
    }

    #[test]
    fn nothing_to_deploy_is_said_plainly() {
        let overrides = BuildOverrides::default();
        assert_eq!(detect(&tree(&["readme.md"]), &overrides, None), Err(DetectError::Nothing));
        assert_eq!(detect(&tree(&["package.json"]), &overrides, Some(b"[]")), Err(DetectError::BadManifest));
        assert_eq!(
            detect(&tree(&["package.json"]), &overrides, Some(b"{}")),
            Err(DetectError::NoBuildScript)
        );
    }

    #[test]
    fn a_public_folder_of_the_source_is_not_taken_for_output() {
        let manifest = br#"{"scripts":{"build":"make"}}"#;
        let overrides = BuildOverrides::default();
        let with = tree(&["package.json", "public/robots.txt"]);
        assert!(
            !built(detect(&with, &overrides, Some(manifest)).unwrap()).outputs.contains(&"public".to_owned())
        );
        let without = tree(&["package.json"]);
        assert!(
            built(detect(&without, &overrides, Some(manifest)).unwrap())
                .outputs
                .contains(&"public".to_owned())
        );
    }

    #[test]
    fn overrides_win_and_can_not_leave_the_project() {
        let overrides = BuildOverrides {
            command: Some("make site".into()),
            output_directory: Some("./public/".into()),
            install_command: Some(String::new()),
            root_directory: Some("apps/web".into()),
        };
        let tree = tree(&["apps/web/package.json"]);
        assert_eq!(manifest_path(&tree, &overrides).as_deref(), Some("apps/web/package.json"));
        let plan = built(detect(&tree, &overrides, Some(b"{}")).unwrap());
        assert_eq!(plan.directory, "apps/web");
        assert_eq!(plan.build, BuildCommand::Line("make site".into()));
        assert_eq!((plan.outputs, plan.install), (vec!["public".to_owned()], Install::Nothing));
        let out = BuildOverrides { output_directory: Some("../x".into()), ..BuildOverrides::default() };
        assert_eq!(detect(&tree, &out, Some(b"{}")), Err(DetectError::BadPath("outputDirectory")));
        // `apps/we` is the beginning of a name, not a folder.
        let out = BuildOverrides { root_directory: Some("apps/we".into()), ..BuildOverrides::default() };
        assert_eq!(detect(&tree, &out, None), Err(DetectError::NoRoot("apps/we".into())));
    }
}
