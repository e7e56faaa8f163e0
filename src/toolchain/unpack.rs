//! Unpacks a package's tarball into a fresh folder of our own: plain files only, nowhere else, within
//! bounds. Who packed it is a stranger, whatever its digest says.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use base64::Engine;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::kind::ALGORITHMS;

/// Bounds of one tool, over all packages that it is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub bytes: u64,
    pub entries: u64,
}

/// Hex digests by algorithm.
pub(super) type Digests = std::collections::BTreeMap<String, String>;

const COPY_BYTES: usize = 64 * 1024;

/// Reads to the end.
pub(super) fn digests(source: &mut impl Read) -> io::Result<Digests> {
    let (mut sha1, mut sha224, mut sha256) = (Sha1::new(), Sha224::new(), Sha256::new());
    let (mut sha384, mut sha512) = (Sha384::new(), Sha512::new());
    let mut buffer = vec![0_u8; COPY_BYTES];
    loop {
        let read = source.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..read).filter(|chunk| !chunk.is_empty()) else { break };
        sha1.update(chunk);
        sha224.update(chunk);
        sha256.update(chunk);
        sha384.update(chunk);
        sha512.update(chunk);
    }
    let all = [
        hex::encode(sha1.finalize()),
        hex::encode(sha224.finalize()),
        hex::encode(sha256.finalize()),
        hex::encode(sha384.finalize()),
        hex::encode(sha512.finalize()),
    ];
    Ok(ALGORITHMS.iter().map(|name| (*name).to_owned()).zip(all).collect())
}

/// Whether the digests are those of a pin, `sha512-<base64>`.
pub(super) fn matches(digests: &Digests, integrity: &str) -> bool {
    let wanted = integrity
        .strip_prefix("sha512-")
        .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
    wanted.is_some_and(|wanted| digests.get("sha512") == Some(&hex::encode(wanted)))
}

/// Unpacks what lies beneath the tarball's one top folder into `into`, where `wanted` agrees with its
/// path. Files are 0644 or 0755, folders 0755: builds read them under another user.
pub(super) fn unpack(
    tarball: impl Read,
    into: &Path,
    room: &mut Room,
    wanted: impl Fn(&Path) -> bool,
) -> Result<(), String> {
    // The bound holds for everything that comes out, headers and left out files too.
    let limit = room.bytes.saturating_add(room.entries.saturating_mul(1024));
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(tarball).take(limit));
    let entries = archive.entries().map_err(unreadable)?;
    for entry in entries {
        let mut entry = entry.map_err(unreadable)?;
        room.entries = room.entries.checked_sub(1).ok_or("it has too many entries")?;
        let kind = entry.header().entry_type();
        let path = entry.path().map_err(unreadable)?.into_owned();
        let path = beneath(&path)?;
        if kind.is_dir() || !wanted(&path) {
            continue;
        }
        if !kind.is_file() {
            return Err(format!("`{}` is no plain file", path.display()));
        }
        let executable = entry.header().mode().map_err(unreadable)? & 0o111 != 0;
        room.bytes = room.bytes.checked_sub(entry.size()).ok_or("it is too large")?;
        let target = into.join(&path);
        if let Some(folder) = target.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(unwritten)?;
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(if executable { 0o755 } else { 0o644 })
            .open(&target)
            .map_err(unwritten)?;
        io::copy(&mut entry, &mut file).map_err(unreadable)?;
        file.flush().map_err(unwritten)?;
    }
    Ok(())
}

/// The path without the top folder, which is `package` in nearly all of them.
fn beneath(path: &Path) -> Result<PathBuf, String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::CurDir => {}
            _ => return Err(format!("`{}` leads out of it", path.display())),
        }
    }
    Ok(parts.into_iter().skip(1).collect())
}

fn unreadable(error: io::Error) -> String {
    format!("it is not a readable tarball ({error})")
}

fn unwritten(error: io::Error) -> String {
    format!("a file can't be written ({error})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const ROOM: Room = Room { bytes: 1000, entries: 10 };

    /// Raw names: the tar crate itself would not write a hostile one.
    fn tarball(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut packed = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), Default::default()));
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(if name.ends_with("run") { 0o4777 } else { 0o600 });
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            packed.append(&header, *content).unwrap();
        }
        packed.into_inner().unwrap().finish().unwrap()
    }

    fn into_folder(bytes: &[u8], room: Room) -> (tempfile::TempDir, Result<(), String>) {
        let home = tempfile::tempdir().unwrap();
        let into = home.path().join("in");
        fs::create_dir(&into).unwrap();
        let mut room = room;
        let done = unpack(bytes, &into, &mut room, |path| !path.starts_with("skipped"));
        (home, done)
    }

    #[test]
    fn plain_files_are_laid_out_for_everybody_and_without_special_rights() {
        use tar::EntryType::Regular;
        let bytes = tarball(&[
            ("package/deep/er/a", Regular, b"words"),
            ("package/run", Regular, b"x"),
            ("package/skipped/b", Regular, b"x"),
        ]);
        let (home, done) = into_folder(&bytes, ROOM);
        done.unwrap();
        let mode = |path: &str| fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(fs::read(home.path().join("in/deep/er/a")).unwrap(), b"words");
        assert_eq!((mode("in/deep/er/a"), mode("in/deep"), mode("in/run")), (0o644, 0o755, 0o755));
        assert!(!home.path().join("in/skipped").exists());
    }

    #[test]
    fn hostile_tarballs_are_refused_and_write_nowhere_else() {
        use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
        for (name, kind) in [
            ("package/../../out", Regular),
            ("../out", Regular),
            ("/out", Regular),
            ("package/link", Symlink),
            ("package/hard", Link),
            ("package/fifo", Fifo),
            ("package/device", Block),
            ("package/device", Char),
        ] {
            let (home, done) = into_folder(&tarball(&[(name, kind, b"")]), ROOM);
            done.unwrap_err();
            assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "{name}");
            assert_eq!(fs::read_dir(home.path().join("in")).unwrap().count(), 0, "{name}");
        }
        let twice = tarball(&[("package/a", Regular, b"1"), ("package/a", Regular, b"2")]);
        into_folder(&twice, ROOM).1.unwrap_err();
    }

    #[test]
    fn bombs_end_at_the_bounds() {
        use tar::EntryType::Regular;
        let zeros = vec![0; 2000];
        let large = tarball(&[("package/a", Regular, &zeros)]);
        assert!(into_folder(&large, ROOM).1.unwrap_err().contains("too large"));
        let names: Vec<String> = (0..11).map(|n| format!("package/{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), Regular, &b""[..])).collect();
        assert!(into_folder(&tarball(&many), ROOM).1.unwrap_err().contains("too many"));
        // What is left out counts too.
        let huge = vec![0; 100_000];
        into_folder(&tarball(&[("package/skipped/a", Regular, &huge)]), ROOM).1.unwrap_err();
        let half = &large[..large.len() / 2];
        into_folder(half, Room { bytes: 10_000, entries: 10 }).1.unwrap_err();
        into_folder(b"<html>", ROOM).1.unwrap_err();
    }

    #[test]
    fn a_tarball_with_one_other_byte_does_not_match_its_pin() {
        let digests = digests(&mut &b"the tarball"[..]).unwrap();
        let pin = |bytes: &[u8]| {
            format!("sha512-{}", base64::engine::general_purpose::STANDARD.encode(Sha512::digest(bytes)))
        };
        assert!(matches(&digests, &pin(b"the tarball")));
        assert!(!matches(&digests, &pin(b"the Tarball")));
        assert!(!matches(&digests, "sha512-") && !matches(&digests, "") && !matches(&digests, "sha1-AAAA"));
        assert_eq!(digests.keys().map(String::as_str).collect::<Vec<_>>(), ALGORITHMS);
    }
}
