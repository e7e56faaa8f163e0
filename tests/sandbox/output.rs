//! What comes out of a sandbox is plain files of the build, whatever it left there; and what goes in
//! stays beneath the work folder.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use libra::sandbox::{CollectLimits, SandboxError};

use crate::yard::{Yard, command, node, run};

const LIMITS: CollectLimits = CollectLimits { files: 100, total_bytes: 1 << 20, file_bytes: 1 << 19 };

#[tokio::test]
async fn only_regular_files_are_collected() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("collect.1").await;
    let script = r#"
import os, socket
os.makedirs("dist/sub")
open("dist/index.html", "w").write("<h1>")
open("dist/sub/a.txt", "w").write("a")
open("secret-of-the-build", "w").write("s")
os.symlink("/etc/shadow", "dist/shadow")
os.symlink("/etc", "dist/etc")
os.symlink("index.html", "dist/alias.html")
os.symlink("sub", "dist/sub-alias")
os.link("secret-of-the-build", "dist/hard.txt")
os.mkfifo("dist/fifo")
socket.socket(socket.AF_UNIX).bind("dist/socket")
open("dist/setuid", "w").write("x"); os.chmod("dist/setuid", 0o6755)
try: os.mknod("dist/device", 0o20666, os.makedev(1, 3)); print("MADE A DEVICE")
except PermissionError: pass
"#;
    let ran = run(&mut *sandbox, command(&["python3", "-c", script])).await;
    ran.must_succeed();
    assert!(!ran.output.contains("MADE A DEVICE"));
    let into = yard.home().join("out");
    let files = sandbox.collect("dist", &into, LIMITS).await.unwrap();
    let mut names: Vec<_> = files.iter().map(|file| (file.path.as_str(), file.size)).collect();
    names.sort_unstable();
    assert_eq!(names, [("hard.txt", 1), ("index.html", 4), ("setuid", 1), ("sub/a.txt", 1)]);
    let mut skipped: Vec<_> = sandbox.skipped().iter().map(|s| (s.path.as_str(), s.kind)).collect();
    skipped.sort_unstable();
    assert_eq!(
        skipped,
        [
            ("alias.html", "link"),
            ("etc", "link"),
            ("fifo", "fifo"),
            ("shadow", "link"),
            ("socket", "socket"),
            ("sub-alias", "link")
        ]
    );
    let mode = |path: &str| std::fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("sub"), mode("setuid")), (0o700, 0o700, 0o600));
    assert!(sandbox.exists("dist/index.html").await.unwrap());
    assert!(sandbox.exists("dist").await.unwrap());
    assert!(!sandbox.exists("dist/shadow").await.unwrap());
    assert!(!sandbox.exists("dist/etc/passwd").await.unwrap());
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn bad_outputs_are_the_users_fault_and_named() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("bad.1").await;
    let script = r#"
import os
os.symlink("/etc", "linked")
os.makedirs("many"); [open(f"many/{i}", "w") for i in range(200)]
os.makedirs("large"); open("large/x", "wb").write(b"x" * (600 << 10))
os.makedirs("total"); [open(f"total/{i}", "wb").write(b"x" * (400 << 10)) for i in range(4)]
os.makedirs("names"); open(b"names/\xff", "w")
os.makedirs("control"); open("control/a\nb", "w")
os.makedirs("sparse"); os.truncate(os.open("sparse/x", os.O_CREAT | os.O_WRONLY), 1 << 29)
open("file", "w")
"#;
    run(&mut *sandbox, command(&["python3", "-c", script])).await.must_succeed();
    let mut number = 0;
    let mut collect = async |directory: &str| {
        number += 1;
        let into = yard.home().join(format!("out{number}"));
        let error = sandbox.collect(directory, &into, LIMITS).await.unwrap_err();
        assert!(error.is_user_fault(), "{directory}: {error}");
        error
    };
    assert!(matches!(collect("missing").await, SandboxError::NotFound { .. }));
    assert!(matches!(collect("linked").await, SandboxError::NotAFolder { .. }));
    assert!(matches!(collect("linked/ssl").await, SandboxError::NotAFolder { .. }));
    assert!(matches!(collect("file").await, SandboxError::NotAFolder { .. }));
    assert!(matches!(collect("many").await, SandboxError::TooManyFiles { .. }));
    assert!(matches!(collect("large").await, SandboxError::FileTooLarge { .. }));
    assert!(matches!(collect("sparse").await, SandboxError::FileTooLarge { .. }));
    assert!(matches!(collect("total").await, SandboxError::OutputTooLarge { .. }));
    assert!(matches!(collect("names").await, SandboxError::BadPath { .. }));
    assert!(matches!(collect("control").await, SandboxError::BadPath { .. }));
    assert!(matches!(collect("../home").await, SandboxError::BadPath { .. }));
    assert!(matches!(collect("/etc").await, SandboxError::BadPath { .. }));
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn a_name_that_no_address_can_have_is_refused_and_told_in_plain_letters() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("names.1").await;
    // Each in a folder of its own; the last but one is a surrogate as some tools write it, the last one a
    // path of 1100 bytes.
    let script = r#"
import os
names = [b"a\nb", b"a\x01b", b"\x1b[2Ja", b"a\x7fb", "a\u0085b".encode(), b"a\\b", b"\xff", b"\xc0\xae\xc0\xae", b"\xed\xa0\x80",
         b"/".join([b"d" * 219] * 5)]
for number, name in enumerate(names):
    path = os.fsencode(f"names{number}/") + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, "w").close()
print(len(names))
"#;
    let ran = run(&mut *sandbox, command(&["python3", "-c", script])).await;
    let count: usize = ran.must_succeed().output.trim().parse().unwrap();
    for number in 0..count {
        let into = yard.home().join(format!("out{number}"));
        let error = sandbox.collect(&format!("names{number}"), &into, LIMITS).await.unwrap_err();
        assert!(matches!(error, SandboxError::BadPath { .. }) && error.is_user_fault(), "{number}: {error}");
        // Neither a line of its own nor an order to a terminal.
        assert!(!error.to_string().chars().any(char::is_control), "{number}: {error:?}");
    }
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn files_go_in_beneath_the_work_folder_only_and_before_the_first_command() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("in.1").await;
    for bad in ["../x", "/etc/x", "a/../../x", "", "a//b"] {
        let error = sandbox.write_files(vec![(bad.into(), Bytes::new())]).await.unwrap_err();
        assert!(matches!(error, SandboxError::BadPath { .. }), "{bad}: {error}");
    }
    let files = vec![("a/b/c.txt".into(), Bytes::from("one")), ("top.txt".into(), Bytes::from("two"))];
    sandbox.write_files(files).await.unwrap();
    sandbox.write_files(vec![("a/b/d.txt".into(), Bytes::from("three"))]).await.unwrap();
    let script = r#"const fs = require("fs");
        console.log(fs.readFileSync("a/b/c.txt", "utf8"), fs.readFileSync("top.txt", "utf8"), fs.readFileSync("a/b/d.txt", "utf8"));
        fs.writeFileSync("a/b/c.txt", "mine"); fs.rmSync("a", { recursive: true });"#;
    let ran = run(&mut *sandbox, node(script)).await;
    assert!(ran.must_succeed().output.contains("one two three"), "{}", ran.output);
    let late = sandbox.write_files(vec![("late".into(), Bytes::new())]).await.unwrap_err();
    assert!(matches!(late, SandboxError::Sealed));
    sandbox.destroy().await.unwrap();
}
