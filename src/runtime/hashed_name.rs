//! Owns whether a file's name is made from its content, so that it may be kept for ever.
//! Never guesses generously: a wrong yes would show visitors an old file for a year.

/// Folders in which build tools put files whose names they derive from the content.
const HASHED_FOLDERS: [&str; 2] = ["assets/", "_astro/"];
/// Folders in which every file is so named, by the rule of the framework (Next.js, SvelteKit).
const IMMUTABLE_FOLDERS: [&str; 2] = ["_next/static/", "_app/immutable/"];
/// Characters of a content hash: Rollup and Vite write 8, webpack 20, others 16 or 32.
const HASH_CHARS: [usize; 4] = [8, 16, 20, 32];

/// Whether the name can be trusted to change with the content: it lies in a build tool's folder, at the root or below,
/// and ends in `-` or `.` and a hash before the extension. The hash must look like one (a letter, and a digit or
/// a capital that does not begin it), so that `assets/main-homepage.js` or `assets/report-20260101.pdf`, copied
/// there by hand, stay fresh. A hash that happens to look like a word is only asked for again: slow, never wrong.
pub fn is_named_by_content(path: &str) -> bool {
    let is_in = |folder: &str| {
        path.starts_with(folder)
            || path.match_indices(folder).any(|(at, _)| path.as_bytes()[..at].ends_with(b"/"))
    };
    if IMMUTABLE_FOLDERS.into_iter().any(is_in) {
        return true;
    }
    if !HASHED_FOLDERS.into_iter().any(is_in) {
        return false;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    // `.map` files and the like keep the hash of what they belong to.
    let stem = name.strip_suffix(".map").unwrap_or(name);
    let Some((stem, _extension)) = stem.rsplit_once('.') else { return false };
    HASH_CHARS.into_iter().any(|chars| ends_in_hash(stem, chars))
}

fn ends_in_hash(stem: &str, chars: usize) -> bool {
    let bytes = stem.as_bytes();
    let Some(start) = bytes.len().checked_sub(chars).filter(|start| *start > 0) else { return false };
    let hash = &bytes[start..];
    matches!(bytes[start - 1], b'-' | b'.')
        && hash.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && hash.iter().any(u8::is_ascii_alphabetic)
        && (hash.iter().any(u8::is_ascii_digit) || hash[1..].iter().any(u8::is_ascii_uppercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_made_from_the_content_are_kept_for_ever() {
        for path in [
            "assets/index-DiwrgTda.js",
            "assets/index-B-_x12ab.css",
            "assets/index-DiwrgTda.js.map",
            "sub/assets/react-CHdo91hT.svg",
            "_astro/index.Bx12_aZ9.css",
            "assets/main.0123456789abcdef0123.js",
            "_next/static/chunks/main.js",
            "_app/immutable/entry/start.js",
        ] {
            assert!(is_named_by_content(path), "{path}");
        }
        for path in [
            "index-DiwrgTda.js",
            "assets/main-homepage.js",
            "assets/Photo-Lakeside.jpg",
            "assets/report-20260101.pdf",
            "assets/logo.svg",
            "assets/DiwrgTda.js",
            "assets/index-DiwrgTd.js",
            "myassets/index-DiwrgTda.js",
            "assets/index-DiwrgTda",
            "x_next/static/a.js",
        ] {
            assert!(!is_named_by_content(path), "{path}");
        }
    }
}
