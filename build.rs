//! Writes the table of the templates' files, so that they are part of the program. What a build or an
//! install leaves in `templates/` is not.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Folders that tools make.
const MADE: &[&str] = &["node_modules", "dist", ".astro"];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let templates = root.join("templates");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=templates");
    let mut table = String::from("&[\n");
    for folder in entries(&templates).into_iter().filter(|path| path.is_dir()) {
        let name = file_name(&folder);
        let mut files = Vec::new();
        collect(&folder, &folder, &mut files);
        files.sort();
        writeln!(table, "({name:?}, &[").expect("a string takes everything");
        for (path, file) in files {
            writeln!(table, "({path:?}, include_bytes!({file:?}).as_slice()),")
                .expect("a string takes everything");
        }
        table.push_str("]),\n");
    }
    table.push(']');
    std::fs::write(out.join("templates.rs"), table).expect("cargo's own folder can be written");
}

fn collect(top: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for path in entries(folder) {
        if path.is_dir() {
            if !MADE.contains(&file_name(&path).as_str()) {
                collect(top, &path, files);
            }
            continue;
        }
        let within = path.strip_prefix(top).expect("it was found beneath");
        files.push((text(within), text(&path)));
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = std::fs::read_dir(folder).expect("the templates are part of the source");
    let mut found: Vec<PathBuf> =
        read.map(|entry| entry.expect("the templates can be listed").path()).collect();
    found.sort();
    found
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn text(path: &Path) -> String {
    path.to_str().expect("the templates' paths are UTF-8").to_owned()
}
