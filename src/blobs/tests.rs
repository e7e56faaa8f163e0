//! The store's promise on a folder: what is read is what was put, and what lies there cut off or changed is
//! neither given out nor taken for the blob.

use super::*;

const ORG: &str = "org";

/// A store on a folder, impatient, with parts of 1 MB.
fn store() -> (tempfile::TempDir, Blobs) {
    let home = tempfile::tempdir().unwrap();
    let defaults: toml::Table = crate::config::DEFAULTS.parse().unwrap();
    let mut table = defaults["blobs"].as_table().unwrap().clone();
    table.extend(
        "retries = 1\nretry_backoff_min_ms = 1\npart_bytes = 1_000_000".parse::<toml::Table>().unwrap(),
    );
    let blobs = Blobs::open(&table.try_into().unwrap(), &home.path().join("blobs")).unwrap();
    (home, blobs)
}

/// The file that holds a blob.
fn place(home: &tempfile::TempDir, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.as_str();
    home.path().join("blobs").join(ORG).join("sha256").join(&hex[..2]).join(hex)
}

#[tokio::test]
async fn a_blob_that_was_changed_or_cut_off_is_damaged_to_whoever_reads_it() {
    let (home, blobs) = store();
    let whole = Bytes::from_static(b"a blob of some words");
    let digest = Digest::of(&whole);
    blobs.put(ORG, &digest, whole.clone()).await.unwrap();
    let into = home.path().join("copy");
    for bad in [&b"a blob of some w0rds"[..], b"a blob", b""] {
        std::fs::write(place(&home, &digest), bad).unwrap();
        let read = blobs.get(ORG, &digest).await;
        assert!(matches!(read, Err(BlobError::Damaged { .. })), "{bad:?}: {read:?}");
        let copied = blobs.get_file(ORG, &digest, &into).await;
        assert!(matches!(copied, Err(BlobError::Damaged { .. })), "{bad:?}: {copied:?}");
    }
    std::fs::write(place(&home, &digest), &whole).unwrap();
    assert_eq!(blobs.get(ORG, &digest).await.unwrap(), whole);
    blobs.get_file(ORG, &digest, &into).await.unwrap();
    assert_eq!(std::fs::read(into).unwrap(), whole);
}

#[tokio::test]
async fn a_blob_of_another_size_is_written_over_and_one_that_is_whole_is_not() {
    let (home, blobs) = store();
    let source = home.path().join("source");
    // As one request, and in parts.
    for size in [50, 3_000_000] {
        let whole = vec![7_u8; size];
        let digest = Digest::of(&whole);
        std::fs::write(&source, &whole).unwrap();
        let at = place(&home, &digest);
        for by_file in [false, true] {
            let put = async || match by_file {
                false => blobs.put(ORG, &digest, whole.clone().into()).await.unwrap(),
                true => blobs.put_file(ORG, &digest, &source).await.unwrap(),
            };
            put().await;
            let first = std::fs::metadata(&at).unwrap();
            put().await;
            let again = std::fs::metadata(&at).unwrap();
            assert_eq!(first.modified().unwrap(), again.modified().unwrap(), "{size} {by_file}");
            std::fs::write(&at, &whole[..size / 2]).unwrap();
            put().await;
            assert!(std::fs::read(&at).unwrap() == whole, "{size} {by_file}");
        }
    }
}
