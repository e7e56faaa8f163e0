//! Owns what a file's path inside a source tree or a site may look like, and when two paths collide.
//! Never touches a file system: a path is judged by its text alone, the same on every machine.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

/// What ext4, xfs, btrfs and tmpfs allow for one name.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// Far below PATH_MAX (4096), so that a work folder fits in front of it.
pub const MAX_PATH_BYTES: usize = 1024;

/// A relative path with `/` between its segments that can't leave the folder it is joined to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TreePath(Box<str>);

/// Why a path was refused; each text completes the sentence "the path …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreePathError {
    #[error("is empty")]
    Empty,
    #[error("is longer than 1024 bytes")]
    TooLong,
    #[error("is absolute; give it relative to the project's folder")]
    Absolute,
    #[error("names a drive; give it relative to the project's folder")]
    Drive,
    #[error("contains a backslash; separate folders with '/'")]
    Backslash,
    #[error("contains a control character")]
    Control,
    #[error("contains an empty segment ('//' or a '/' at the end)")]
    EmptySegment,
    #[error("contains a '.' segment")]
    DotSegment,
    #[error("contains a '..' segment")]
    ParentSegment,
    #[error("contains a name longer than 255 bytes")]
    SegmentTooLong,
}

/// Two paths that can't lie in one tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeConflict {
    #[error("'{first}' and '{second}' are the same path where case or Unicode form does not count")]
    Twins { first: TreePath, second: TreePath },
    #[error("'{file}' is a file and also a folder, of '{inside}'")]
    FileIsFolder { file: TreePath, inside: TreePath },
}

impl TreePath {
    pub fn parse(input: &str) -> Result<TreePath, TreePathError> {
        check(input)?;
        Ok(TreePath(input.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The key under which a case-insensitive, normalizing file system would keep this path.
    /// Upper case first, so that `ß`/`ss`, `ſ`/`s` and both small sigmas meet.
    pub fn fold(&self) -> String {
        fold(&self.0)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl AsRef<str> for TreePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Every path that can't lie in one tree with another one, by its place in `paths`: twins under
/// [`TreePath::fold`], or a file that is also a folder. Each path is named once.
pub fn find_conflicts<'a>(paths: impl IntoIterator<Item = &'a TreePath>) -> Vec<(usize, TreeConflict)> {
    let mut by_key: HashMap<String, &TreePath> = HashMap::new();
    let mut all = Vec::new();
    let mut found = Vec::new();
    for (at, path) in paths.into_iter().enumerate() {
        let key = path.fold();
        match by_key.entry(key.clone()) {
            Entry::Occupied(first) => {
                let first = (*first.get()).clone();
                found.push((at, TreeConflict::Twins { first, second: path.clone() }));
            }
            Entry::Vacant(free) => {
                free.insert(path);
                all.push((at, key, path));
            }
        }
    }
    for (at, key, inside) in &all {
        let file = key.match_indices('/').find_map(|(end, _)| by_key.get(&key[..end]));
        if let Some(file) = file {
            let conflict = TreeConflict::FileIsFolder { file: (*file).clone(), inside: (*inside).clone() };
            found.push((*at, conflict));
        }
    }
    found
}

/// A folder as people write it: `./x/`, `x/` and `x` are the same one; empty or `.` is the root, answered as empty.
pub fn parse_folder(input: &str) -> Result<String, TreePathError> {
    let path = input.trim_start_matches("./").trim_end_matches('/');
    // Only slashes: that was the root of the machine, not of the project.
    if path.is_empty() && input.starts_with('/') {
        return Err(TreePathError::Absolute);
    }
    if path.is_empty() || path == "." {
        return Ok(String::new());
    }
    TreePath::parse(path).map(|path| path.as_str().to_owned())
}

fn check(input: &str) -> Result<(), TreePathError> {
    if input.is_empty() {
        return Err(TreePathError::Empty);
    }
    if input.len() > MAX_PATH_BYTES {
        return Err(TreePathError::TooLong);
    }
    if input.contains('\\') {
        return Err(TreePathError::Backslash);
    }
    if input.chars().any(char::is_control) {
        return Err(TreePathError::Control);
    }
    if input.starts_with('/') {
        return Err(TreePathError::Absolute);
    }
    let bytes = input.as_bytes();
    if bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' {
        return Err(TreePathError::Drive);
    }
    for segment in input.split('/') {
        match segment {
            "" => return Err(TreePathError::EmptySegment),
            "." => return Err(TreePathError::DotSegment),
            ".." => return Err(TreePathError::ParentSegment),
            _ if segment.len() > MAX_SEGMENT_BYTES => return Err(TreePathError::SegmentTooLong),
            _ => {}
        }
    }
    Ok(())
}

fn fold(path: &str) -> String {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    // Decomposed again after the case mapping, because mapping may leave a form that composes otherwise.
    let upper: String = path.nfd().flat_map(char::to_uppercase).collect();
    let lower: String = upper.nfd().flat_map(char::to_lowercase).collect();
    lower.nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_paths_are_refused_with_their_reason() {
        let cases = [
            ("", TreePathError::Empty),
            ("../x", TreePathError::ParentSegment),
            ("a/../../x", TreePathError::ParentSegment),
            ("/etc/passwd", TreePathError::Absolute),
            ("a\0b", TreePathError::Control),
            ("a\nb", TreePathError::Control),
            ("C:\\x", TreePathError::Backslash),
            ("C:/x", TreePathError::Drive),
            ("c:x", TreePathError::Drive),
            ("a/./b", TreePathError::DotSegment),
            ("./a", TreePathError::DotSegment),
            ("a//b", TreePathError::EmptySegment),
            ("a/", TreePathError::EmptySegment),
            ("..\\x", TreePathError::Backslash),
        ];
        for (input, reason) in cases {
            assert_eq!(TreePath::parse(input), Err(reason), "{input:?}");
        }
        assert_eq!(TreePath::parse(&"a".repeat(256)), Err(TreePathError::SegmentTooLong));
        assert_eq!(TreePath::parse(&"a/".repeat(513)), Err(TreePathError::TooLong));
    }

    #[test]
    fn ordinary_paths_are_kept_as_they_are() {
        for input in ["index.html", ".env.example", "a b/ü.txt", "..a/b..", "src/[slug]/page.tsx", "ab:c"] {
            assert_eq!(TreePath::parse(input).unwrap().as_str(), input);
        }
        assert!(TreePath::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn twins_and_files_that_are_folders_are_found() {
        let paths = |list: &[&str]| list.iter().map(|p| TreePath::parse(p).unwrap()).collect::<Vec<_>>();
        for twins in [
            ["README.md", "readme.MD"],
            ["caf\u{e9}.txt", "cafe\u{301}.txt"],
            ["straße", "STRASSE"],
            ["ὈΔΥΣΣΕΎΣ", "ὀδυσσεύς"],
            ["K", "\u{212a}"],
            ["a", "a"],
        ] {
            let found = find_conflicts(&paths(&twins));
            assert!(matches!(found[..], [(1, TreeConflict::Twins { .. })]), "{twins:?}: {found:?}");
        }
        let found = find_conflicts(&paths(&["docs/a/b.md", "x", "Docs/A"]));
        assert!(matches!(found[..], [(0, TreeConflict::FileIsFolder { .. })]), "{found:?}");
        assert_eq!(find_conflicts(&paths(&["a/b", "a/c", "ab"])), []);
    }

    #[test]
    fn every_conflict_is_found_at_its_place() {
        let paths: Vec<_> =
            ["a", "A", "b/c", "ok", "b", "a/x"].iter().map(|p| TreePath::parse(p).unwrap()).collect();
        let places: Vec<usize> = find_conflicts(&paths).into_iter().map(|(at, _)| at).collect();
        assert_eq!(places, [1, 2, 5]);
    }

    #[test]
    fn folders_may_be_written_in_several_ways_and_stay_inside() {
        for (input, folder) in [("", ""), (".", ""), ("./", ""), ("./x/", "x"), ("a/b", "a/b")] {
            assert_eq!(parse_folder(input).as_deref(), Ok(folder), "{input}");
        }
        for input in ["..", "../x", "/", "/x", "a/../b", "C:/x", "./../x", "a\\b"] {
            assert!(parse_folder(input).is_err(), "{input}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_inside_its_folder(input in "[a-zA-Z.:/\\\\ \u{0}é]{0,24}") {
            if let Ok(path) = TreePath::parse(&input) {
                let components: Vec<_> = std::path::Path::new(path.as_str()).components().collect();
                prop_assert!(!components.is_empty());
                prop_assert!(components.iter().all(|c| matches!(c, std::path::Component::Normal(_))));
                prop_assert_eq!(components.len(), path.segments().count());
            }
        }

        #[test]
        fn folding_ignores_case_and_form_and_is_stable(input in "[^\\pC/\\\\:]{1,20}") {
            if let Ok(path) = TreePath::parse(&input) {
                let key = path.fold();
                prop_assert_eq!(fold(&key), key.clone());
                prop_assert_eq!(fold(&input.nfd().collect::<String>()), key.clone());
                prop_assert_eq!(fold(&input.to_lowercase()), key);
            }
        }
    }
}
