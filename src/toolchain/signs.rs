//! What the files of a project say about tools: from its root directory up to the top, folder by folder.
//! Reads bytes that it is given, and believes none of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::kind::Manager;

/// Files whose content matters, in every folder from the root directory up.
const READ: &[&str] = &[
    "package.json",
    ".nvmrc",
    ".node-version",
    "yarn.lock",
    "pnpm-lock.yaml",
    ".yarnrc.yml",
    "pnpm-workspace.yaml",
];

/// One folder's signs.
#[derive(Debug, Default)]
pub(super) struct Folder {
    /// Empty: the top.
    pub path: String,
    pub manifest: Manifest,
    pub nvmrc: Option<String>,
    pub node_version: Option<String>,
    /// Lockfiles that lie here.
    pub lockfiles: Vec<&'static str>,
    /// The yarn.lock here, or the settings beside it, are those of yarn 2 and later.
    pub berry: bool,
    /// What pnpm's lockfile says of itself.
    pub pnpm_lockfile: Option<String>,
    /// A program of its own that yarn is told to hand over to, and that is not in the project.
    pub yarn_path_missing: bool,
    /// A file that only pnpm reads, and no lockfile.
    pub pnpm_file: bool,
    pub members: Members,
}

#[derive(Debug, Default)]
pub(super) struct Manifest {
    pub manager: Option<String>,
    pub node: Option<String>,
}

/// Which folders beneath are members of a workspace, by patterns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// Of `workspaces` in package.json: npm, yarn and bun.
    pub package: Vec<String>,
    /// Of pnpm-workspace.yaml.
    pub pnpm: Vec<String>,
}

/// The folders from `root` (empty: the top) up, each a path without a slash at its end.
fn upwards(root: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(root);
    std::iter::from_fn(move || {
        let now = next?;
        next = match now {
            "" => None,
            path => Some(path.rsplit_once('/').map_or("", |(parent, _)| parent)),
        };
        Some(now)
    })
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Paths whose content `read_all` needs.
pub fn wanted(root: &str, has: &dyn Fn(&str) -> bool) -> Vec<String> {
    let paths = upwards(root).flat_map(|folder| READ.iter().map(move |name| join(folder, name)));
    paths.filter(|path| has(path)).collect()
}

/// The signs, the root directory's first.
pub(super) fn read_all(
    root: &str,
    has: &dyn Fn(&str) -> bool,
    contents: &BTreeMap<String, Bytes>,
) -> Vec<Folder> {
    upwards(root).map(|path| read(path, has, contents)).collect()
}

fn read(path: &str, has: &dyn Fn(&str) -> bool, contents: &BTreeMap<String, Bytes>) -> Folder {
    let content = |name: &str| contents.get(&join(path, name)).map(|bytes| String::from_utf8_lossy(bytes));
    let line = |name: &str| content(name).map(|text| first_line(&text));
    let all = [Manager::Pnpm, Manager::YarnClassic, Manager::Bun, Manager::Npm];
    let lockfiles = all.iter().flat_map(|manager| manager.lockfiles());
    let (manifest, package) = content("package.json").map(|text| manifest(&text)).unwrap_or_default();
    let rc = content(".yarnrc.yml");
    let berry = match content("yarn.lock") {
        Some(lock) if lock.contains("\n__metadata:") || lock.starts_with("__metadata:") => true,
        Some(lock) if lock.contains("# yarn lockfile v1") => false,
        _ => rc.is_some(),
    };
    let yarn_path = rc.as_deref().and_then(|rc| value_of(rc, "yarnPath"));
    let yarn_path_missing = yarn_path.is_some_and(|at| !has(&join(path, at.trim_start_matches("./"))));
    Folder {
        path: path.to_owned(),
        manifest,
        nvmrc: line(".nvmrc"),
        node_version: line(".node-version"),
        lockfiles: lockfiles.copied().filter(|name| has(&join(path, name))).collect(),
        berry,
        pnpm_lockfile: content("pnpm-lock.yaml").and_then(|lock| value_of(&lock, "lockfileVersion")),
        yarn_path_missing,
        pnpm_file: has(&join(path, "pnpm-workspace.yaml")),
        members: Members {
            package,
            pnpm: content("pnpm-workspace.yaml").map(|text| listed(&text, "packages")).unwrap_or_default(),
        },
    }
}

/// The first line that says something.
fn first_line(text: &str) -> String {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(ToOwned::to_owned)
        .next()
        .unwrap_or_default()
}

/// Wrong types are somebody else's to complain about: the manager's own.
fn manifest(text: &str) -> (Manifest, Vec<String>) {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Raw {
        package_manager: Value,
        engines: Value,
        workspaces: Value,
    }
    let raw: Raw = serde_json::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
    let word = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let list = raw.workspaces.get("packages").unwrap_or(&raw.workspaces).as_array();
    let members = list.into_iter().flatten().filter_map(word).collect();
    (Manifest { manager: word(&raw.package_manager), node: word(&raw.engines["node"]) }, members)
}

/// The plain value of a key at the top of a YAML document; more of YAML is not needed here.
fn value_of(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'))?;
    Some(unquoted(value).to_owned()).filter(|value| !value.is_empty())
}

/// The list of words under a key at the top of a YAML document.
fn listed(text: &str, key: &str) -> Vec<String> {
    let mut lines = text.lines();
    let first = lines.find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':'));
    let Some(first) = first.map(str::trim) else { return Vec::new() };
    if let Some(flow) = first.strip_prefix('[') {
        let inner = flow.split(']').next().unwrap_or_default();
        return inner.split(',').map(unquoted).filter(|w| !w.is_empty()).map(ToOwned::to_owned).collect();
    }
    let spoken = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let items = lines.filter(spoken).map_while(|line| line.trim_start().strip_prefix("- "));
    items.map(unquoted).map(ToOwned::to_owned).collect()
}

fn unquoted(text: &str) -> &str {
    let text = text.split(" #").next().unwrap_or_default().trim();
    text.trim_matches(['"', '\''])
}

/// Whether `folder` (relative to the workspace) is a member by these patterns.
pub(super) fn is_member(patterns: &[String], folder: &str) -> bool {
    let mut member = false;
    for pattern in patterns {
        let (wanted, pattern) = pattern.strip_prefix('!').map_or((true, pattern.as_str()), |p| (false, p));
        let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
        let segments: Vec<&str> = pattern.split('/').collect();
        let path: Vec<&str> = folder.split('/').collect();
        // Patterns that are more than stars are the manager's to read: the folder may well be meant.
        let beyond = pattern.contains(['{', '[', '(', '?']);
        if beyond || fits(&segments, &path) {
            member = wanted;
        }
    }
    member
}

/// Each `**` takes any number of segments. Iterative like a wildcard match, so no pattern costs more
/// than its length times the path's.
fn fits(pattern: &[&str], path: &[&str]) -> bool {
    let (mut p, mut s, mut back) = (0, 0, None);
    while let Some(segment) = path.get(s) {
        match pattern.get(p) {
            Some(&"**") => {
                back = Some((p + 1, s));
                p += 1;
            }
            Some(wanted) if segment_fits(wanted, segment) => (p, s) = (p + 1, s + 1),
            _ => match &mut back {
                Some((after, from)) => {
                    *from += 1;
                    (p, s) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|rest| *rest == "**")
}

/// `*` takes any number of characters.
fn segment_fits(pattern: &str, segment: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| segment.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_known_by_patterns() {
        let member = |patterns: &[&str], folder: &str| {
            is_member(&patterns.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), folder)
        };
        assert!(member(&["apps/*"], "apps/web") && !member(&["apps/*"], "apps/web/deep"));
        assert!(member(&["./apps/web/"], "apps/web") && member(&["**"], "a/b/c"));
        assert!(member(&["apps/**"], "apps/a/b") && !member(&["packages/*"], "apps/web"));
        assert!(member(&["**/web"], "apps/web") && member(&["a*b*c/x"], "a1b2c/x"));
        assert!(!member(&["apps/*", "!apps/web"], "apps/web") && member(&["{apps,libs}/*"], "apps/web"));
        assert!(!member(&[], "apps/web"));
        // No pattern costs more than its length times the path's.
        let stars = vec!["**/a"; 200].join("/");
        assert!(!member(&[&stars], &vec!["a"; 150].join("/")));
    }

    #[test]
    fn yaml_is_read_as_far_as_it_is_needed() {
        let text = "# x\nlockfileVersion: '9.0'\n\npackages:\n  # members\n  - 'apps/*'\n  - \"libs/*\" # all\n\n  - plain\ncatalog:\n  - no\n";
        assert_eq!(value_of(text, "lockfileVersion").as_deref(), Some("9.0"));
        assert_eq!(listed(text, "packages"), ["apps/*", "libs/*", "plain"]);
        assert_eq!(listed("packages: ['a/*', b]\n", "packages"), ["a/*", "b"]);
        assert_eq!(listed("packages:\n- a\n- b\n", "packages"), ["a", "b"]);
        assert_eq!(listed("onlyBuiltDependencies:\n  - esbuild\n", "packages"), Vec::<String>::new());
        assert_eq!(value_of("  lockfileVersion: 1", "lockfileVersion"), None);
    }

    #[test]
    fn a_manifest_of_any_shape_is_no_reason_to_fail() {
        let read = |text: &str| manifest(text);
        assert_eq!(read(r#"{"workspaces":{"packages":["a"]},"engines":{"node":">=20"}}"#).1, ["a"]);
        for odd in ["", "[]", "{", r#"{"engines":[],"workspaces":7,"packageManager":{}}"#, "\u{feff}{}"] {
            let (manifest, members) = read(odd);
            assert!(manifest.manager.is_none() && manifest.node.is_none() && members.is_empty(), "{odd}");
        }
        let deep = format!(r#"{{"x":{}}}"#, "[".repeat(100_000));
        assert!(read(&deep).0.node.is_none());
    }

    #[test]
    fn folders_are_asked_from_the_root_directory_up() {
        assert_eq!(upwards("a/b/c").collect::<Vec<_>>(), ["a/b/c", "a/b", "a", ""]);
        assert_eq!(upwards("").collect::<Vec<_>>(), [""]);
        let has = |path: &str| matches!(path, "apps/web/package.json" | ".nvmrc" | "other/.nvmrc");
        assert_eq!(wanted("apps/web", &has), ["apps/web/package.json", ".nvmrc"]);
    }
}
