//! Reads a folder into the files of a deployment: what git would track, in a stable order.
//! Never follows a link, and never holds more than one request may carry.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ignore::WalkBuilder;

use super::error::CliError;
use super::wire::FileDocument;

/// The control surface's limit for a request body (contract §3).
pub const BODY_LIMIT_BYTES: u64 = 10 * 1024 * 1024;
/// Never part of a source, whatever `.gitignore` says.
const SKIPPED: [&str; 3] = ["node_modules", ".git", ".libra"];
/// How many of the largest files an over-long source names.
const LARGEST_SHOWN: usize = 3;

/// The files of a folder, and what was left out that somebody may miss.
#[derive(Debug)]
pub struct Sources {
    pub files: Vec<FileDocument>,
    pub skipped_links: Vec<String>,
    sizes: Vec<(u64, String)>,
}

/// Reads `folder`. `.gitignore` files count with and without a `.git`, also those of folders above.
///
/// # Errors
/// If the folder is none, is empty, holds a name that is not UTF-8, or can't be read; or if it is too large to send.
pub fn read(folder: &Path) -> Result<Sources, CliError> {
    if !folder.is_dir() {
        return Err(CliError::Usage(format!("{} is no folder", folder.display())));
    }
    let mut sources = Sources { files: Vec::new(), skipped_links: Vec::new(), sizes: Vec::new() };
    let mut total_bytes = 0;
    let walk = WalkBuilder::new(folder)
        .hidden(false)
        .ignore(false)
        .require_git(false)
        .filter_entry(|entry| !SKIPPED.iter().any(|name| entry.file_name() == *name))
        .sort_by_file_name(Ord::cmp)
        .build();
    for entry in walk {
        let entry = entry.map_err(CliError::Walk)?;
        let Some(kind) = entry.file_type().filter(|kind| !kind.is_dir()) else { continue };
        let path = tree_path(folder, entry.path())?;
        if !kind.is_file() {
            sources.skipped_links.push(path);
            continue;
        }
        let size = entry.metadata().map_err(CliError::Walk)?.len();
        total_bytes += size;
        sources.sizes.push((size, path.clone()));
        // What no longer fits is measured on, so that the message can name the largest, but not read.
        if total_bytes <= BODY_LIMIT_BYTES {
            let bytes = std::fs::read(entry.path())
                .map_err(|source| CliError::Read { path: entry.path().to_owned(), source })?;
            sources.files.push(document(path, bytes));
        }
    }
    if sources.sizes.is_empty() {
        return Err(CliError::Usage(format!("{} holds no file to deploy", folder.display())));
    }
    if total_bytes > BODY_LIMIT_BYTES {
        return Err(sources.too_large(total_bytes));
    }
    Ok(sources)
}

impl Sources {
    /// Says by how much a source is too large, and where to look.
    #[must_use]
    pub fn too_large(&self, bytes: u64) -> CliError {
        let mut largest: Vec<_> = self.sizes.iter().collect();
        largest.sort_by(|a, b| b.cmp(a));
        let named: Vec<String> = largest
            .iter()
            .take(LARGEST_SHOWN)
            .map(|(size, path)| format!("{path} ({})", mebibytes(*size)))
            .collect();
        CliError::Usage(format!(
            "the source is too large to send: {}, and {} is the limit; largest: {}. \
             List what a build does not need in .gitignore",
            mebibytes(bytes),
            mebibytes(BODY_LIMIT_BYTES),
            named.join(", "),
        ))
    }
}

fn tree_path(folder: &Path, path: &Path) -> Result<String, CliError> {
    let relative = path.strip_prefix(folder).unwrap_or(path);
    relative.to_str().map(str::to_owned).ok_or_else(|| {
        CliError::Usage(format!("the name {} is not UTF-8, which a source can't carry", relative.display()))
    })
}

fn document(path: String, bytes: Vec<u8>) -> FileDocument {
    match String::from_utf8(bytes) {
        Ok(content) => FileDocument { path, content, encoding: None },
        Err(error) => {
            FileDocument { path, content: STANDARD.encode(error.as_bytes()), encoding: Some("base64") }
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10).div_ceil(1024 * 1024);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    #[test]
    fn a_folder_is_read_as_git_would_track_it() {
        let dir = folder(&[
            (".gitignore", b"dist\n*.log\n"),
            (".npmrc", b"fund=false"),
            ("dist/out.js", b"x"),
            ("debug.log", b"x"),
            ("node_modules/a/index.js", b"x"),
            ("src/node_modules/b/index.js", b"x"),
            (".git/HEAD", b"x"),
            (".libra/data.db", b"x"),
            ("src/main.ts", b"let a = 1"),
            ("src/.gitignore", b"secret\n"),
            ("src/secret", b"x"),
            ("logo.png", &[0x89, 0x50, 0xff]),
        ]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let sources = read(dir.path()).unwrap();
        let paths: Vec<_> = sources.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".gitignore", ".npmrc", "logo.png", "src/.gitignore", "src/main.ts"]);
        assert_eq!(sources.skipped_links, ["link"]);
        let logo = &sources.files[2];
        assert_eq!((logo.content.as_str(), logo.encoding), ("iVD/", Some("base64")));
        assert_eq!(sources.files[4].encoding, None);
    }

    #[test]
    fn an_ignored_folder_can_itself_be_deployed() {
        let dir = folder(&[(".gitignore", b"dist/\n"), ("dist/index.html", b"<p>")]);
        let sources = read(&dir.path().join("dist")).unwrap();
        assert_eq!(sources.files[0].path, "index.html");
    }

    #[test]
    fn a_source_over_the_limit_names_its_largest_files() {
        let dir = folder(&[("a.txt", b"a"), ("big.bin", &vec![0; 11 * 1024 * 1024])]);
        let error = read(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(
            text.contains("11.1 MiB, and 10.0 MiB is the limit; largest: big.bin (11.0 MiB), a.txt"),
            "{text}"
        );
    }

    #[test]
    fn nothing_to_deploy_is_a_usage_error() {
        assert_eq!(read(folder(&[]).path()).unwrap_err().exit_code(), 2);
        assert_eq!(read(Path::new("/nonexistent")).unwrap_err().exit_code(), 2);
    }
}
