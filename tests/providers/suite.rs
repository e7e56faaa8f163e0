//! What holds for a sandbox wherever it is: each fact is tested with every provider in turn.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use libra::sandbox::{CollectLimits, ExecEnd, LimitHit, SandboxError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bench::{ALL, Bench, command, command_lines_with, run, script, unique, until};

const LIMITS: CollectLimits = CollectLimits { files: 100, total_bytes: 1 << 20, file_bytes: 1 << 19 };

fn file(name: &str, content: &str) -> (String, Bytes) {
    (name.to_owned(), Bytes::copy_from_slice(content.as_bytes()))
}

#[tokio::test]
async fn written_files_are_there_under_their_names() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("files.1").await;
        let names = [
            "a.txt",
            "deep/er/b.txt",
            "with space.txt",
            "quote's.txt",
            "\"double\".txt",
            "größe/日本.txt",
            "[id]+(x)&y=z%20.txt",
        ];
        let files = names.iter().map(|n| file(n, &format!("content of {n}\r\n--x"))).collect();
        sandbox.write_files(files).await.unwrap();
        sandbox.write_files(vec![file("empty", ""), file("a.txt", "again")]).await.unwrap();
        let list = serde_json::to_string(&names[1..]).unwrap();
        let text = format!(
            "const fs = require('fs'); for (const n of {list}) if (fs.readFileSync(n, 'utf8') !== `content of ${{n}}\\r\\n--x`) throw n;\
             if (fs.readFileSync('a.txt', 'utf8') !== 'again' || fs.statSync('empty').size !== 0) throw 'a'; console.log('all there')"
        );
        let ran = run(&mut *sandbox, script(&text)).await;
        assert_eq!(ran.must_succeed().output.trim(), "all there", "{name}");
        assert!(
            sandbox.exists("deep/er").await.unwrap() && sandbox.exists("größe/日本.txt").await.unwrap(),
            "{name}"
        );
        assert!(
            !sandbox.exists("deep/none").await.unwrap() && !sandbox.exists("a.txt/x").await.unwrap(),
            "{name}"
        );
        let late = sandbox.write_files(vec![file("late", "")]).await;
        assert!(matches!(late, Err(SandboxError::Sealed)), "{name}: {late:?}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn file_names_that_lead_elsewhere_are_refused() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("names.1").await;
        for bad in ["../x", "/etc/x", "a/../../x", "a\\b", "a\nb", ""] {
            let refused = sandbox.write_files(vec![file(bad, "x")]).await;
            assert!(matches!(refused, Err(SandboxError::BadPath { .. })), "{name} {bad:?}: {refused:?}");
        }
        for bad in ["../x", "a b.1", "x", "a/b.1"] {
            assert!(
                matches!(bench.provider.create(bench.order(bad)).await, Err(SandboxError::BadId)),
                "{name}"
            );
        }
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn exit_codes_and_both_streams_come_back() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("codes.1").await;
        sandbox.write_files(vec![file("sub/x", "")]).await.unwrap();
        let ran =
            run(&mut *sandbox, script("console.log('to out'); console.error('to err'); process.exit(3)"))
                .await;
        assert_eq!(ran.outcome.end, ExecEnd::Exited(3), "{name}");
        let mut lines: Vec<&str> = ran.output.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["to err", "to out"], "{name}");
        assert_eq!(ran.outcome.output_bytes, 14, "{name}");
        let killed = run(&mut *sandbox, script("process.kill(process.pid, 'SIGKILL')")).await;
        assert_eq!(killed.outcome.end, ExecEnd::Exited(137), "{name}");
        let mut there = script("console.log(require('path').basename(process.cwd()), process.env.CI)");
        there.directory = "sub".into();
        assert_eq!(run(&mut *sandbox, there).await.must_succeed().output.trim(), "sub 1", "{name}");
        let mut nowhere = script("");
        nowhere.directory = "nowhere".into();
        let (output, _unread) = mpsc::channel(1);
        let missing = sandbox.exec(nowhere, output, CancellationToken::new()).await;
        assert!(missing.as_ref().is_err_and(SandboxError::is_user_fault), "{name}: {missing:?}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn output_comes_while_the_command_runs_and_a_cancel_kills_it() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("cancel.1").await;
        let mark = unique("cancelled");
        let text = format!("console.log('running'); setInterval(() => {{}}, 1000); // {mark}");
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let cancel = CancellationToken::new();
        let watching = async {
            let first = receiver.recv().await.unwrap();
            assert_eq!(&first[..], b"running\n", "{name}");
            assert!(!command_lines_with(&mark).is_empty(), "{name}");
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(sandbox.exec(script(&text), sender, cancel.clone()), watching);
        assert_eq!(outcome.unwrap().end, ExecEnd::Cancelled, "{name}");
        until("nothing of it runs", || command_lines_with(&mark).is_empty()).await;
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_command_ends_at_its_time_limit() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("wall.1").await;
        let mark = unique("too-long");
        let mut order = script(&format!("setInterval(() => {{}}, 1000); // {mark}"));
        let wall = Duration::from_millis(1_500);
        order.wall = Some(wall);
        let ran = run(&mut *sandbox, order).await;
        assert_eq!(ran.outcome.end, ExecEnd::Killed(LimitHit::Wall { limit: wall }), "{name}");
        until("nothing of it runs", || command_lines_with(&mark).is_empty()).await;
        // Only the command ended.
        run(&mut *sandbox, script("")).await.must_succeed();
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_command_ends_at_its_output_limit_and_no_more_comes_out() {
    for name in ALL {
        let bench = Bench::with(name, |s| s.output_bytes = 100_000);
        let mut sandbox = bench.sandbox("output.1").await;
        let mark = unique("too-loud");
        let text = format!(
            "const l = 'x'.repeat(999); (function f() {{ console.log(l); setImmediate(f) }})() // {mark}"
        );
        let ran = run(&mut *sandbox, script(&text)).await;
        let limit = LimitHit::Output { limit_bytes: 100_000 };
        assert_eq!(ran.outcome.end, ExecEnd::Killed(limit), "{name}");
        assert!(ran.output.len() <= 100_000 && ran.output.len() > 50_000, "{name}: {}", ran.output.len());
        until("nothing of it runs", || command_lines_with(&mark).is_empty()).await;
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn variables_reach_the_command_and_no_command_line() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("env.1").await;
        let secret = unique("secret'\"$(x) `y` \n");
        let needle = secret.rsplit('-').next().unwrap().to_owned();
        let mut order = script("console.log(process.env.TOKEN); setInterval(() => {}, 1000)");
        order.env = vec![("TOKEN".into(), secret.clone())];
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        let cancel = CancellationToken::new();
        let watching = async {
            let first = receiver.recv().await.unwrap();
            assert_eq!(String::from_utf8_lossy(&first), format!("{secret}\n"), "{name}");
            assert_eq!(command_lines_with(&needle), Vec::<String>::new(), "{name}");
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(sandbox.exec(order, sender, cancel.clone()), watching);
        assert_eq!(outcome.unwrap().end, ExecEnd::Cancelled, "{name}");
        // It is the command's alone.
        let after = run(&mut *sandbox, script("console.log(String(process.env.TOKEN))")).await;
        assert_eq!(after.must_succeed().output.trim(), "undefined", "{name}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn only_regular_files_are_collected() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("collect.1").await;
        let text = r#"
import os
os.makedirs("dist/sub/" + "d" * 150)
open("dist/index.html", "w").write("<h1>")
open("dist/sub/a.txt", "w").write("a")
open("dist/sub/" + "d" * 150 + "/grün.txt", "w").write("long")
os.symlink("/etc/passwd", "dist/passwd")
os.symlink("/etc", "dist/etc")
os.symlink("index.html", "dist/alias.html")
os.link("dist/sub/a.txt", "dist/sub/hard.txt")
os.mkfifo("dist/fifo")
open("dist/setuid", "w").write("x"); os.chmod("dist/setuid", 0o6755)
"#;
        run(&mut *sandbox, command(&["python3", "-c", text])).await.must_succeed();
        let into = bench.home().join("out");
        let files = sandbox.collect("dist", &into, LIMITS).await.unwrap();
        let mut found: Vec<_> = files.iter().map(|f| (f.path.clone(), f.size)).collect();
        found.sort_unstable();
        let expected = [
            ("index.html".to_owned(), 4),
            ("setuid".into(), 1),
            ("sub/a.txt".into(), 1),
            (format!("sub/{}/grün.txt", "d".repeat(150)), 4),
            ("sub/hard.txt".into(), 1),
        ];
        assert_eq!(found, expected, "{name}");
        let mut skipped: Vec<_> = sandbox.skipped().iter().map(|s| (s.path.as_str(), s.kind)).collect();
        skipped.sort_unstable();
        assert_eq!(
            skipped,
            [("alias.html", "link"), ("etc", "link"), ("fifo", "fifo"), ("passwd", "link")],
            "{name}"
        );
        let mode = |path: &str| std::fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(""), mode("sub"), mode("setuid")), (0o700, 0o700, 0o600), "{name}");
        assert_eq!(std::fs::read_to_string(into.join("sub/hard.txt")).unwrap(), "a", "{name}");
        assert!(!sandbox.exists("dist/passwd").await.unwrap(), "{name}");
        assert!(!sandbox.exists("dist/etc/passwd").await.unwrap(), "{name}");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn bad_outputs_are_the_users_fault() {
    for name in ALL {
        let bench = Bench::new(name);
        let mut sandbox = bench.sandbox("bad.1").await;
        let text = r#"
import os
os.symlink("/etc", "linked")
os.makedirs("many"); [open(f"many/{i}", "w") for i in range(200)]
os.makedirs("large"); open("large/x", "wb").write(b"x" * (600 << 10))
os.makedirs("total"); [open(f"total/{i}", "wb").write(b"x" * (400 << 10)) for i in range(4)]
os.makedirs("names"); open(b"names/\xff", "w")
os.makedirs("control"); open("control/a\nb", "w")
os.makedirs("sparse"); os.truncate(os.open("sparse/x", os.O_CREAT | os.O_WRONLY), 1 << 26)
open("file", "w")
"#;
        run(&mut *sandbox, command(&["python3", "-c", text])).await.must_succeed();
        let words = [
            ("none", "does not exist"),
            ("linked", "not a plain folder"),
            ("linked/ssl", "not a plain folder"),
            ("file", "not a plain folder"),
            ("many", "more than 100 files"),
            ("large", "larger than 524288"),
            ("total", "larger than 1048576"),
            ("names", "UTF-8"),
            ("control", "control character"),
            ("sparse", "larger than 524288"),
            ("../x", "usable file name"),
        ];
        for (number, (folder, said)) in words.iter().enumerate() {
            let into = bench.home().join(number.to_string());
            let error = sandbox.collect(folder, &into, LIMITS).await.unwrap_err();
            assert!(error.is_user_fault(), "{name} {folder}: {error:?}");
            assert!(error.to_string().contains(said), "{name} {folder}: {error}");
        }
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_destroyed_or_dropped_runs_no_more() {
    for name in ALL {
        let bench = Bench::new(name);
        let sandbox = bench.sandbox("gone.1").await;
        sandbox.destroy().await.unwrap();
        let mut dropped = bench.sandbox("gone.2").await;
        let mark = unique("dropped");
        let text = format!("console.log('running'); setInterval(() => {{}}, 1000); // {mark}");
        let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
        tokio::select! {
            ended = dropped.exec(script(&text), sender, CancellationToken::new()) => panic!("{name}: {ended:?}"),
            first = receiver.recv() => assert!(first.is_some(), "{name}"),
        }
        drop(dropped);
        until("nothing of it runs", || command_lines_with(&mark).is_empty()).await;
        if bench.provider.is_remote() {
            until("no sandbox is left", || bench.server().boxes().is_empty()).await;
        }
    }
}

#[tokio::test]
async fn every_provider_says_what_it_enforces() {
    for name in ALL {
        let bench = Bench::new(name);
        let report = bench.provider.report().await;
        assert!(report.ok, "{name}: {report:?}");
        assert_eq!((report.provider, report.not_enforced.is_empty()), (name, name == "local"));
    }
}
