//! The table of frameworks, read once. Data only: what a project is, is decided beside it.

use std::sync::LazyLock;

use serde::Deserialize;

const TABLE: &str = include_str!("frameworks.toml");
/// What `.*` at the end of a file's name stands for.
const EXTENSIONS: &[&str] = &["ts", "js", "mjs", "mts", "cjs", "cts"];

/// One row; `frameworks.toml` says what each column means.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Framework {
    pub name: String,
    pub title: String,
    #[serde(default)]
    pub depends: Vec<String>,
    #[serde(default)]
    pub files: Vec<String>,
    #[serde(default)]
    pub script_is: Vec<String>,
    #[serde(default = "build_script")]
    pub scripts: Vec<String>,
    pub script_has: Option<String>,
    pub tool: Option<Vec<String>>,
    pub outputs: Vec<String>,
    pub server: Option<Advice>,
}

/// That a build needs a server, and what to change. Words of ours: anybody may see them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// Files, relative to where the build runs, that only a build for a server leaves.
    #[serde(default)]
    pub marks: Vec<String>,
    pub summary: String,
    pub hint: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    framework: Vec<Framework>,
}

fn build_script() -> Vec<String> {
    vec!["build".to_owned()]
}

static FRAMEWORKS: LazyLock<Vec<Framework>> = LazyLock::new(|| {
    let table: Table = toml::from_str(TABLE).expect("the table is a constant of the program and tested");
    table.framework
});

/// Every row, in the order in which they are tried.
pub fn all() -> &'static [Framework] {
    &FRAMEWORKS
}

pub fn named(name: &str) -> Option<&'static Framework> {
    all().iter().find(|f| f.name == name)
}

impl Framework {
    /// The first file of this row that the project has.
    pub fn file_in(&self, has: impl Fn(&str) -> bool) -> Option<String> {
        self.files.iter().find_map(|file| match file.strip_suffix(".*") {
            Some(stem) => EXTENSIONS.iter().map(|e| format!("{stem}.{e}")).find(|name| has(name)),
            None => Some(file.clone()).filter(|name| has(name)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tree_path::parse_folder;

    #[test]
    fn every_row_can_be_seen_built_and_found() {
        let mut names = std::collections::HashSet::new();
        for row in all() {
            let name = &row.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            assert!(name != "plain" && name != "script" && name != "command", "{name} is a word of ours");
            assert!(row.depends.len() + row.files.len() + row.script_is.len() > 0, "{name} has no sign");
            assert!(!row.outputs.is_empty() && !row.scripts.is_empty(), "{name}");
            assert!(row.tool.as_ref().is_none_or(|t| !t.is_empty()), "{name}");
            for output in &row.outputs {
                let plain = output.strip_prefix("**/").unwrap_or(output);
                assert!(parse_folder(plain).is_ok_and(|o| o == plain), "{name}: {output}");
            }
            for mark in row.server.iter().flat_map(|s| &s.marks) {
                assert!(parse_folder(mark).is_ok_and(|m| &m == mark), "{name}: {mark}");
            }
        }
    }

    /// A row that an earlier one with all the same signs hides would never decide.
    #[test]
    fn no_sign_stands_in_two_rows() {
        let mut seen = std::collections::HashMap::new();
        for row in all() {
            for sign in row.depends.iter().chain(&row.files).chain(&row.script_is) {
                assert_eq!(seen.insert(sign, &row.name), None, "{sign}");
            }
        }
    }

    #[test]
    fn the_documentation_shows_this_table() {
        let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let page = std::fs::read_to_string(format!("{root}/docs/frameworks.md")).unwrap();
        for row in all() {
            let line = documented(row);
            assert!(page.lines().any(|l| l == line), "docs/frameworks.md lacks:\n{line}");
        }
        let rows = page.lines().filter(|l| l.starts_with("| `")).filter(|l| l.matches('|').count() == 6);
        assert_eq!(rows.count(), all().len(), "docs/frameworks.md has rows that the table has not");
    }

    fn documented(row: &Framework) -> String {
        let code = |list: &[String]| list.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        let mut signs: Vec<String> = vec![code(&row.depends), code(&row.files)];
        signs.push(row.script_is.iter().map(|s| format!("script `{s} …`")).collect::<Vec<_>>().join(", "));
        signs.retain(|s| !s.is_empty());
        let scripts = row.scripts.iter().map(|s| format!("script `{s}`")).collect::<Vec<_>>().join(", ");
        let needed = row.script_has.as_ref().map(|h| format!(" with `{h}`")).unwrap_or_default();
        let tool = row.tool.as_ref().map(|t| format!(", else `{}`", t.join(" "))).unwrap_or_default();
        let outputs = row.outputs.iter().map(|o| match o.as_str() {
            "@angular" => "as `angular.json` says".to_owned(),
            other => format!("`{other}`"),
        });
        let outputs = outputs.collect::<Vec<_>>().join(", ");
        format!(
            "| `{}` | {} | {} | {scripts}{needed}{tool} | {outputs} |",
            row.name,
            row.title,
            signs.join(", ")
        )
    }
}
