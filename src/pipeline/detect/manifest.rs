//! `package.json` and `angular.json`, as far as a plan needs them. Their text is a tenant's.

use std::collections::BTreeMap;

use ignore::gitignore::GitignoreBuilder;
use serde::Deserialize;
use serde_json::Value;

/// Patterns of one `workspaces` list that are looked at.
const PATTERNS: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Manifest {
    scripts: BTreeMap<String, Value>,
    dependencies: BTreeMap<String, Value>,
    dev_dependencies: BTreeMap<String, Value>,
    optional_dependencies: BTreeMap<String, Value>,
    workspaces: Option<Value>,
}

impl Manifest {
    /// `None` if it is not a JSON object of that shape.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        // A list would pass for a manifest without entries.
        let first = bytes.iter().find(|b| !b.is_ascii_whitespace())?;
        (*first == b'{').then(|| serde_json::from_slice(bytes).ok()).flatten()
    }

    pub fn script(&self, name: &str) -> Option<&str> {
        self.scripts.get(name)?.as_str()
    }

    pub fn depends_on(&self, name: &str) -> bool {
        self.dependencies.contains_key(name) || self.dev_dependencies.contains_key(name)
    }

    pub fn installs_nothing(&self) -> bool {
        self.dependencies.is_empty()
            && self.dev_dependencies.is_empty()
            && self.optional_dependencies.is_empty()
            && self.workspaces.is_none()
    }

    /// Whether `folder` is one of the workspaces. Their patterns mean what they mean to git, but for
    /// always beginning at the top.
    pub fn has_workspace(&self, folder: &str) -> bool {
        let list = match &self.workspaces {
            Some(Value::Array(list)) => list,
            Some(Value::Object(object)) => match object.get("packages") {
                Some(Value::Array(list)) => list,
                _ => return false,
            },
            _ => return false,
        };
        let mut patterns = GitignoreBuilder::new("");
        for pattern in list.iter().take(PATTERNS).filter_map(Value::as_str) {
            let (not, pattern) = pattern.strip_prefix('!').map_or(("", pattern), |p| ("!", p));
            let pattern = pattern.trim_start_matches("./").trim_matches('/');
            // A pattern that can't be read names no folder; npm will say so.
            drop(patterns.add_line(None, &format!("{not}/{pattern}")));
        }
        patterns.build().is_ok_and(|p| p.matched(folder, true).is_ignore())
    }
}

/// Where `angular.json` says that the application is written, the folder of pages first.
pub fn angular_outputs(bytes: Option<&[u8]>) -> Vec<String> {
    let document: Option<Value> = bytes.and_then(|b| serde_json::from_slice(b).ok());
    let Some(document) = document else { return Vec::new() };
    let Some(projects) = document["projects"].as_object() else { return Vec::new() };
    let is_application = |project: &Value| project["projectType"] == "application";
    let named = document["defaultProject"].as_str().and_then(|name| projects.get_key_value(name));
    let found = named.or_else(|| projects.iter().find(|(_, p)| is_application(p)));
    let Some((name, project)) = found else { return Vec::new() };
    let target =
        ["architect", "targets"].into_iter().map(|key| &project[key]["build"]).find(|b| !b.is_null());
    let path = target.map(|build| &build["options"]["outputPath"]);
    let (base, browser) = match path {
        Some(Value::String(base)) => (base.clone(), "browser".to_owned()),
        Some(Value::Object(parts)) => (
            parts
                .get("base")
                .and_then(Value::as_str)
                .map_or_else(|| format!("dist/{name}"), ToOwned::to_owned),
            parts.get("browser").and_then(Value::as_str).unwrap_or("browser").to_owned(),
        ),
        _ => (format!("dist/{name}"), "browser".to_owned()),
    };
    let pages = super::join(&base, &browser);
    if pages == base { vec![base] } else { vec![pages, base] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_an_object_whatever_stands_before_it() {
        assert!(Manifest::parse(b"\xef\xbb\xbf {\"scripts\":{\"build\":\"x\"}}").is_some());
        assert!(Manifest::parse(b"[]").is_none() && Manifest::parse(b"").is_none());
        assert!(Manifest::parse(br#"{"scripts":[]}"#).is_none());
        assert_eq!(Manifest::parse(br#"{"scripts":{"build":1}}"#).unwrap().script("build"), None);
        // Deeper than any parser should follow.
        let deep = format!("{{\"scripts\":{{\"x\":{}{}}}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert!(Manifest::parse(deep.as_bytes()).is_none());
    }

    #[test]
    fn workspaces_are_found_by_their_patterns() {
        let of = |list: &str| Manifest::parse(format!("{{\"workspaces\":{list}}}").as_bytes()).unwrap();
        let packages = of(r#"["apps/*", "./web/", "!apps/old"]"#);
        for (folder, member) in [
            ("apps/web", true),
            ("web", true),
            ("apps/old", false),
            ("apps", false),
            ("apps/web/deep", false),
            ("x/apps/web", false),
        ] {
            assert_eq!(packages.has_workspace(folder), member, "{folder}");
        }
        assert!(of(r#"{"packages":["packages/**"]}"#).has_workspace("packages/a/b"));
        assert!(!of("3").has_workspace("a"));
        // One that names its own parent is no riddle: folders are looked up, not walked.
        assert!(!of(r#"["../*", "."]"#).has_workspace("apps"));
    }

    #[test]
    fn angular_says_where_it_writes() {
        let of = |options: &str| {
            let text = format!(
                r#"{{"projects":{{"lib":{{"projectType":"library"}},"shop":{{"projectType":"application","architect":{{"build":{{"options":{options}}}}}}}}}}}"#
            );
            angular_outputs(Some(text.as_bytes()))
        };
        assert_eq!(of("{}"), ["dist/shop/browser", "dist/shop"]);
        assert_eq!(of(r#"{"outputPath":"out"}"#), ["out/browser", "out"]);
        assert_eq!(of(r#"{"outputPath":{"base":"out","browser":""}}"#), ["out"]);
        assert!(angular_outputs(Some(b"[]")).is_empty() && angular_outputs(None).is_empty());
    }
}
