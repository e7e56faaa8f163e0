//! Owns which media type a file name gets, and which types are worth compressing.
//! Never looks into a file: a type guessed from tenants' bytes could be steered by them.

use std::collections::HashSet;
use std::sync::Mutex;

pub const OCTET_STREAM: &str = "application/octet-stream";

/// Distinct media types that are remembered for the life of the process.
/// Our own packs use some dozens; the bound keeps foreign manifests from growing it.
const INTERNED_TYPES: usize = 1024;
const MAX_TYPE_BYTES: usize = 127;

static INTERNED: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);

/// The media type for a path, by its extension alone; text types say UTF-8.
pub fn for_path(path: &str) -> String {
    let extension = path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, end)| end);
    let extension = extension.to_ascii_lowercase();
    let essence = match extension.as_str() {
        // Registered later than, or otherwise than, the list of the crate.
        "js" | "mjs" | "cjs" => "text/javascript",
        "webmanifest" => "application/manifest+json",
        "map" => "application/json",
        "ico" => "image/x-icon",
        _ => mime_guess::from_ext(&extension).first_raw().unwrap_or(OCTET_STREAM),
    };
    if essence.starts_with("text/") { format!("{essence}; charset=utf-8") } else { essence.to_owned() }
}

/// Whether bytes of this type usually shrink; images, video, archives and woff2 are compressed already.
pub fn is_compressible(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || matches!(
            essence,
            "application/javascript"
                | "application/json"
                | "application/xml"
                | "application/wasm"
                | "application/rtf"
                | "application/x-ndjson"
                | "application/vnd.ms-fontobject"
                | "font/ttf"
                | "font/otf"
                | "image/x-icon"
                | "image/bmp"
        )
}

pub fn is_html(media_type: &str) -> bool {
    media_type.starts_with("text/html")
}

/// One copy per distinct type, so that ten thousand Workers share a few dozen texts and a response copies none.
/// `None` when the text can't be a header value or the table is full.
pub fn intern(media_type: &str) -> Option<&'static str> {
    let is_fine = !media_type.is_empty()
        && media_type.len() <= MAX_TYPE_BYTES
        && media_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !is_fine {
        return None;
    }
    let mut guard = INTERNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let table = guard.get_or_insert_with(HashSet::new);
    if let Some(known) = table.get(media_type) {
        return Some(known);
    }
    if table.len() >= INTERNED_TYPES {
        return None;
    }
    let kept: &'static str = Box::leak(media_type.to_owned().into_boxed_str());
    table.insert(kept);
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_a_web_build() {
        for (path, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("assets/index-DiwrgTda.js", "text/javascript; charset=utf-8"),
            ("a.MJS", "text/javascript; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.svg", "image/svg+xml"),
            ("a.json", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a.webmanifest", "application/manifest+json"),
            ("favicon.ico", "image/x-icon"),
            ("a.webp", "image/webp"),
            ("a.avif", "image/avif"),
            ("LICENSE", OCTET_STREAM),
            ("dir.css/file", OCTET_STREAM),
        ] {
            assert_eq!(for_path(path), expected, "{path}");
        }
    }

    #[test]
    fn interning_gives_one_copy_and_refuses_header_injection() {
        let first = intern("text/css; charset=utf-8").unwrap();
        assert!(std::ptr::eq(first, intern("text/css; charset=utf-8").unwrap()));
        assert_eq!(intern("text/css\r\nX-Evil: 1"), None);
        assert_eq!(intern(""), None);
    }
}
