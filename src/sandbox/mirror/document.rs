//! Rewrites package documents: tarball addresses lead to the mirror, and where they led before is kept
//! beside. Pure: takes bytes, gives bytes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::MirrorError;
use crate::sandbox::shim::REGISTRY_PORT;

/// Where a tarball really lies, and what it must hash to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Origin {
    pub url: String,
    /// Subresource integrity, `sha512-<base64>`, where the registry gives it.
    pub integrity: Option<String>,
}

pub(super) type Origins = BTreeMap<String, Origin>;

/// The document to serve, and the origins of its tarballs by file name.
pub(super) fn rewrite(body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), MirrorError> {
    let mut document: Value = serde_json::from_slice(body).map_err(MirrorError::Document)?;
    let name = document.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut origins = Origins::new();
    let versions = document.get_mut("versions").and_then(Value::as_object_mut);
    for dist in versions.into_iter().flatten().filter_map(|(_, version)| version.get_mut("dist")) {
        let Some(url) = dist.get("tarball").and_then(Value::as_str).map(str::to_owned) else { continue };
        let Some(file) = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()) else {
            continue;
        };
        let integrity = dist.get("integrity").and_then(Value::as_str).map(str::to_owned);
        let mirrored = format!("http://127.0.0.1:{REGISTRY_PORT}/{name}/-/{file}");
        origins.insert(file.to_owned(), Origin { url: url.clone(), integrity });
        dist["tarball"] = Value::String(mirrored);
    }
    let text = |value: serde_json::Result<Vec<u8>>| value.map_err(MirrorError::Document);
    Ok((text(serde_json::to_vec(&document))?, text(serde_json::to_vec(&origins))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tarballs_lead_to_the_mirror_and_their_origin_is_kept() {
        let body = br#"{"name":"@a/b","versions":{"1.0.0":{"dist":{"tarball":"https://h.test/x/b-1.0.0.tgz?t=1","integrity":"sha512-x"}}}}"#;
        let (served, origins) = rewrite(body).unwrap();
        let served: Value = serde_json::from_slice(&served).unwrap();
        assert_eq!(
            served["versions"]["1.0.0"]["dist"]["tarball"],
            "http://127.0.0.1:4873/@a/b/-/b-1.0.0.tgz"
        );
        let origins: Origins = serde_json::from_slice(&origins).unwrap();
        assert_eq!(origins["b-1.0.0.tgz"].url, "https://h.test/x/b-1.0.0.tgz?t=1");
        assert_eq!(origins["b-1.0.0.tgz"].integrity.as_deref(), Some("sha512-x"));
        assert!(rewrite(b"<html>").is_err());
    }
}
