//! What the disk store and the memory cache promise, tried on a real disk.

use std::sync::Arc;

use bytes::Bytes;

use crate::runtime::test_site::{install, pack, settings};
use crate::runtime::{
    BodyCache, Encoding, Manifest, PackSource, ReadError, Settings, SiteVersion, StoreError, VersionId,
    VersionStore,
};

const ID: &str = "0123456789abcdef";

fn noise(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|at| ((at as u64 * 2_654_435_761) >> 7) as u8 ^ seed).collect()
}

async fn read(cache: &Arc<BodyCache>, version: &Arc<SiteVersion>, path: &str) -> Bytes {
    let file = version.file(path).unwrap();
    let extent = file.extent(Encoding::Identity).unwrap();
    if let Some(body) = cache.get(file, Encoding::Identity) {
        return body.bytes;
    }
    cache.read(version, file, Encoding::Identity, extent).await.unwrap().bytes
}

#[tokio::test]
async fn an_installed_version_is_opened_verified_listed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let version = install(folder.path(), ID, "blog", &[("index.html", b"hello"), ("a/b.txt", b"")]).await;
    let store = VersionStore::open_folder(folder.path()).unwrap();
    let id = VersionId::parse(ID).unwrap();
    assert_eq!(version.file_count(), 2);
    assert_eq!(version.file("index.html").unwrap().media_type(), "text/html; charset=utf-8");
    assert!(version.file("index.htm").is_none());
    store.verify(&id).unwrap();
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&id));
    assert_eq!(store.list_older_than(std::time::Duration::ZERO).unwrap(), std::slice::from_ref(&id));
    assert!(store.list_older_than(std::time::Duration::from_secs(3_600)).unwrap().is_empty());
    let (first, second) = (store.open(&id, "blog", 1).unwrap(), store.open(&id, "blog", 1).unwrap());
    assert!(Arc::ptr_eq(&first, &second), "one load per version and Worker");
    store.remove(&id).unwrap();
    store.remove(&id).unwrap();
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(std::fs::read_dir(folder.path().join("versions")).unwrap().count(), 0);
    drop((first, second));
    assert!(matches!(store.open(&id, "blog", 1), Err(StoreError::Missing { .. })));
}

#[tokio::test]
async fn a_pack_that_is_not_the_manifests_leaves_nothing_behind() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(out.path(), &[("index.html", b"hello")]);
    let store = VersionStore::open_folder(folder.path()).unwrap();
    let id = VersionId::parse(ID).unwrap();
    for wrong in [&b"hellp"[..], b"hell", b"hello!", b""] {
        let reader = PackSource::Reader(Box::new(wrong));
        let result = store.install(&id, packed.manifest_bytes.clone(), reader).await;
        assert!(matches!(result, Err(StoreError::Corrupt { .. })), "{wrong:?}: {result:?}");
        assert_eq!(std::fs::read_dir(folder.path().join("versions")).unwrap().count(), 0);
    }
    let reader = PackSource::Reader(Box::new(&b"hello"[..]));
    store.install(&id, packed.manifest_bytes, reader).await.unwrap();
    store.verify(&id).unwrap();
    std::fs::write(folder.path().join("versions").join(ID).join("pack"), "hellp").unwrap();
    assert!(matches!(store.verify(&id), Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn two_processes_may_install_the_same_version_at_once() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let packed = pack(out.path(), &[("data.bin", &noise(300_000, 1))]);
    let id = VersionId::parse(ID).unwrap();
    let stores: Vec<_> = (0..8).map(|_| VersionStore::open_folder(folder.path()).unwrap()).collect();
    let installs = stores.iter().map(|store| {
        store.install(&id, packed.manifest_bytes.clone(), PackSource::Path(packed.pack_path.clone()))
    });
    futures_util::future::try_join_all(installs).await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("versions")).unwrap().count(), 1);
    stores[0].verify(&id).unwrap();
    for other in [noise(300_000, 2), noise(9, 2)] {
        let other = pack(out.path(), &[("data.bin", &other)]);
        let result = stores[0].install(&id, other.manifest_bytes, PackSource::Path(other.pack_path)).await;
        assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
    }
}

#[test]
fn ids_are_safe_folder_names() {
    for bad in
        ["", "..", "short", "../../etc/passwd", "0123456789ABCDEF", "0123456789abcdeg", &"a".repeat(65)]
    {
        assert!(VersionId::parse(bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_site_larger_than_the_cache_serves_the_right_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bodies: Vec<(String, Vec<u8>)> =
        (0..40).map(|at| (format!("f{at:02}.bin"), noise(50_000 + at, at as u8))).collect();
    let files: Vec<_> = bodies.iter().map(|(path, body)| (path.as_str(), body.as_slice())).collect();
    let version = install(folder.path(), ID, "blog", &files).await;
    let cache = Arc::new(BodyCache::new(&Settings { cache_bytes: 400_000, ..settings() }));
    for _round in 0..3 {
        let reads = files.iter().map(|(path, body)| {
            let (cache, version) = (cache.clone(), version.clone());
            async move { assert_eq!(read(&cache, &version, path).await, *body, "{path}") }
        });
        futures_util::future::join_all(reads).await;
    }
    assert!(cache.held_bytes() <= 400_000, "{}", cache.held_bytes());
    assert!(cache.held_bytes_of("blog") <= 400_000, "{}", cache.held_bytes_of("blog"));
}

#[tokio::test]
async fn a_worker_over_its_share_gives_up_its_own_bodies_only() {
    let folder = tempfile::tempdir().unwrap();
    let bodies: Vec<_> = (0..30).map(|at| (format!("f{at:02}"), noise(20_000, at))).collect();
    let files: Vec<_> = bodies.iter().map(|(path, body)| (path.as_str(), body.as_slice())).collect();
    let greedy = install(folder.path(), ID, "greedy", &files).await;
    let modest = install(folder.path(), "fedcba9876543210", "modest", &files[..2]).await;
    let cache = Arc::new(BodyCache::new(&Settings { cache_worker_bytes: 100_000, ..settings() }));
    read(&cache, &modest, "f00").await;
    for (path, body) in &files {
        assert_eq!(read(&cache, &greedy, path).await, *body);
        assert!(cache.held_bytes_of("greedy") <= 100_000, "{}", cache.held_bytes_of("greedy"));
    }
    assert!(cache.held_bytes_of("greedy") > 60_000);
    assert!(cache.held_bytes() <= 100_000 + 20_512);
    let kept = modest.file("f00").unwrap();
    assert!(cache.get(kept, Encoding::Identity).is_some(), "another Worker's body was taken");
    // The newest of the greedy Worker is there, the oldest is gone.
    assert!(cache.get(greedy.file("f29").unwrap(), Encoding::Identity).is_some());
    assert!(cache.get(greedy.file("f00").unwrap(), Encoding::Identity).is_none());
}

#[tokio::test]
async fn a_body_too_large_for_memory_is_streamed_whole_and_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let body = noise(300_000, 9);
    let version = install(folder.path(), ID, "blog", &[("a.txt", b"first"), ("big.bin", &body)]).await;
    let cache = Arc::new(BodyCache::new(&Settings { cache_object_bytes: 100_000, ..settings() }));
    let extent = version.file("big.bin").unwrap().extent(Encoding::Identity).unwrap();
    assert!(!cache.holds(extent));
    let whole = cache.part(&version, extent).await.unwrap();
    assert_eq!(cache.read_piece(whole).await.unwrap(), body);
    let part = crate::runtime::site::Extent { offset: extent.offset + 7, size: 100_001 };
    let opened = cache.part(&version, part).await.unwrap();
    // What was opened is read to its end, whatever happens to the version meanwhile.
    let store = VersionStore::open_folder(folder.path()).unwrap();
    store.remove(&VersionId::parse(ID).unwrap()).unwrap();
    assert_eq!(cache.read_piece(opened).await.unwrap(), body[7..100_008]);
    assert_eq!(cache.held_bytes(), 0);
    let other = Arc::new(BodyCache::new(&settings()));
    let gone = other.part(&version, part).await.err();
    assert!(matches!(gone, Some(ReadError::Disk { .. })), "{gone:?}");
}

#[tokio::test]
async fn the_rest_of_a_body_waits_for_the_disk_no_longer_than_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let version = install(folder.path(), ID, "blog", &[("big.bin", &noise(300_000, 9))]).await;
    let few = Settings { cache_object_bytes: 100_000, disk_reads: 1, disk_wait_ms: 50, ..settings() };
    let cache = Arc::new(BodyCache::new(&few));
    let extent = version.file("big.bin").unwrap().extent(Encoding::Identity).unwrap();
    let (one, other) =
        (cache.part(&version, extent).await.unwrap(), cache.part(&version, extent).await.unwrap());
    let busy = cache.turns_taken(1).await;
    assert_eq!(cache.read_piece(one).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    drop(busy);
    assert_eq!(cache.read_piece(other).await.unwrap().len(), 300_000);
}

#[tokio::test]
async fn a_twenty_file_worker_takes_a_few_kilobytes() {
    let folder = tempfile::tempdir().unwrap();
    let text = "some text that repeats. ".repeat(100);
    let names: Vec<_> = (0..20).map(|at| format!("assets/component-{at:02}-DiwrgTda.js")).collect();
    let files: Vec<_> = names.iter().map(|name| (name.as_str(), text.as_bytes())).collect();
    let version = install(folder.path(), ID, "blog", &files).await;
    println!("a 20-file version takes {} bytes", version.memory_bytes());
    assert!(version.memory_bytes() < 3_000, "{}", version.memory_bytes());
    let manifest = std::fs::read(folder.path().join("versions").join(ID).join("manifest.json")).unwrap();
    assert_eq!(Manifest::parse(&manifest).unwrap().files.len(), 20);
}

#[tokio::test]
async fn rules_are_reported_when_packed_and_there_when_opened() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[
        ("_headers", b"/*\n  X-A: b\n  Date: now"),
        ("_redirects", b"/a /b\n/c ftp://d"),
        ("index.html", b"hello"),
        ("sub/_redirects", b"/not read"),
    ];
    let report: Vec<String> = pack(out.path(), files).rules_report.lines().collect();
    assert_eq!(
        report,
        [
            "line 2 of _redirects is left out: the target must begin with '/', https:// or http://",
            "line 3 of _headers is left out: the header date belongs to the platform",
        ]
    );
    let version = install(folder.path(), ID, "blog", files).await;
    let rules = version.rules().unwrap();
    assert!(rules.has_headers() && rules.redirect("/a", None).is_some());
    assert!(version.file("_redirects").is_none() && version.file("sub/_redirects").is_some());
    let plain = install(folder.path(), "fedcba9876543210", "blog", &files[2..]).await;
    assert!(plain.rules().is_none());
    let shorter = files.iter().take(2).map(|(path, _)| path.len() + size_of::<[u64; 8]>()).sum::<usize>();
    assert!(version.memory_bytes() >= plain.memory_bytes() + shorter + rules.memory_bytes());
}
