//! Owns the headers that describe a file: type, encoding, tag, how long it may be kept.
//! Never reads a body, and never lets a file be kept for ever unless its name changes with its content.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};

use crate::runtime::{Encoding, File, media_type};

pub fn write(headers: &mut HeaderMap, file: File<'_>, encoding: Encoding) {
    // Checked when it was interned, so this can't panic.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.media_type()));
    match encoding {
        Encoding::Identity => {
            headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        Encoding::Brotli | Encoding::Zstd | Encoding::Gzip => {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        }
    }
}

/// What a 304 carries too.
pub fn write_validators(headers: &mut HeaderMap, file: File<'_>, etag: Bytes) {
    if let Ok(etag) = HeaderValue::from_maybe_shared(etag) {
        headers.insert(header::ETAG, etag);
    }
    if let Ok(time) = HeaderValue::from_maybe_shared(file.version().last_modified().clone()) {
        headers.insert(header::LAST_MODIFIED, time);
    }
    headers.insert(header::CACHE_CONTROL, cache_control(file));
}

pub fn write_vary(headers: &mut HeaderMap, file: File<'_>) {
    if file.has_compressed() {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
}

/// What must be asked for again each time, which a matching tag makes cheap.
pub fn revalidate() -> HeaderValue {
    HeaderValue::from_static("public, max-age=0, must-revalidate")
}

/// Whether its name changes with its content, and nobody comes by that name on his own.
pub fn is_immutable(file: File<'_>) -> bool {
    file.is_named_by_content() && !media_type::is_html(file.media_type())
}

fn cache_control(file: File<'_>) -> HeaderValue {
    if is_immutable(file) {
        HeaderValue::from_static("public, max-age=31536000, immutable")
    } else {
        revalidate()
    }
}
