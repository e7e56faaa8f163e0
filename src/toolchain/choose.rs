//! Decides which Node and which package manager a project is built with, and where dependencies are
//! installed. Pure: from the project's own words to a decision, with the reason of each for the log.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::Mistake;
use super::kind::{Hash, Manager, Spec};
use super::node::{self, Asked, NodeChoice};
use super::pins;
use super::signs::{self, Folder};

/// What is asked for from outside of the files: by the deployment, or by the project's `libra.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// As in `.nvmrc`.
    pub node: Option<String>,
    /// As in `packageManager`.
    pub package_manager: Option<String>,
}

/// The decision.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub node_major: u32,
    /// Exact.
    pub node_version: String,
    pub manager: Manager,
    /// `None`: the npm that comes with Node.
    pub manager_version: Option<String>,
    pub hash: Option<Hash>,
    /// Where dependencies are installed, relative to the tree's top; empty: the top.
    pub workspace: String,
    /// The manager's lockfile in that folder.
    pub lockfile: Option<&'static str>,
    /// The yarn that the project tells to hand over to is not in the project.
    pub ignore_yarn_path: bool,
    /// For the build log.
    pub notes: Vec<String>,
}

/// In this order where lockfiles of several managers lie side by side and nothing else decides. npm's
/// comes last: it is the one that is made by mistake, because npm comes with Node.
const ORDER: [Manager; 4] = [Manager::Pnpm, Manager::YarnClassic, Manager::Bun, Manager::Npm];

/// Decides. `root` is the folder that is built (empty: the top), `has` tells which files the tree has,
/// and `contents` holds those that `wanted` named.
///
/// # Errors
/// If the project asks for what can't be had.
pub fn choose(
    root: &str,
    has: &dyn Fn(&str) -> bool,
    contents: &BTreeMap<String, Bytes>,
    wishes: &Wishes,
) -> Result<Choice, Mistake> {
    let folders = signs::read_all(root, has, contents);
    let node = node::choose(asked_node(&folders, wishes).as_ref())?;
    let berry =
        folders.iter().find(|f| f.berry || f.lockfiles.contains(&"yarn.lock")).is_some_and(|f| f.berry);
    let spec = spec(&folders, wishes)?;
    let locked = folders.iter().find(|folder| !folder.lockfiles.is_empty());
    let (manager, said) = match &spec {
        Some((spec, said)) => (spec.manager(berry), said.clone()),
        None => match locked.and_then(|folder| Some((folder, by_lockfile(folder)?))) {
            Some((folder, manager)) => {
                let file = own_lockfile(folder, manager).unwrap_or_default();
                let manager = match manager {
                    Manager::YarnClassic if folder.berry => Manager::YarnBerry,
                    other => other,
                };
                (manager, format!("{file} is there"))
            }
            None => by_settings(&folders),
        },
    };
    let workspace = workspace(&folders, manager);
    let pnpm_lockfile = workspace.pnpm_lockfile.as_deref();
    let asked_version = spec.as_ref().and_then(|(spec, _)| spec.version.clone());
    let version =
        asked_version.or_else(|| pins::default_version(manager, pnpm_lockfile).map(ToOwned::to_owned));
    let lockfile = own_lockfile(workspace, manager);
    let mut notes = vec![said_of(&node, manager, version.as_deref(), &said)];
    let ignored = locked.map(|folder| ignored(folder, manager)).unwrap_or_default();
    if !ignored.is_empty() {
        notes.push(format!("ignored, because {manager} does not read it: {}", ignored.join(", ")));
    }
    if workspace.path != root {
        let at = if workspace.path.is_empty() { "the project's top" } else { &workspace.path };
        notes.push(format!("{root} is a member of the workspace at {at}: dependencies are installed there"));
    }
    Ok(Choice {
        node_major: node.major,
        node_version: node.version,
        manager,
        manager_version: version,
        hash: spec.and_then(|(spec, _)| spec.hash),
        workspace: workspace.path.clone(),
        lockfile,
        ignore_yarn_path: folders.iter().any(|folder| folder.yarn_path_missing),
        notes,
    })
}

fn said_of(node: &NodeChoice, manager: Manager, version: Option<&str>, said: &str) -> String {
    let NodeChoice { version: node_version, said: node_said, .. } = node;
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    format!("Node {node_version} ({node_said}), {manager}{version} ({said})")
}

fn asked_node(folders: &[Folder], wishes: &Wishes) -> Option<Asked> {
    if let Some(text) = &wishes.node {
        return Some(Asked { text: text.clone(), origin: "the build settings".into(), engines: false });
    }
    let file = folders.iter().find_map(|folder| {
        let named = [(&folder.nvmrc, ".nvmrc"), (&folder.node_version, ".node-version")];
        named.into_iter().find_map(|(text, name)| Some((text.clone()?, name)))
    });
    if let Some((text, name)) = file {
        return Some(Asked { text, origin: name.into(), engines: false });
    }
    let engines = folders.iter().find_map(|folder| folder.manifest.node.clone())?;
    Some(Asked { text: engines, origin: "engines.node".into(), engines: true })
}

fn spec(folders: &[Folder], wishes: &Wishes) -> Result<Option<(Spec, String)>, Mistake> {
    let field = || folders.iter().find_map(|folder| folder.manifest.manager.as_deref());
    let found = match &wishes.package_manager {
        Some(text) => Some((text.as_str(), "the build settings say so")),
        None => field().map(|text| (text, "packageManager says so")),
    };
    found.map(|(text, said)| Ok((Spec::parse(text)?, said.to_owned()))).transpose()
}

fn by_lockfile(folder: &Folder) -> Option<Manager> {
    ORDER.into_iter().find(|manager| own_lockfile(folder, *manager).is_some())
}

/// Without a lockfile: whose settings lie there. npm understands neither `workspace:` nor `catalog:`.
fn by_settings(folders: &[Folder]) -> (Manager, String) {
    let said = |manager, file: &str| (manager, format!("{file} is there"));
    match folders.iter().find(|folder| folder.pnpm_file || folder.berry) {
        Some(folder) if folder.pnpm_file => said(Manager::Pnpm, "pnpm-workspace.yaml"),
        Some(_) => said(Manager::YarnBerry, ".yarnrc.yml"),
        None => (Manager::Npm, "nothing names another".to_owned()),
    }
}

fn own_lockfile(folder: &Folder, manager: Manager) -> Option<&'static str> {
    manager.lockfiles().iter().copied().find(|name| folder.lockfiles.contains(name))
}

fn ignored(folder: &Folder, manager: Manager) -> Vec<&'static str> {
    let own = manager.lockfiles();
    folder.lockfiles.iter().copied().filter(|name| !own.contains(name)).collect()
}

/// The root directory, unless a folder above declares it a member of its workspace. A lockfile beside
/// the package keeps it on its own.
fn workspace(folders: &[Folder], manager: Manager) -> &Folder {
    // `read_all` answers the root directory at least.
    let [own, above @ ..] = folders else { unreachable!("there is always a root directory") };
    if own_lockfile(own, manager).is_some() {
        return own;
    }
    let declares = |folder: &&Folder| {
        let patterns = if manager == Manager::Pnpm { &folder.members.pnpm } else { &folder.members.package };
        let inside = match folder.path.as_str() {
            "" => own.path.as_str(),
            path => own.path.get(path.len() + 1..).unwrap_or_default(),
        };
        signs::is_member(patterns, inside)
    };
    above.iter().find(declares).unwrap_or(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "# yarn lockfile v1\n";
    const BERRY: &str = "# This file\n\n__metadata:\n  version: 8\n";

    fn choice(root: &str, files: &[(&str, &str)]) -> Result<Choice, Mistake> {
        wished(root, files, &Wishes::default())
    }

    fn wished(root: &str, files: &[(&str, &str)], wishes: &Wishes) -> Result<Choice, Mistake> {
        let contents: BTreeMap<String, Bytes> =
            files.iter().map(|(p, c)| ((*p).to_owned(), Bytes::copy_from_slice(c.as_bytes()))).collect();
        let has = |path: &str| contents.contains_key(path);
        choose(root, &has, &contents, wishes)
    }

    #[test]
    fn the_lockfile_names_the_manager() {
        for (files, manager, version, lockfile) in [
            (&[("package.json", "{}")][..], Manager::Npm, None, None),
            (&[("package-lock.json", "{}")], Manager::Npm, None, Some("package-lock.json")),
            (&[("npm-shrinkwrap.json", "{}")], Manager::Npm, None, Some("npm-shrinkwrap.json")),
            (
                &[("pnpm-lock.yaml", "lockfileVersion: '9.0'\n")],
                Manager::Pnpm,
                Some("10."),
                Some("pnpm-lock.yaml"),
            ),
            (
                &[("pnpm-lock.yaml", "lockfileVersion: '6.0'\n")],
                Manager::Pnpm,
                Some("8."),
                Some("pnpm-lock.yaml"),
            ),
            (&[("yarn.lock", V1)], Manager::YarnClassic, Some("1."), Some("yarn.lock")),
            (&[("yarn.lock", BERRY)], Manager::YarnBerry, Some("4."), Some("yarn.lock")),
            (&[("yarn.lock", ""), (".yarnrc.yml", "")], Manager::YarnBerry, Some("4."), Some("yarn.lock")),
            (&[("bun.lock", "{}")], Manager::Bun, Some("1."), Some("bun.lock")),
            (&[("bun.lockb", "")], Manager::Bun, Some("1."), Some("bun.lockb")),
        ] {
            let choice = choice("", files).unwrap();
            assert_eq!((choice.manager, choice.lockfile), (manager, lockfile), "{files:?}");
            assert_eq!(choice.manager_version.is_some(), version.is_some(), "{choice:?}");
            assert!(choice.manager_version.unwrap_or_default().starts_with(version.unwrap_or_default()));
        }
    }

    #[test]
    fn two_lockfiles_are_told_apart_and_the_log_says_which_was_ignored() {
        let both = [("pnpm-lock.yaml", ""), ("package-lock.json", "{}"), ("yarn.lock", V1)];
        let by_order = choice("", &both).unwrap();
        assert_eq!(by_order.manager, Manager::Pnpm);
        let notes = by_order.notes.join("\n");
        assert!(
            notes.contains("pnpm-lock.yaml is there") && notes.contains("yarn.lock, package-lock.json"),
            "{notes}"
        );
        let mut named = both.to_vec();
        named.push(("package.json", r#"{"packageManager":"npm@11.1.0+sha1.ab"}"#));
        let by_field = choice("", &named).unwrap();
        assert_eq!((by_field.manager, by_field.manager_version.as_deref()), (Manager::Npm, Some("11.1.0")));
        assert_eq!((by_field.lockfile, by_field.hash.unwrap().hex), (Some("package-lock.json"), "ab".into()));
        assert!(
            by_field
                .notes
                .join("\n")
                .contains("ignored, because npm does not read it: pnpm-lock.yaml, yarn.lock")
        );
        // A manager whose lockfile is missing does without one.
        let alone = [("package.json", r#"{"packageManager":"pnpm"}"#), ("package-lock.json", "{}")];
        assert_eq!(choice("", &alone).unwrap().lockfile, None);
    }

    #[test]
    fn what_is_wished_for_comes_first_then_files_then_the_manifest() {
        let files = [
            ("package.json", r#"{"engines":{"node":">=20"},"packageManager":"yarn@1.22.22"}"#),
            (".node-version", "20"),
            (".nvmrc", "# for people\n22\n"),
        ];
        assert_eq!(choice("", &files).unwrap().node_major, 22);
        assert_eq!(choice("", &files[..2]).unwrap().node_major, 20);
        assert_eq!(choice("", &files[..1]).unwrap().node_major, 24);
        let wishes = Wishes { node: Some("20".into()), package_manager: Some("bun".into()) };
        let wished = wished("", &files, &wishes).unwrap();
        assert_eq!((wished.node_major, wished.manager), (20, Manager::Bun));
        assert!(choice("", &[(".nvmrc", "18")]).is_err());
        assert!(choice("", &[("package.json", r#"{"packageManager":"pnpm@^9"}"#)]).is_err());
    }

    #[test]
    fn dependencies_are_installed_where_the_workspace_is() {
        let workspaces = ("package.json", r#"{"workspaces":["apps/*"]}"#);
        let web = ("apps/web/package.json", "{}");
        let at = |files: &[(&str, &str)]| {
            let choice = choice("apps/web", files).unwrap();
            (choice.workspace, choice.manager)
        };
        assert_eq!(at(&[workspaces, ("yarn.lock", BERRY), web]), (String::new(), Manager::YarnBerry));
        assert_eq!(at(&[workspaces, web]), (String::new(), Manager::Npm));
        // Its own lockfile keeps a package on its own, and so does a workspace that does not name it.
        assert_eq!(at(&[workspaces, web, ("apps/web/package-lock.json", "{}")]).0, "apps/web");
        assert_eq!(at(&[("package.json", r#"{"workspaces":["libs/*"]}"#), web]).0, "apps/web");
        assert_eq!(at(&[("package.json", "{}"), ("package-lock.json", "{}"), web]).0, "apps/web");
        let pnpm = [("pnpm-lock.yaml", ""), ("pnpm-workspace.yaml", "packages:\n  - apps/*\n"), web];
        assert_eq!(at(&pnpm), (String::new(), Manager::Pnpm));
        // Settings that only one manager reads, where no lockfile is there yet.
        assert_eq!(at(&pnpm[1..]), (String::new(), Manager::Pnpm));
        assert_eq!(at(&[workspaces, (".yarnrc.yml", ""), web]), (String::new(), Manager::YarnBerry));
        let npms = [("pnpm-workspace.yaml", ""), ("apps/web/package-lock.json", "{}"), web];
        assert_eq!(at(&npms), ("apps/web".to_owned(), Manager::Npm));
        // A workspace further down than the top.
        let inner = [("apps/package.json", r#"{"workspaces":["web"]}"#), ("apps/bun.lock", ""), web];
        assert_eq!(at(&inner), ("apps".to_owned(), Manager::Bun));
    }

    #[test]
    fn a_yarn_of_the_project_is_obeyed_only_where_it_is_there() {
        let rc = (".yarnrc.yml", "yarnPath: .yarn/releases/yarn-4.1.0.cjs\n");
        assert!(choice("", &[rc, ("yarn.lock", BERRY)]).unwrap().ignore_yarn_path);
        let there = [rc, ("yarn.lock", BERRY), (".yarn/releases/yarn-4.1.0.cjs", "")];
        assert!(!choice("", &there).unwrap().ignore_yarn_path);
    }
}
