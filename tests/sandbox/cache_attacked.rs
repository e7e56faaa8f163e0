//! Installs and builds that attack what is kept: of their own project, of others, and of the host.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use libra::sandbox::{DependencyOrder, Kept};

use crate::cache::{INSTALL, SOURCE, entries, fresh, is_hit, keep, mine, prepare, restore, shelf, staged};
use crate::yard::{Yard, is_root, node, run};

/// Kind, mode, owner and content of everything beneath.
fn fingerprint(folder: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let about = std::fs::symlink_metadata(&path).unwrap();
            let content = about.is_file().then(|| std::fs::read(&path).unwrap());
            lines.push(format!("{} {:o} {} {content:?}", path.display(), about.mode(), about.uid()));
            if about.is_dir() {
                waiting.push(path);
            }
        }
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn what_no_package_needs_is_refused_or_taken_away() {
    let yard = Yard::new();
    let script = |more: &str| format!("{INSTALL} const sh = require('child_process').execFileSync; {more}");
    for (at, (more, why)) in [
        (r#"sh("mkfifo", ["node_modules/pipe"])"#, "`node_modules/pipe` is a fifo"),
        (
            r#"require("net").createServer().listen("/work/node_modules/socket", () => process.kill(process.pid, "SIGKILL"))"#,
            "`node_modules/socket` is a socket",
        ),
        // overlayfs takes such a device for «this was removed».
        (
            r#"try { sh("mknod", ["node_modules/a/gone", "c", "0", "0"], { stdio: "ignore" }) } catch { sh("mkfifo", ["node_modules/a/gone"]) }"#,
            "`node_modules/a/gone` is a ",
        ),
        (r#"fs.writeFileSync("page.txt", "changed")"#, "the install changed `page.txt`"),
        (r#"fs.rmSync("page.txt")"#, "the install removed files"),
        (r#"fs.linkSync("page.txt", "node_modules/page.txt")"#, "the install changed `page.txt`"),
        (r#"fs.rmSync("apps", { recursive: true }); fs.symlinkSync("/etc", "apps")"#, "the install changed `apps`"),
        (r#"for (let i = 0; i < 1500; i++) fs.writeFileSync("f" + i, "")"#, "more than 1000 things"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut sandbox = fresh(&yard, &format!("odd{at}.1")).await;
        run(&mut *sandbox, node(&script(more))).await;
        let before = run(&mut *sandbox, node("console.log(require('fs').readdirSync('node_modules').join())")).await;
        match keep(&mut *sandbox, &mine()).await {
            Kept::No(said) => assert!(said.contains(why), "{more}: {said}"),
            Kept::Yes(found) => panic!("{more}: {found:?}"),
        }
        // The build goes on with what its install made.
        let after = run(&mut *sandbox, node("console.log(require('fs').readdirSync('node_modules').join())")).await;
        assert_eq!(before.output, after.output, "{more}");
        sandbox.destroy().await.unwrap();
    }
    assert!(entries(&yard).is_empty() && staged(&yard).is_empty());
    let setuid = r#"fs.chmodSync("node_modules/a/cli.js", 0o6755); fs.chmodSync("node_modules/a", 0o2777);"#;
    assert!(matches!(prepare(&yard, "setuid.1", &mine(), &script(setuid)).await, Kept::Yes(_)));
    let tree = entries(&yard)[0].join("tree");
    for path in ["node_modules/a/cli.js", "node_modules/a"] {
        assert_eq!(std::fs::metadata(tree.join(path)).unwrap().mode() & 0o7000, 0, "{path}");
    }
    assert!(!tree.join("node_modules/shadow").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(std::fs::read_link(tree.join("node_modules/shadow")).unwrap(), Path::new("/etc/shadow"));
}

#[tokio::test]
async fn a_name_outside_leads_to_no_file_that_is_kept() {
    let yard = Yard::new();
    // The caller repeats the project's own scripts, so the source may change; then a file of the source and
    // one of a package may be the same.
    let order = DependencyOrder { source_may_change: true, ..mine() };
    let mut sandbox = fresh(&yard, "links.1").await;
    let link = format!("{INSTALL} fs.linkSync('page.txt', 'node_modules/a/page.txt');");
    run(&mut *sandbox, node(&link)).await.must_succeed();
    assert!(matches!(keep(&mut *sandbox, &order).await, Kept::Yes(_)));
    run(&mut *sandbox, node("require('fs').writeFileSync('page.txt', 'poisoned')")).await.must_succeed();
    sandbox.destroy().await.unwrap();
    let mut next = fresh(&yard, "links.2").await;
    assert!(is_hit(&restore(&mut *next, &order).await));
    let ran =
        run(&mut *next, node("console.log(require('fs').readFileSync('node_modules/a/page.txt', 'utf8'))"))
            .await;
    assert_eq!(ran.must_succeed().output, "page\n");
    next.destroy().await.unwrap();
}

#[tokio::test]
async fn an_install_that_makes_the_lockfile_fit_may_change_that_file_alone() {
    let yard = Yard::new();
    let order = DependencyOrder { lockfile_may_change: Some("page.txt".into()), ..mine() };
    for (id, change, kept) in [
        ("fit.1", "fs.appendFileSync('page.txt', ' ')", true),
        ("fit.2", "fs.appendFileSync('package.json', ' ')", false),
        ("fit.3", "fs.appendFileSync('page.txt', ' '); fs.appendFileSync('package.json', ' ')", false),
        // Whatever it is called, it must be a file still.
        ("fit.4", "fs.rmSync('page.txt'); fs.symlinkSync('package.json', 'page.txt')", false),
        ("fit.5", "fs.rmSync('page.txt'); fs.mkdirSync('page.txt')", false),
        ("fit.6", "fs.rmSync('page.txt')", false),
    ] {
        let mut sandbox = fresh(&yard, id).await;
        run(&mut *sandbox, node(&format!("{INSTALL} {change};"))).await.must_succeed();
        // In a project of its own, so that none finds what another one kept.
        let mut order = order.clone();
        order.scope.project = id.replace('.', "-");
        let answer = keep(&mut *sandbox, &order).await;
        assert_eq!(matches!(answer, Kept::Yes(_)), kept, "{change}: {answer:?}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn an_install_reaches_neither_cache_nor_mirror_nor_other_slots() {
    let yard = Yard::new();
    assert!(matches!(prepare(&yard, "prey.1", &mine(), INSTALL).await, Kept::Yes(_)));
    let mut prey = fresh(&yard, "prey.2").await;
    assert!(is_hit(&restore(&mut *prey, &mine()).await));
    let before = fingerprint(&shelf(&yard).join("entries"));
    // Also from above a snapshot, whose mount is the nearest thing to the cache that a build has.
    let places =
        [yard.home().to_path_buf(), yard.paths.root.clone(), shelf(&yard), yard.paths.mirror.clone()];
    let script = format!(
        r#"const fs = require("fs"), places = {places:?}, wrote = [];
        const attempt = (path) => {{ try {{ fs.writeFileSync(path, "evil"); wrote.push(path); }} catch {{ }} }};
        for (const place of places) for (const path of [place, "/proc/1/root" + place, "/proc/self/root" + place, "/srv/tree" + place]) {{
            if (fs.existsSync(path)) wrote.push("sees " + path); attempt(path + "/evil"); }}
        for (const pid of fs.readdirSync("/proc").filter((n) => +n)) {{
            for (const at of ["cwd", "root"]) attempt(`/proc/${{pid}}/${{at}}/../evil`);
            let fds = []; try {{ fds = fs.readdirSync(`/proc/${{pid}}/fd`); }} catch {{ }}
            for (const fd of fds) {{ let to = ""; try {{ to = fs.readlinkSync(`/proc/${{pid}}/fd/${{fd}}`); }} catch {{ }}
                if (places.some((place) => to.startsWith(place))) wrote.push("holds " + to); attempt(`/proc/${{pid}}/fd/${{fd}}/evil`); }} }}
        const mounts = fs.readFileSync("/proc/self/mountinfo", "utf8");
        // Of bound folders the kernel tells where they lie; of what is kept it must not.
        if (mounts.includes("/cache/")) wrote.push(mounts);
        for (const how of [["mount", "-o", "remount,rw", "/work"], ["umount", "/work"], ["unshare", "-Urm", "true"], ["chroot", "/work"]])
            if (require("child_process").spawnSync(how[0], how.slice(1)).status === 0) wrote.push(how.join(" "));
        attempt("/run/libra/sockets/registry.sock"); attempt("/opt/node/bin/node");
        console.log(JSON.stringify(wrote));"#
    );
    for layered in [false, true] {
        let mut hunter = fresh(&yard, "hunter.1").await;
        if layered {
            assert!(is_hit(&restore(&mut *hunter, &mine()).await));
        }
        let mut order = node(&script);
        order.network = true;
        assert_eq!(run(&mut *hunter, order).await.must_succeed().output, "[]\n");
        hunter.destroy().await.unwrap();
    }
    let same: Vec<String> = fingerprint(&shelf(&yard).join("entries"));
    assert_eq!(before, same);
    let ran = run(&mut *prey, node("console.log(require('/work/node_modules/a'))")).await;
    assert_eq!(ran.must_succeed().output, "a\n");
    prey.destroy().await.unwrap();
}

#[tokio::test]
async fn writes_above_kept_dependencies_count_even_if_they_were_deleted() {
    let yard = Yard::new();
    let large = format!(
        "{INSTALL} for (let i = 0; i < 3; i++) fs.writeFileSync('node_modules/large' + i, Buffer.alloc(10 << 20, 1));"
    );
    assert!(matches!(prepare(&yard, "count.1", &mine(), &large).await, Kept::Yes(_)));
    // What lies below does not count, what is written does, and so does what is deleted and held open.
    for (id, script, end) in [
        (
            "count.2",
            "for (let i = 0; i < 3; i++) require('fs').readFileSync('node_modules/large' + i)",
            "exit code 0",
        ),
        (
            "count.3",
            "for (const to of ['a/x', 'y']) require('fs').writeFileSync('node_modules/' + to, Buffer.alloc(20 << 20, 1))",
            "disk limit",
        ),
        (
            "count.4",
            r#"const fs = require("fs"), fd = fs.openSync("node_modules/a/x", "w"); fs.rmSync("node_modules/a/x");
               const other = fs.openSync("node_modules/y", "w"); fs.rmSync("node_modules/y");
               for (let i = 0; i < 20; i++) for (const to of [fd, other]) fs.writeSync(to, Buffer.alloc(1 << 20, 1)); setInterval(() => {}, 1000)"#,
            "disk limit",
        ),
        (
            "count.5",
            r#"const fs = require("fs"); for (let i = 0; i < 3; i++) { fs.openSync("node_modules/large" + i, "r+"); fs.rmSync("node_modules/large" + i); } setInterval(() => {}, 1000)"#,
            "disk limit",
        ),
    ] {
        let mut sandbox = yard.limited(id, |limits| limits.disk_bytes = 24 << 20).await;
        let files = SOURCE.iter().map(|(p, t)| ((*p).into(), bytes::Bytes::from_static(t.as_bytes())));
        sandbox.write_files(files.collect()).await.unwrap();
        assert!(is_hit(&restore(&mut *sandbox, &mine()).await));
        let ran = run(&mut *sandbox, node(script)).await;
        assert!(ran.end().contains(end), "{id}: {} {}", ran.end(), ran.output);
        sandbox.destroy().await.unwrap();
    }
    assert_eq!(entries(&yard).len(), 1, "as root: {}", is_root());
}
