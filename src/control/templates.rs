//! Templates: small projects that are part of the program, to begin with. A project keeps the tree
//! that its template had when it was made, so that a newer program changes no project.

use super::sources::SourceFile;
use super::{Control, ControlError};
use crate::domain::source::SourceTree;
use crate::domain::tree_path::TreePath;
use crate::domain::{Digest, OrgId};
use crate::store::projects::ProjectRow;

/// A path and its content.
type EmbeddedFile = (&'static str, &'static [u8]);

/// Names and files, by `build.rs`.
const EMBEDDED: &[(&str, &[EmbeddedFile])] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

const WORDS: &[(&str, &str, &str)] = &[
    ("astro", "Astro", "Notes in Markdown as static pages, with no script unless you add some."),
    ("plain", "Plain HTML", "HTML, CSS and a little JavaScript: nothing to install, nothing to build."),
    (
        "vite-react",
        "Vite, React, TypeScript and Tailwind",
        "A React page with accessible components of its own.",
    ),
];

/// One template.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    pub name: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// Every template, by name.
pub fn all() -> impl Iterator<Item = Template> {
    EMBEDDED.iter().filter_map(|(name, files)| {
        let (_, title, description) = WORDS.iter().find(|(known, ..)| known == name)?;
        Some(Template { name, title, description, files })
    })
}

#[must_use]
pub fn named(name: &str) -> Option<Template> {
    all().find(|template| template.name == name)
}

impl Template {
    fn files(&self) -> Vec<SourceFile> {
        let file = |(path, content): &(&str, &'static [u8])| SourceFile {
            path: TreePath::parse(path).expect("the templates' paths are constants and tested"),
            content: bytes::Bytes::from_static(content),
        };
        self.files.iter().map(file).collect()
    }
}

impl Control {
    /// Stores the template's tree for the organization; answers its digest.
    pub(super) async fn template_store(
        &self,
        org: &OrgId,
        template: &Template,
    ) -> Result<Digest, ControlError> {
        let order = self.sources_store(org, Some(template.files()), Vec::new()).await?;
        Ok(self.sources_assemble(org, &order, None, None).await?.0)
    }

    /// What lies beneath the files that a deployment brings.
    pub(super) async fn beneath(
        &self,
        org: &OrgId,
        tree: &Digest,
        over: SourceTree,
    ) -> Result<SourceTree, ControlError> {
        let mut whole = self.tree_load(org, tree).await?;
        // A file that is brought may stand where the template has a folder, or within what was a file.
        let brought: Vec<&String> = over.files.keys().collect();
        let inside = |path: &str, folder: &str| path.strip_prefix(folder).is_some_and(|r| r.starts_with('/'));
        whole.files.retain(|path, _| !brought.iter().any(|b| inside(path, b) || inside(b, path)));
        whole.files.extend(over.files);
        Ok(whole)
    }
}

/// How a project remembers its template: name and tree.
#[must_use]
pub fn remembered(name: &str, tree: &Digest) -> String {
    format!("{name}@{tree}")
}

/// The template's name, as it is shown.
#[must_use]
pub fn name_of(project: &ProjectRow) -> Option<&str> {
    let text = project.template.as_deref()?;
    Some(text.split_once('@').map_or(text, |(name, _)| name))
}

/// The tree that the project's template had.
#[must_use]
pub fn tree_of(project: &ProjectRow) -> Option<Digest> {
    let (_, digest) = project.template.as_deref()?.split_once('@')?;
    Digest::parse(digest).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tree_path::find_conflicts;

    #[test]
    fn every_template_is_whole_and_has_its_words() {
        assert_eq!(all().count(), EMBEDDED.len(), "a folder of templates/ has no words");
        assert_eq!(all().map(|t| t.name).collect::<Vec<_>>(), ["astro", "plain", "vite-react"]);
        for template in all() {
            let files = template.files();
            assert!(find_conflicts(files.iter().map(|f| &f.path)).is_empty(), "{}", template.name);
            let has = |path: &str| files.iter().any(|f| f.path.as_str() == path);
            assert!(has("index.html") || has("package.json"), "{}", template.name);
            // Built the same each time: what is installed stands in a lockfile.
            assert_eq!(has("package.json"), has("package-lock.json"), "{}", template.name);
            for file in &files {
                let path = file.path.as_str();
                assert!(!path.contains("node_modules/") && !path.starts_with("dist/"), "{path}");
                let text = String::from_utf8_lossy(&file.content);
                let foreign = text.contains("https://") && !path.ends_with("package-lock.json");
                assert!(!foreign, "{path} names another host");
            }
        }
    }
}
