//! The caches of frameworks between builds of one project: what comes back, what is left out, and that a
//! cache which breaks a build is gone.

use libra::sandbox::{CacheScope, FrameworkCaches, FrameworkOrder, Kept, Sandbox};

use crate::cache::{INSTALL, entries, fresh, keep as keep_dependencies, mine, restore, staged};
use crate::yard::{Yard, node, run};

fn order(project: &str, target: &str, directory: &str) -> FrameworkOrder {
    FrameworkOrder {
        scope: CacheScope { organization: "org".into(), project: project.into(), target: target.into() },
        directory: directory.into(),
    }
}

async fn take(sandbox: &mut dyn Sandbox, order: &FrameworkOrder) -> FrameworkCaches {
    sandbox.cache().unwrap().take_framework_caches(order).await.unwrap()
}

async fn keep(sandbox: &mut dyn Sandbox, order: &FrameworkOrder) -> FrameworkCaches {
    sandbox.cache().unwrap().keep_framework_caches(order).await.unwrap()
}

/// A build that reads what an earlier one left and leaves its own.
const BUILD: &str = r#"const fs = require("fs");
    for (const at of [".next/cache", "node_modules/.cache/x", ".astro"]) {
        fs.mkdirSync(at, { recursive: true }); const file = at + "/count";
        const count = fs.existsSync(file) ? +fs.readFileSync(file) : 0; console.log(at, count); fs.writeFileSync(file, String(count + 1)); }"#;

#[tokio::test]
async fn caches_come_back_to_the_same_target_of_the_same_project_only() {
    let yard = Yard::new();
    let own = order("project", "production", "");
    for (round, expected) in [("0", 0), ("1", 3), ("2", 3)] {
        let mut sandbox = fresh(&yard, &format!("round{round}.1")).await;
        // Over kept dependencies as in them.
        if round == "0" {
            run(&mut *sandbox, node(INSTALL)).await.must_succeed();
            assert!(matches!(keep_dependencies(&mut *sandbox, &mine()).await, Kept::Yes(_)));
        } else {
            restore(&mut *sandbox, &mine()).await;
        }
        assert_eq!(take(&mut *sandbox, &own).await.folders.len(), expected);
        let ran = run(&mut *sandbox, node(BUILD)).await;
        let said = format!(".next/cache {round}\nnode_modules/.cache/x {round}\n.astro {round}\n");
        assert_eq!(ran.must_succeed().output, said);
        let kept = keep(&mut *sandbox, &own).await;
        assert_eq!(kept.folders, [".next/cache", ".astro", "node_modules/.cache"]);
        sandbox.destroy().await.unwrap();
    }
    for other in [
        order("other", "production", ""),
        order("project", "preview", ""),
        order("project", "production", "apps/web"),
        FrameworkOrder { scope: CacheScope { organization: "x".into(), ..own.scope.clone() }, ..own.clone() },
    ] {
        let mut sandbox = fresh(&yard, "other.1").await;
        assert_eq!(take(&mut *sandbox, &other).await, FrameworkCaches::default(), "{other:?}");
        sandbox.destroy().await.unwrap();
    }
    // A build that fails keeps nothing: what it took is gone, and the next one begins clean.
    let mut failing = fresh(&yard, "fails.1").await;
    assert_eq!(take(&mut *failing, &own).await.folders.len(), 3);
    failing.destroy().await.unwrap();
    let mut clean = fresh(&yard, "clean.1").await;
    assert_eq!(take(&mut *clean, &own).await, FrameworkCaches::default());
    clean.destroy().await.unwrap();
    assert_eq!((entries(&yard).len(), staged(&yard).len()), (1, 0));
}

#[tokio::test]
async fn a_poisoned_cache_hurts_nobody() {
    let yard = Yard::new();
    let own = order("project", "production", "");
    let mut sandbox = fresh(&yard, "poison.1").await;
    let poison = r#"const fs = require("fs"), sh = require("child_process").execFileSync;
        fs.mkdirSync(".next/cache/deep", { recursive: true }); fs.writeFileSync(".next/cache/good", "good");
        fs.symlinkSync("/etc/shadow", ".next/cache/shadow"); fs.symlinkSync("/etc", ".next/cache/deep/etc");
        sh("mkfifo", [".next/cache/pipe"]); fs.linkSync("page.txt", ".next/cache/page.txt");
        fs.writeFileSync(".next/cache/suid", "a program"); fs.chmodSync(".next/cache/suid", 0o6777);
        fs.symlinkSync("/etc", ".astro"); fs.symlinkSync("/", ".angular");
        fs.writeFileSync(".parcel-cache", "a file");"#;
    run(&mut *sandbox, node(poison)).await.must_succeed();
    assert_eq!(keep(&mut *sandbox, &own).await.folders, [".next/cache"]);
    sandbox.destroy().await.unwrap();
    let mut next = fresh(&yard, "poison.2").await;
    assert_eq!(take(&mut *next, &own).await.folders, [".next/cache"]);
    let look = r#"const fs = require("fs"), at = ".next/cache"; console.log(fs.readdirSync(at).sort().join(), fs.readdirSync(at + "/deep").length,
        fs.statSync(at + "/suid").mode & 0o7000, fs.statSync(at).uid, fs.statSync(at + "/good").uid); fs.writeFileSync(at + "/good", "better"); fs.writeFileSync(at + "/new", "");"#;
    assert_eq!(run(&mut *next, node(look)).await.must_succeed().output, "deep,good,suid 0 0 1000 1000\n");
    next.destroy().await.unwrap();
}

#[tokio::test]
async fn too_large_caches_are_left_out_and_the_sources_own_folders_stay() {
    let yard = Yard::with(|settings| {
        settings.cache.framework_bytes = 1 << 20;
        settings.cache.framework_files = 50;
    });
    let own = order("project", "production", "");
    for (id, script, why) in [
        (
            "large.1",
            "fs.writeFileSync('.next/cache/x', Buffer.alloc(2 << 20, 1))",
            "larger than 1048576 bytes",
        ),
        ("sparse.1", "fs.truncateSync('.next/cache/x', 1 << 30)", "larger than 1048576 bytes"),
        (
            "many.1",
            "for (let i = 0; i < 60; i++) fs.writeFileSync('.next/cache/' + i, '')",
            "more than 50 files",
        ),
        (
            "deep.1",
            "process.chdir('.next/cache'); for (let i = 0; i < 16; i++) { fs.mkdirSync('d'.repeat(200)); process.chdir('d'.repeat(200)); }",
            "too long",
        ),
    ] {
        let mut sandbox = fresh(&yard, id).await;
        let whole = format!(
            "const fs = require('fs'); fs.mkdirSync('.next/cache', {{ recursive: true }}); fs.writeFileSync('.next/cache/x', ''); {script}"
        );
        run(&mut *sandbox, node(&whole)).await.must_succeed();
        let kept = keep(&mut *sandbox, &own).await;
        assert!(kept.refused.as_deref().unwrap_or_default().contains(why), "{id}: {kept:?}");
        sandbox.destroy().await.unwrap();
    }
    assert!(entries(&yard).is_empty() && staged(&yard).is_empty());
    let mut sandbox = fresh(&yard, "own.1").await;
    run(
        &mut *sandbox,
        node("require('fs').mkdirSync('.astro'); require('fs').writeFileSync('.astro/kept', '')"),
    )
    .await
    .must_succeed();
    assert_eq!(keep(&mut *sandbox, &own).await.folders, [".astro"]);
    sandbox.destroy().await.unwrap();
    let mut sandbox = yard.sandbox("own.2").await;
    sandbox.write_files(vec![(".astro/types.d.ts".into(), "source".into())]).await.unwrap();
    assert_eq!(take(&mut *sandbox, &own).await.folders, Vec::<String>::new());
    let ran = run(&mut *sandbox, node("console.log(require('fs').readdirSync('.astro').join())")).await;
    assert_eq!(ran.must_succeed().output, "types.d.ts\n");
    sandbox.destroy().await.unwrap();
}
