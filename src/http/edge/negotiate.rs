//! Owns which stored copy of a file a client gets, by its `Accept-Encoding` (RFC 9110 §12.5.3).
//! Never compresses anything: it chooses among copies that exist.

use http::header::{self, HeaderMap};

use crate::runtime::{Encoding, File};

/// Codings in the order in which we prefer them where the client does not care: smallest first.
const PREFERENCE: [Encoding; 4] = [Encoding::Brotli, Encoding::Zstd, Encoding::Gzip, Encoding::Identity];

/// The wish for each coding in thousandths, by [`Encoding`]; `None` where it was not named.
type Wishes = [Option<u16>; 4];

/// The copy to send. A client that refuses everything we have gets the file as it is, which RFC 9110 allows.
pub fn choose(headers: &HeaderMap, file: File<'_>) -> Encoding {
    if !file.has_compressed() || !headers.contains_key(header::ACCEPT_ENCODING) {
        return Encoding::Identity;
    }
    let (wishes, others) = read(headers);
    let mut best = (Encoding::Identity, 0);
    for encoding in PREFERENCE.into_iter().filter(|encoding| file.has(*encoding)) {
        let unnamed = match encoding {
            // Always acceptable unless refused, but any coding that was asked for comes first.
            Encoding::Identity if others.is_none() => 1,
            _ => others.unwrap_or(0),
        };
        let wish = wishes[encoding as usize].unwrap_or(unnamed);
        if wish > best.1 {
            best = (encoding, wish);
        }
    }
    best.0
}

/// The wishes of all `Accept-Encoding` lines, and the wish for `*`.
fn read(headers: &HeaderMap) -> (Wishes, Option<u16>) {
    let (mut wishes, mut others): (Wishes, _) = ([None; 4], None);
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    for item in lines.flat_map(|line| line.split(',')) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let name = name.trim();
        let Some(wish) = weight(parameters.trim()) else { continue };
        if name == "*" {
            others = Some(wish);
        } else if let Some(encoding) = named(name) {
            wishes[encoding as usize] = Some(wish);
        }
    }
    (wishes, others)
}

fn named(name: &str) -> Option<Encoding> {
    let known = Encoding::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name));
    known.or_else(|| name.eq_ignore_ascii_case("x-gzip").then_some(Encoding::Gzip))
}

/// `q=0.5` as 500; no parameter is 1000; anything malformed is `None`, and its item is skipped.
fn weight(parameters: &str) -> Option<u16> {
    if parameters.is_empty() {
        return Some(1000);
    }
    let value = parameters.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim();
    let (whole, rest) = value.split_once('.').unwrap_or((value, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths =
        rest.bytes().chain(*b"000").take(3).fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    match (whole, thousandths) {
        ("0", part) => Some(part),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::SiteVersion;
    use crate::runtime::manifest::{Manifest, ManifestBody, ManifestFile};
    use http::header::HeaderValue;
    use proptest::prelude::*;

    fn site() -> SiteVersion {
        let bodies = Encoding::ALL.into_iter().enumerate();
        let bodies = bodies.map(|(at, encoding)| ManifestBody { encoding, offset: at as u64 * 10, size: 10 });
        let file = ManifestFile {
            path: "a".to_owned(),
            digest: "00".repeat(32),
            size: 10,
            media_type: "text/plain".to_owned(),
            bodies: bodies.collect(),
        };
        let manifest =
            Manifest { version: 1, files: vec![file], pack_digest: "00".repeat(32), pack_size: 40 };
        SiteVersion::new("v", "w".into(), "/nowhere".into(), 0, &manifest).unwrap()
    }

    fn chosen(accepted: &str) -> Encoding {
        let site = site();
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(accepted).unwrap());
        choose(&headers, site.file("a").unwrap())
    }

    #[test]
    fn quality_decides_and_then_our_preference() {
        for (accepted, expected) in [
            ("gzip, deflate, br, zstd", Encoding::Brotli),
            ("gzip, deflate", Encoding::Gzip),
            ("zstd;q=1.0, br;q=0.9", Encoding::Zstd),
            ("BR", Encoding::Brotli),
            ("*", Encoding::Brotli),
            ("*;q=0.5, gzip;q=0.8", Encoding::Gzip),
            ("br;q=0, *", Encoding::Zstd),
            ("identity;q=1, br;q=0.5", Encoding::Identity),
            ("br;q=0.001", Encoding::Brotli),
            ("deflate", Encoding::Identity),
            ("", Encoding::Identity),
            ("br;q=0, gzip;q=0", Encoding::Identity),
            ("identity;q=0, *;q=0", Encoding::Identity),
            ("gzip ; q = 0.2, br;q=0.1", Encoding::Gzip),
            ("br;q=2, gzip", Encoding::Gzip),
            ("br;q=, gzip", Encoding::Gzip),
            ("x-gzip", Encoding::Gzip),
        ] {
            assert_eq!(chosen(accepted), expected, "{accepted:?}");
        }
    }

    proptest! {
        #[test]
        fn a_refused_coding_is_never_sent(accepted in "((br|gzip|zstd|identity|\\*)(;q=[01](\\.[0-9]{0,3})?)?,? ?){0,5}") {
            let sent = chosen(&format!("{accepted},br;q=0"));
            prop_assert_ne!(sent, Encoding::Brotli);
        }
    }
}
