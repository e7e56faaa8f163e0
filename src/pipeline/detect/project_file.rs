//! `libra.toml`: what a project itself says about its build. Unknown keys are mistakes.

use serde::Deserialize;

use super::error::DetectError;
use super::join;
use crate::domain::source::{BuildOverrides, SourceTree};

pub const NAME: &str = "libra.toml";
/// As in the API.
const COMMAND: usize = 1_000;
const WORD: usize = 64;
const PATH: usize = 1_024;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProjectFile {
    build: Section,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Section {
    command: Option<String>,
    install_command: Option<String>,
    output_directory: Option<String>,
    root_directory: Option<String>,
    framework: Option<String>,
    node: Option<toml::Value>,
    package_manager: Option<String>,
}

/// Where the project's file is: in the root directory that the deployment names, else at the top.
pub fn path(tree: &SourceTree, root: &str) -> Option<String> {
    let own = join(root, NAME);
    [own, NAME.to_owned()].into_iter().find(|path| tree.files.contains_key(path))
}

/// # Errors
/// [`DetectError::BadProjectFile`] with the line.
pub fn parse(path: &str, bytes: &[u8]) -> Result<BuildOverrides, DetectError> {
    let refuse = |message: String| DetectError::BadProjectFile { path: path.to_owned(), message };
    let text = std::str::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8".into()))?;
    let file: ProjectFile = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        refuse(format!("line {line}: {}", e.message()))
    })?;
    let Section {
        command,
        install_command,
        output_directory,
        root_directory,
        framework,
        node,
        package_manager,
    } = file.build;
    let bounds = [
        ("command", &command, COMMAND),
        ("install_command", &install_command, COMMAND),
        ("output_directory", &output_directory, PATH),
        ("root_directory", &root_directory, PATH),
        ("framework", &framework, WORD),
        ("package_manager", &package_manager, WORD),
    ];
    for (key, value, most) in bounds {
        if value.as_ref().is_some_and(|v| v.chars().count() > most || v.contains('\0')) {
            return Err(refuse(format!("build.{key} must have at most {most} characters and no NUL")));
        }
    }
    let node = match node {
        None => None,
        Some(toml::Value::Integer(major)) => Some(major.to_string()),
        Some(toml::Value::String(version)) if version.len() <= WORD => Some(version),
        Some(_) => return Err(refuse("build.node must be a version, such as 22 or \"22.x\"".into())),
    };
    Ok(BuildOverrides {
        command: command.filter(|c| !c.trim().is_empty()),
        install_command,
        output_directory,
        root_directory,
        framework,
        node,
        package_manager,
        cache: None,
    })
}

/// The deployment's settings, and where it has none those of the file. A file that speaks of another
/// folder than the deployment is not about what is built.
pub fn merge(deployment: &BuildOverrides, file: BuildOverrides, root: &str) -> BuildOverrides {
    let own_root = file.root_directory.as_deref().map(|r| r.trim_start_matches("./").trim_end_matches('/'));
    if deployment.root_directory.is_some() && own_root.is_some_and(|own| own != root) {
        return deployment.clone();
    }
    let of = |own: &Option<String>, other: Option<String>| own.clone().or(other);
    BuildOverrides {
        command: of(&deployment.command, file.command),
        install_command: of(&deployment.install_command, file.install_command),
        output_directory: of(&deployment.output_directory, file.output_directory),
        root_directory: of(&deployment.root_directory, file.root_directory),
        framework: of(&deployment.framework, file.framework),
        node: of(&deployment.node, file.node),
        package_manager: of(&deployment.package_manager, file.package_manager),
        // A matter of one deployment, not of the project.
        cache: deployment.cache,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        parse(NAME, text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let unknown = message("[build]\ncommand = \"x\"\noutptu_directory = \"y\"\n");
        assert!(unknown.contains("libra.toml, line 3: unknown field `outptu_directory`"), "{unknown}");
        assert!(unknown.contains("`output_directory`"), "{unknown}");
        assert!(message("[deploy]\n").contains("line 1: unknown field `deploy`"));
        assert!(message("[build]\n\ncommand = 3\n").contains("line 3"));
        assert!(message("[build\n").contains("line 1"));
        assert!(message(&format!("[build]\ncommand = \"{}\"", "x".repeat(1001))).contains("1000 characters"));
        assert!(message("[build]\nnode = [22]").contains("build.node"));
    }

    #[test]
    fn the_deployment_wins_over_the_file_key_by_key() {
        let text =
            "[build]\ncommand = \"a\"\noutput_directory = \"b\"\nnode = 22\npackage_manager = \"pnpm\"\n";
        let file = parse(NAME, text.as_bytes()).unwrap();
        assert_eq!(file.node.as_deref(), Some("22"));
        let own = BuildOverrides { command: Some("own".into()), ..BuildOverrides::default() };
        let merged = merge(&own, file, "");
        assert_eq!((merged.command.as_deref(), merged.output_directory.as_deref()), (Some("own"), Some("b")));
        assert_eq!(merged.package_manager.as_deref(), Some("pnpm"));
    }

    #[test]
    fn a_file_about_another_folder_is_not_obeyed() {
        let file = || BuildOverrides {
            root_directory: Some("./apps/a/".into()),
            command: Some("a".into()),
            ..BuildOverrides::default()
        };
        let own =
            |root: &str| BuildOverrides { root_directory: Some(root.into()), ..BuildOverrides::default() };
        assert_eq!(merge(&own("apps/b"), file(), "apps/b").command, None);
        assert_eq!(merge(&own("apps/a"), file(), "apps/a").command.as_deref(), Some("a"));
    }
}
