//! Where in a tree the site or the project lies, when nobody said so. Only names are looked at; what is
//! ambiguous is left to the user, who is told the folders.

use super::{NAMED, PLAIN, beneath, join, project_file};
use crate::domain::source::{BuildOverrides, SourceTree};

/// Where pages usually lie that are served as they are.
const USUAL: &[&str] = &["public", "dist", "build", "out", "www", "site", "htdocs"];
const START: &str = "index.html";

/// What the deployment wishes, with the folder of the project's only package for its root directory where
/// nothing else says where to look: people send the folder around their project, or beside a server.
pub fn located(tree: &SourceTree, deployment: BuildOverrides) -> (BuildOverrides, Option<String>) {
    let told = deployment.root_directory.is_some()
        || deployment.output_directory.is_some()
        || deployment.install_command.is_some()
        || deployment.command.is_some()
        || deployment.framework.as_deref() == Some(PLAIN);
    let top = ["package.json", START, project_file::NAME].iter().any(|name| tree.files.contains_key(*name));
    if told || top || usual(tree, "").is_some() {
        return (deployment, None);
    }
    let Some(only) = topmost(folders(tree, "", "package.json")) else { return (deployment, None) };
    let root_directory = Some(only.clone());
    (BuildOverrides { root_directory, ..deployment }, Some(only))
}

/// Where the pages beneath `directory` lie, and words about it if that is not `directory` itself.
/// `None`: there are none, or they are some package's, which is no site before it was built.
pub fn of_pages(tree: &SourceTree, directory: &str) -> Option<(String, Option<String>)> {
    if tree.files.contains_key(&join(directory, START)) {
        return Some((directory.to_owned(), None));
    }
    let lies = |folder: String| {
        let words = format!("{START} lies in {folder}");
        Some((join(directory, &folder), Some(words)))
    };
    if let Some(folder) = usual(tree, directory) {
        return lies(folder.to_owned());
    }
    if !folders(tree, directory, "package.json").is_empty() {
        return None;
    }
    if let Some(folder) = topmost(folders(tree, directory, START)) {
        return lies(folder);
    }
    let any = tree.files.keys().any(|path| beneath(path, directory).is_some_and(|p| p.ends_with(".html")));
    any.then(|| (directory.to_owned(), Some(format!("no {START} is at its top, so its address answers 404"))))
}

/// Folders beneath this one that have a package.json of their own, as the tree knows them.
pub fn packages(tree: &SourceTree, directory: &str) -> Vec<String> {
    let own = folders(tree, directory, "package.json").into_iter();
    own.take(NAMED).map(|folder| join(directory, &folder)).collect()
}

fn usual(tree: &SourceTree, directory: &str) -> Option<&'static str> {
    let has = |folder: &str, name| tree.files.contains_key(&join(&join(directory, folder), name));
    USUAL.iter().copied().find(|folder| has(folder, START) && !has(folder, "package.json"))
}

/// Folders beneath `directory` that hold a file of this name.
fn folders(tree: &SourceTree, directory: &str, name: &str) -> Vec<String> {
    let holds = |path: &String| {
        let folder = beneath(path, directory)?.strip_suffix(name)?.strip_suffix('/')?;
        (!folder.split('/').any(|part| part == "node_modules")).then(|| folder.to_owned())
    };
    tree.files.keys().filter_map(holds).collect()
}

/// The one that all others lie in.
fn topmost(folders: Vec<String>) -> Option<String> {
    let top = folders.iter().min_by_key(|folder| folder.len())?.clone();
    folders.iter().all(|folder| *folder == top || beneath(folder, &top).is_some()).then_some(top)
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

    #[test]
    fn the_only_package_is_the_project() {
        let found = |paths: &[&str]| located(&tree(paths), BuildOverrides::default()).1;
        assert_eq!(found(&["README.md", "web/package.json", "web/index.html"]).as_deref(), Some("web"));
        assert_eq!(found(&["app/package.json", "app/packages/ui/package.json"]).as_deref(), Some("app"));
        assert_eq!(found(&["a/b/package.json", "a/b/node_modules/x/package.json"]).as_deref(), Some("a/b"));
        for elsewhere in [
            &["package.json", "web/package.json"][..],
            &["index.html", "web/package.json"],
            &["libra.toml", "web/package.json"],
            // A static site beside the functions of some host.
            &["public/index.html", "functions/package.json"],
            &["web/package.json", "api/package.json"],
            &["web/index.html"],
        ] {
            assert_eq!(found(elsewhere), None, "{elsewhere:?}");
        }
        let told = BuildOverrides { command: Some("make".into()), ..BuildOverrides::default() };
        assert_eq!(located(&tree(&["web/package.json"]), told.clone()), (told, None));
    }

    #[test]
    fn pages_are_found_where_people_put_them() {
        let found = |paths: &[&str]| of_pages(&tree(paths), "").map(|(folder, _)| folder);
        assert_eq!(found(&["index.html", "public/index.html"]).as_deref(), Some(""));
        assert_eq!(found(&["readme.md", "public/index.html"]).as_deref(), Some("public"));
        assert_eq!(
            found(&["site-main/index.html", "site-main/docs/index.html"]).as_deref(),
            Some("site-main")
        );
        // Several sites side by side, or pages without a start page: each keeps its address.
        assert_eq!(found(&["a/index.html", "b/index.html"]).as_deref(), Some(""));
        let (folder, words) = of_pages(&tree(&["home.html"]), "").unwrap();
        assert_eq!((folder.as_str(), words.is_some_and(|w| w.contains("404"))), ("", true));
        // The sources of a page that has to be built are no site.
        assert_eq!(found(&["web/index.html", "web/package.json", "api/package.json"]), None);
        assert_eq!(found(&["public/index.html", "public/package.json"]), None);
        let within = of_pages(&tree(&["app/public/index.html"]), "app").unwrap();
        assert_eq!(within, ("app/public".into(), Some("index.html lies in public".into())));
    }
}
