//! The rules for file names that cross the border of a sandbox. Decides on names only; that a name
//! leads nowhere else is checked by the kernel (`openat2`) when it is opened.

use super::error::SandboxError;

/// Longest path in bytes, and longest name between two slashes.
const PATH_BYTES: usize = 1024;
const NAME_BYTES: usize = 255;

/// Checks a relative path such as `dist/index.html`.
pub(super) fn check(path: &str) -> Result<(), SandboxError> {
    match fault(path) {
        None => Ok(()),
        Some(why) => Err(SandboxError::BadPath { path: path.escape_debug().take(200).collect(), why }),
    }
}

/// Like [`check`], but `.` and the empty path name the work folder itself.
pub(super) fn check_directory(path: &str) -> Result<(), SandboxError> {
    if path.is_empty() || path == "." { Ok(()) } else { check(path.strip_suffix('/').unwrap_or(path)) }
}

fn fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("empty");
    }
    if path.len() > PATH_BYTES {
        return Some("longer than 1024 bytes");
    }
    if path.starts_with('/') {
        return Some("absolute");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Some("holds a backslash or a control character");
    }
    path.split('/').find_map(|name| match name {
        "" => Some("holds an empty name"),
        "." | ".." => Some("holds `.` or `..`"),
        long if long.len() > NAME_BYTES => Some("holds a name longer than 255 bytes"),
        _ => None,
    })
}

/// Checks `<deployment>.<fence>`: it becomes a folder name.
pub(super) fn check_id(id: &str) -> Result<(), SandboxError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    match id.split_once('.') {
        Some((deployment, fence))
            if (1..=64).contains(&deployment.len())
                && deployment.chars().all(plain)
                && (1..=20).contains(&fence.len())
                && fence.chars().all(|c| c.is_ascii_digit()) =>
        {
            Ok(())
        }
        Some(_) | None => Err(SandboxError::BadId),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a\0b", "C:\\x", "a/", "a\nb"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b.txt", ".env", "..a", "ü/ö"] {
            assert!(check(good).is_ok(), "{good:?}");
        }
        assert!(check(&"a".repeat(256)).is_err());
    }

    #[test]
    fn ids_are_deployment_and_fence() {
        assert!(check_id("0af3.1").is_ok());
        for bad in ["", "x", "x.", ".1", "../x.1", "a/b.1", "a.b", "a.1.2"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
