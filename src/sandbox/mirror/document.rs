//! Rewrites package documents: tarball addresses lead to the mirror, and where they led before is kept
//! beside. Pure: takes bytes, gives bytes.
//!
//! Anybody may publish a document, so it is copied entry by entry and never becomes a tree of values,
//! which can be thirty times as large as its text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::MirrorError;
use crate::sandbox::shim::REGISTRY_PORT;

/// Where a tarball really lies, and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Origin {
    pub url: String,
    /// Subresource integrity, `sha512-<base64>`, where the registry gives it.
    pub integrity: Option<String>,
    /// SHA-1 in hex digits, which is all that old packages have.
    pub shasum: Option<String>,
}

pub(super) type Origins = BTreeMap<String, Origin>;

/// What an origin takes in memory beside its words.
const ORIGIN_BYTES: usize = 200;
/// Short versions with long names would blow up; no real document comes near it.
const SLACK_BYTES: usize = 256 * 1024;

/// Memory that rewriting a document of this size takes: itself, and its result beside the origins.
pub(super) const MEMORY_FACTOR: u64 = 3;

/// The document of `name` to serve, and the origins of its tarballs by file name.
pub(super) fn rewrite(name: &str, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), MirrorError> {
    let mut rewriter = Rewriter {
        name,
        served: Vec::with_capacity(body.len()),
        origins: Origins::new(),
        origin_bytes: 0,
        limit_bytes: body.len() * 2 + SLACK_BYTES,
    };
    let text = std::str::from_utf8(body).map_err(|e| MirrorError::Document(Error::custom(e)))?;
    rewriter.object(text, Level::Document).map_err(MirrorError::Document)?;
    let origins = serde_json::to_vec(&rewriter.origins).map_err(MirrorError::Document)?;
    Ok((rewriter.served, origins))
}

struct Rewriter<'n> {
    name: &'n str,
    served: Vec<u8>,
    origins: Origins,
    origin_bytes: usize,
    limit_bytes: usize,
}

#[derive(Clone, Copy)]
enum Level {
    Document,
    Versions,
    Version,
    Dist,
}

impl Rewriter<'_> {
    fn object(&mut self, text: &str, level: Level) -> serde_json::Result<()> {
        let mut found = Dist::default();
        let mut first = true;
        self.served.push(b'{');
        let mut each = |key: String, value: &RawValue| {
            if !std::mem::take(&mut first) {
                self.served.push(b',');
            }
            serde_json::to_writer(&mut self.served, &key)?;
            self.served.push(b':');
            self.value(&key, value, level, &mut found)
        };
        let mut parser = serde_json::Deserializer::from_str(text);
        parser.deserialize_map(Entries(&mut each))?;
        parser.end()?;
        self.served.push(b'}');
        if let (Level::Dist, Some((file, url))) = (level, found.tarball) {
            let words = [Some(&file), Some(&url), found.integrity.as_ref(), found.shasum.as_ref()];
            self.origin_bytes += ORIGIN_BYTES + words.into_iter().flatten().map(String::len).sum::<usize>();
            self.origins.insert(file, Origin { url, integrity: found.integrity, shasum: found.shasum });
        }
        if self.served.len() + self.origin_bytes > self.limit_bytes {
            return Err(Error::custom("its tarball addresses are out of proportion"));
        }
        Ok(())
    }

    fn value(&mut self, key: &str, value: &RawValue, at: Level, dist: &mut Dist) -> serde_json::Result<()> {
        let text = value.get();
        let next = match (at, key) {
            (Level::Document, "versions") => Some(Level::Versions),
            (Level::Versions, _) => Some(Level::Version),
            (Level::Version, "dist") => Some(Level::Dist),
            _ => None,
        };
        if let Some(next) = next.filter(|_| text.starts_with('{')) {
            return self.object(text, next);
        }
        if let (Level::Dist, Ok(word)) = (at, serde_json::from_str::<String>(text)) {
            match key {
                "integrity" => dist.integrity = Some(word),
                "shasum" => dist.shasum = Some(word),
                "tarball" => {
                    let path = word.split(['?', '#']).next().unwrap_or_default();
                    let file = path.rsplit('/').next().unwrap_or_default().to_owned();
                    let mirrored = format!("http://127.0.0.1:{REGISTRY_PORT}/{}/-/{file}", self.name);
                    dist.tarball = Some((file, word));
                    return serde_json::to_writer(&mut self.served, &mirrored);
                }
                _ => {}
            }
        }
        self.served.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[derive(Default)]
struct Dist {
    /// File name and address.
    tarball: Option<(String, String)>,
    integrity: Option<String>,
    shasum: Option<String>,
}

/// Hands on an object's entries one at a time.
struct Entries<'e>(&'e mut dyn FnMut(String, &RawValue) -> serde_json::Result<()>);

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            (self.0)(key, map.next_value::<&RawValue>()?).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn tarballs_lead_to_the_mirror_and_their_origin_is_kept() {
        let body = br#"{"name":"@a/b", "versions":{"1.0.0":{"dist":{"tarball":"https://h.test/x/b-1.0.0.tgz?t=1","integrity":"sha512-x", "shasum":"ab"},"bin":{"x":[1, "\u00e9"]}},"odd":7},"time":{"dist":{"tarball":"kept"}}}"#;
        let (served, origins) = rewrite("@a/b", body).unwrap();
        let served: Value = serde_json::from_slice(&served).unwrap();
        let mut expected: Value = serde_json::from_slice(body).unwrap();
        expected["versions"]["1.0.0"]["dist"]["tarball"] = "http://127.0.0.1:4873/@a/b/-/b-1.0.0.tgz".into();
        assert_eq!(served, expected);
        let origins: Origins = serde_json::from_slice(&origins).unwrap();
        assert_eq!(origins.len(), 1);
        assert_eq!(origins["b-1.0.0.tgz"].url, "https://h.test/x/b-1.0.0.tgz?t=1");
        assert_eq!(origins["b-1.0.0.tgz"].integrity.as_deref(), Some("sha512-x"));
        assert_eq!(origins["b-1.0.0.tgz"].shasum.as_deref(), Some("ab"));
        for bad in
            [&b"<html>"[..], b"[]", b"{\"a\":1", b"{\"versions\":{\"1\":{\"dist\":{\"a\":}}}}", b"{} x"]
        {
            assert!(rewrite("@a/b", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_document_that_would_blow_up_is_refused() {
        let versions: Vec<String> =
            (0..40_000).map(|n| format!(r#""{n}":{{"dist":{{"tarball":"{n}"}}}}"#)).collect();
        let body = format!(r#"{{"versions":{{{}}}}}"#, versions.join(","));
        assert!(rewrite(&"n".repeat(200), body.as_bytes()).is_err());
    }
}
