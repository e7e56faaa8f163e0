//! Kept dependencies between real sandboxes: what a hit gives, who gets it, what goes when there is no
//! room, and what a killed server leaves.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use libra::sandbox::{CacheScope, DependencyOrder, Found, Kept, Restored, Sandbox, Share};
use rustix::fs::FlockOperation;

use crate::yard::{Yard, is_root, node, run, wait_until};

pub const SOURCE: &[(&str, &str)] =
    &[("package.json", "{}"), ("page.txt", "page"), ("apps/web/package.json", "{}")];

pub fn order(organization: &str, project: &str, share: Share) -> DependencyOrder {
    DependencyOrder {
        scope: CacheScope {
            organization: organization.into(),
            project: project.into(),
            target: "production".into(),
        },
        share,
        inputs: b"lockfile".to_vec(),
        source: SOURCE.iter().map(|(path, _)| (*path).into()).collect(),
        source_may_change: false,
        lockfile_may_change: None,
    }
}

pub fn mine() -> DependencyOrder {
    order("org", "project", Share::Target)
}

/// A sandbox with the source in it.
pub async fn fresh(yard: &Yard, id: &str) -> Box<dyn Sandbox> {
    let mut sandbox = yard.sandbox(id).await;
    let files = SOURCE.iter().map(|(path, text)| ((*path).into(), Bytes::from_static(text.as_bytes())));
    sandbox.write_files(files.collect()).await.unwrap();
    sandbox
}

/// What npm leaves, and oddities that packages have.
pub const INSTALL: &str = r##"const fs = require("fs");
    const put = (path, text, mode = 0o644) => { fs.mkdirSync(require("path").dirname(path), { recursive: true }); fs.writeFileSync(path, text); fs.chmodSync(path, mode); };
    put("node_modules/a/index.js", "module.exports = 'a'");
    put("node_modules/a/cli.js", "#!/usr/bin/env node\nconsole.log('cli of a')", 0o755);
    put("node_modules/a/readonly.txt", "r", 0o444);
    put("node_modules/a/deep/er/x.txt", "x");
    fs.mkdirSync("node_modules/.bin"); fs.symlinkSync("../a/cli.js", "node_modules/.bin/a");
    fs.symlinkSync("../apps/web", "node_modules/web"); fs.symlinkSync("/etc/shadow", "node_modules/shadow");
    fs.mkdirSync("node_modules/empty");
    fs.linkSync("node_modules/a/index.js", "node_modules/same.js");
    put("apps/web/node_modules/b/index.js", "module.exports = 'b'"); put(".pnp.cjs", "// loader");"##;

/// The tree as a build sees it: kind, content and whether it can be run.
const LIST: &str = r#"const fs = require("fs"); const walk = (at) => { for (const name of fs.readdirSync(at).sort()) {
    const path = at + "/" + name, about = fs.lstatSync(path);
    if (about.isSymbolicLink()) console.log(path, "->", fs.readlinkSync(path));
    else if (about.isDirectory()) { console.log(path + "/"); walk(path); }
    else console.log(path, about.mode & 0o100 ? "x" : "-", fs.readFileSync(path, "utf8")); } }; walk(".");"#;

pub async fn keep(sandbox: &mut dyn Sandbox, order: &DependencyOrder) -> Kept {
    sandbox.cache().unwrap().keep_dependencies(order).await.unwrap()
}

pub async fn restore(sandbox: &mut dyn Sandbox, order: &DependencyOrder) -> Restored {
    sandbox.cache().unwrap().restore_dependencies(order).await.unwrap()
}

pub fn found(restored: Restored) -> Found {
    match restored {
        Restored::Hit(found) => found,
        Restored::Miss { key } => panic!("miss {key}"),
    }
}

pub fn is_hit(restored: &Restored) -> bool {
    matches!(restored, Restored::Hit(_))
}

/// Installs and keeps, in a sandbox of its own.
pub async fn prepare(yard: &Yard, id: &str, order: &DependencyOrder, script: &str) -> Kept {
    let mut sandbox = fresh(yard, id).await;
    run(&mut *sandbox, node(script)).await.must_succeed();
    let kept = keep(&mut *sandbox, order).await;
    sandbox.destroy().await.unwrap();
    kept
}

pub fn shelf(yard: &Yard) -> PathBuf {
    yard.paths.root.join("cache")
}

fn folders(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).into_iter().flatten().map(|e| e.unwrap().path()).collect()
}

pub fn entries(yard: &Yard) -> Vec<PathBuf> {
    folders(&shelf(yard).join("entries")).iter().flat_map(|organization| folders(organization)).collect()
}

pub fn staged(yard: &Yard) -> Vec<PathBuf> {
    folders(&shelf(yard).join("staging"))
}

async fn gives_the_same_tree(yard: Yard) {
    let mut first = fresh(&yard, "first.1").await;
    assert!(!is_hit(&restore(&mut *first, &mine()).await));
    run(&mut *first, node(INSTALL)).await.must_succeed();
    let installed = run(&mut *first, node(LIST)).await.must_succeed().output.clone();
    let Kept::Yes(kept) = keep(&mut *first, &mine()).await else { panic!("not kept") };
    assert!(kept.files >= 12 && kept.bytes > 0, "{kept:?}");
    // The build that made it goes on with the same tree, and writes into all of it.
    assert_eq!(run(&mut *first, node(LIST)).await.must_succeed().output, installed);
    let spoil = r#"const fs = require("fs");
        fs.writeFileSync("node_modules/a/index.js", "module.exports = 'spoilt'"); fs.appendFileSync("node_modules/a/cli.js", "// more");
        fs.rmSync("node_modules/a/deep", { recursive: true }); fs.writeFileSync("node_modules/a/new.txt", "new");
        fs.writeFileSync("node_modules/.tmp", "t"); fs.writeFileSync("apps/web/node_modules/b/index.js", "");
        fs.renameSync("node_modules/same.js", "node_modules/moved.js"); fs.rmSync(".pnp.cjs");"#;
    run(&mut *first, node(spoil)).await.must_succeed();
    // Two at once have it, on different slots; neither sees the other or the first.
    let (mut second, mut third) = (fresh(&yard, "second.1").await, fresh(&yard, "third.1").await);
    for sandbox in [&mut second, &mut third] {
        let hit = found(restore(&mut **sandbox, &mine()).await);
        assert_eq!((&hit.key, hit.files), (&kept.key, kept.files));
        assert_eq!(run(&mut **sandbox, node(LIST)).await.must_succeed().output, installed);
        run(&mut **sandbox, node(spoil)).await.must_succeed();
        let use_it = r#"const run = require("child_process").execFileSync; console.log(run("node_modules/.bin/a") + "", require("/work/node_modules/a"))"#;
        let ran = run(&mut **sandbox, node(use_it)).await;
        assert!(
            ran.must_succeed().output.contains("cli of a") && ran.output.contains("spoilt"),
            "{}",
            ran.output
        );
    }
    for sandbox in [first, second, third] {
        sandbox.destroy().await.unwrap();
    }
    assert!(folders(&yard.work()).is_empty() && staged(&yard).is_empty());
    let mut last = fresh(&yard, "last.1").await;
    assert!(is_hit(&restore(&mut *last, &mine()).await));
    assert_eq!(run(&mut *last, node(LIST)).await.must_succeed().output, installed);
    last.destroy().await.unwrap();
}

#[tokio::test]
async fn a_hit_gives_the_same_tree_and_what_is_kept_stays_as_it_was() {
    let yard = Yard::new();
    let mut sandbox = fresh(&yard, "method.1").await;
    run(&mut *sandbox, node(INSTALL)).await.must_succeed();
    let Kept::Yes(kept) = keep(&mut *sandbox, &order("o", "p", Share::Target)).await else { panic!() };
    // Debian's kernels let root and ordinary users do this.
    assert_eq!(kept.method.to_string(), "overlayfs");
    sandbox.destroy().await.unwrap();
    gives_the_same_tree(yard).await;
}

#[tokio::test]
async fn without_overlayfs_a_hit_is_a_copy_of_the_same_tree() {
    gives_the_same_tree(Yard::with(|settings| settings.cache.overlay = false)).await;
}

#[tokio::test]
async fn only_who_may_share_gets_a_hit() {
    let yard = Yard::new();
    assert!(matches!(prepare(&yard, "own.1", &mine(), INSTALL).await, Kept::Yes(_)));
    let shared = order("org", "project", Share::Organization);
    assert!(matches!(prepare(&yard, "own.2", &shared, INSTALL).await, Kept::Yes(_)));
    let mut preview = mine();
    preview.scope.target = "preview".into();
    let changed = DependencyOrder { inputs: b"another lockfile".to_vec(), ..mine() };
    let cases = [
        (mine(), true),
        (order("org", "other", Share::Target), false),
        (order("other", "project", Share::Target), false),
        (preview, false),
        (changed, false),
        (order("org", "other", Share::Organization), true),
        (order("other", "project", Share::Organization), false),
    ];
    for (at, (order, expected)) in cases.into_iter().enumerate() {
        let mut sandbox = fresh(&yard, &format!("case{at}.1")).await;
        assert_eq!(is_hit(&restore(&mut *sandbox, &order).await), expected, "{order:?}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_nothing_in_use() {
    let yard = Yard::with(|settings| {
        settings.cache.organization_bytes = 3 << 20;
        settings.cache.snapshot_bytes = 3 << 20;
        settings.cache.framework_bytes = 0;
    });
    let named = |name: &str| DependencyOrder { inputs: name.into(), ..mine() };
    let mib = r#"require("fs").mkdirSync("node_modules"); require("fs").writeFileSync("node_modules/x", Buffer.alloc(1000000, 1))"#;
    for name in ["a", "b", "c"] {
        assert!(
            matches!(prepare(&yard, &format!("{name}.1"), &named(name), mib).await, Kept::Yes(_)),
            "{name}"
        );
    }
    // `b` was not used for longest and is in use while the next one needs room, `a` is used again: `c` has
    // to go.
    let mut user = fresh(&yard, "user.1").await;
    assert!(is_hit(&restore(&mut *user, &named("b")).await));
    for name in ["c", "a"] {
        let mut again = fresh(&yard, "again.1").await;
        assert!(is_hit(&restore(&mut *again, &named(name)).await));
        again.destroy().await.unwrap();
    }
    assert!(matches!(prepare(&yard, "d.1", &named("d"), mib).await, Kept::Yes(_)));
    // Another organization has a budget of its own.
    assert!(matches!(prepare(&yard, "e.1", &order("other", "p", Share::Target), mib).await, Kept::Yes(_)));
    for (name, expected) in [("c", false), ("a", true), ("b", true), ("d", true)] {
        let mut sandbox = fresh(&yard, "look.1").await;
        assert_eq!(is_hit(&restore(&mut *sandbox, &named(name)).await), expected, "{name}");
        sandbox.destroy().await.unwrap();
    }
    let still = node("require('fs').readFileSync('node_modules/x').length === 1000000 || process.exit(1)");
    run(&mut *user, still).await.must_succeed();
    user.destroy().await.unwrap();
    // What is larger than one may be is left in the work folder, whole.
    let large = mib.replace("1000000", "4000000");
    let mut sandbox = fresh(&yard, "large.1").await;
    run(&mut *sandbox, node(&large)).await.must_succeed();
    let Kept::No(why) = keep(&mut *sandbox, &named("large")).await else { panic!("kept") };
    assert!(why.contains("larger than 3145728 bytes"), "{why}");
    let still = node("require('fs').readFileSync('node_modules/x').length === 4000000 || process.exit(1)");
    run(&mut *sandbox, still).await.must_succeed();
    sandbox.destroy().await.unwrap();
    assert!(staged(&yard).is_empty());
}

#[tokio::test]
async fn the_sweep_makes_young_snapshots_outlive_a_power_cut() {
    let yard = Yard::new();
    assert!(matches!(prepare(&yard, "young.1", &mine(), INSTALL).await, Kept::Yes(_)));
    let manifest = entries(&yard)[0].join("manifest.json");
    let synced = || std::fs::read_to_string(&manifest).unwrap().contains(r#""synced":true"#);
    assert!(!synced());
    // As after a power cut: another boot, and nobody said that its files are on the disk.
    let text = std::fs::read_to_string(&manifest).unwrap();
    let other = of_another_boot(&text);
    std::fs::write(&manifest, &other).unwrap();
    let mut sandbox = fresh(&yard, "cut.1").await;
    assert!(!is_hit(&restore(&mut *sandbox, &mine()).await));
    std::fs::write(&manifest, &text).unwrap();
    yard.provider.sweep(&|id| id == "cut.1").await.unwrap();
    assert!(synced());
    std::fs::write(&manifest, of_another_boot(&std::fs::read_to_string(&manifest).unwrap())).unwrap();
    assert!(is_hit(&restore(&mut *sandbox, &mine()).await));
    sandbox.destroy().await.unwrap();
}

/// The manifest with another boot's id.
fn of_another_boot(text: &str) -> String {
    let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(!manifest["boot"].as_str().unwrap().is_empty());
    manifest["boot"] = "00000000-0000-0000-0000-000000000000".into();
    manifest.to_string()
}

/// Set in the process that plays the server which is killed.
const VICTIM: &str = "LIBRA_TEST_CACHE_VICTIM";

/// So many names that looking at them takes a while; of few files, because making those takes far longer.
const MANY: &str = r#"const fs = require("fs"); for (let i = 0; i < 200; i++) { fs.mkdirSync("node_modules/" + i, { recursive: true });
    fs.writeFileSync(`node_modules/${i}/0.js`, ""); for (let k = 1; k < 200; k++) fs.linkSync(`node_modules/${i}/0.js`, `node_modules/${i}/${k}.js`); }"#;

/// Not a test of its own: with the variable set it is the server of the next test, killed by it.
#[tokio::test]
async fn keeping_server() {
    let Ok(folder) = std::env::var(VICTIM) else { return };
    let yard = at_folder(&folder);
    prepare(&yard, "victim.1", &mine(), MANY).await;
}

/// A yard on a folder that others use too.
fn at_folder(folder: &str) -> Yard {
    let (folder, base) = folder.rsplit_once(':').unwrap();
    let mut yard = Yard::with(|settings| {
        settings.lock_directory = format!("{folder}/locks");
        settings.slot_uid_base = base.parse().unwrap();
    });
    yard.paths.root = format!("{folder}/sandboxes").into();
    yard.provider = libra::sandbox::provider(&yard.settings, yard.paths.clone()).unwrap();
    yard
}

/// Killed even where the test fails.
struct Server(std::process::Child);

impl Server {
    fn start(place: &str, home: &Path) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cache::keeping_server"]).env(VICTIM, place).env("TMPDIR", home);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test]
async fn a_server_killed_while_it_keeps_leaves_nothing_half() {
    let home = tempfile::tempdir().unwrap();
    let place = format!("{}:{}", home.path().display(), 400_000 + std::process::id());
    let yard = at_folder(&place);
    let moved = || staged(&yard).iter().any(|at| at.join("tree/node_modules").exists());
    let (server, lock) = loop {
        let mut server = Server::start(&place, home.path());
        while !moved() && server.0.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It can't put them on the shelf while somebody else has the shelf's lock.
        let lock = std::fs::File::options().write(true).open(shelf(&yard).join("lock")).unwrap();
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
        if moved() && entries(&yard).is_empty() {
            break (server, lock);
        }
        // It was through before anybody looked: the next one then.
        std::fs::remove_dir_all(shelf(&yard).join("entries/org")).unwrap();
    };
    let written = || staged(&yard).iter().any(|at| at.join("manifest.json").exists());
    wait_until("it wrote the manifest", written).await;
    drop(server);
    drop(lock);
    assert_eq!((entries(&yard).len(), staged(&yard).len()), (0, 1));
    // Its work folder and its half-kept snapshot.
    assert_eq!(yard.provider.sweep(&|_| false).await.unwrap().folders, 2);
    assert!(staged(&yard).is_empty());
    let mut sandbox = fresh(&yard, "after.1").await;
    assert!(!is_hit(&restore(&mut *sandbox, &mine()).await));
    run(&mut *sandbox, node(MANY)).await.must_succeed();
    assert!(matches!(keep(&mut *sandbox, &mine()).await, Kept::Yes(_)));
    sandbox.destroy().await.unwrap();
    // What the shelf holds can't be reached by another user's processes.
    let about = std::fs::metadata(shelf(&yard)).unwrap();
    assert_eq!((about.mode() & 0o777, about.uid() == 0), (0o700, is_root()));
}
