//! Each limit is hit by something that tries to get round it, is reported by name, and nothing of the
//! culprit is left.

use std::time::{Duration, Instant};

use libra::sandbox::ExecEnd;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::yard::{Yard, command, node, processes_with, run, try_run, wait_until};

async fn limiter_suffix(yard: &Yard) -> &'static str {
    if yard.provider.report().await.limiter.as_str() == "polling" { " (polled)" } else { "" }
}

#[tokio::test]
async fn memory_of_a_grandchild_is_reported_whatever_its_parent_says() {
    let yard = Yard::new();
    let mut sandbox = yard.limited("memory.1", |limits| limits.memory_bytes = 256 << 20).await;
    let script = r#"const { spawnSync } = require("child_process");
        const eat = "const a = []; for (;;) a.push(Buffer.alloc(8 << 20, 1));";
        spawnSync("node", ["-e", `require("child_process").spawnSync("node", ["-e", ${JSON.stringify(eat)}])`]);
        process.exit(1);"#;
    let ran = run(&mut *sandbox, node(script)).await;
    let suffix = limiter_suffix(&yard).await;
    assert_eq!(ran.end(), format!("killed: memory limit 256 MiB{suffix}"), "{}", ran.output);
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_process_limit() {
    let yard = Yard::new();
    let mut sandbox = yard
        .limited("bomb.1", |limits| {
            limits.processes = 64;
            limits.wall = Duration::from_secs(20);
        })
        .await;
    let bomb = "import os, sys\nfailed = 0\nfor _ in range(3000):\n  try:\n    if os.fork() == 0:\n      import signal; signal.pause()\n  except OSError: failed += 1\nsys.exit(7 if failed else 0)";
    let ran = run(&mut *sandbox, command(&["python3", "-c", bomb])).await;
    let suffix = limiter_suffix(&yard).await;
    if suffix.is_empty() {
        assert_eq!(ran.end(), "killed: process limit 64");
        assert!(ran.outcome.process_limit_hits > 0);
    } else {
        // The kernel's own count may refuse the forks before the next look.
        let ended = [format!("killed: process limit 64{suffix}"), "exit code 7".into()];
        assert!(ended.contains(&ran.end()), "{}", ran.end());
    }
    sandbox.destroy().await.unwrap();
}

/// Starts a process again and again for as long as its neighbour has its own, and says if it could not.
const STARTS: &str = "import os, sys, time\nend = time.time() + 4\nwhile time.time() < end:\n  try: child = os.fork()\n  except OSError: sys.exit(9)\n  if child == 0: os._exit(0)\n  os.waitpid(child, 0)\n  time.sleep(0.01)";
/// Has 200 processes for that time.
const CROWD: &str = "import os, time\nfor _ in range(200):\n  if os.fork() == 0:\n    time.sleep(6)\n    os._exit(0)\ntime.sleep(6)";

#[tokio::test]
async fn the_processes_of_one_build_do_not_count_for_another() {
    let yard = Yard::new();
    let mut small = yard.limited("small.1", |limits| limits.processes = 32).await;
    let mut crowded = yard.sandbox("crowded.1").await;
    let (starts, crowd) = tokio::join!(
        run(&mut *small, command(&["python3", "-c", STARTS])),
        run(&mut *crowded, command(&["python3", "-c", CROWD])),
    );
    starts.must_succeed();
    crowd.must_succeed();
    small.destroy().await.unwrap();
    crowded.destroy().await.unwrap();
}

#[tokio::test]
async fn endless_output_is_cut_at_the_limit_and_ended() {
    let yard = Yard::new();
    let mut sandbox = yard.limited("flood.1", |limits| limits.output_bytes = 4 << 20).await;
    // The second ends by itself, a gigabyte later.
    for flood in [&["yes"][..], &["head", "-c", "1073741824", "/dev/zero"]] {
        let ran = run(&mut *sandbox, command(flood)).await;
        assert_eq!(ran.end(), "killed: output limit 4 MiB");
        assert_eq!(ran.output.len(), 4 << 20);
    }
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn a_listener_that_does_not_read_holds_neither_the_command_nor_the_clock() {
    let yard = Yard::new();
    let mut sandbox = yard.limited("unread.1", |limits| limits.wall = Duration::from_secs(2)).await;
    let (sender, _kept_but_never_read) = mpsc::channel(1);
    let begun = Instant::now();
    let outcome = sandbox.exec(command(&["yes"]), sender, CancellationToken::new()).await.unwrap();
    assert_eq!(outcome.end.to_string(), "killed: time limit 2 s");
    assert!(begun.elapsed() < Duration::from_secs(20));
    // The command was held back instead of being read into memory.
    assert!(outcome.output_bytes < 1 << 20, "{}", outcome.output_bytes);
    sandbox.destroy().await.unwrap();
}

const STUBBORN: &str = "import os, signal, sys, time\nfor s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    while True: time.sleep(100)\nwhile True: time.sleep(100)\n# MARK";

#[tokio::test]
async fn what_runs_for_ever_is_killed_with_all_its_daemons() {
    let yard = Yard::new();
    let mut sandbox = yard.limited("ever.1", |limits| limits.wall = Duration::from_secs(2)).await;
    let script = STUBBORN.replace("MARK", "stubborn-7c1e");
    let ran = run(&mut *sandbox, command(&["python3", "-c", &script])).await;
    assert_eq!(ran.end(), "killed: time limit 2 s");
    assert_eq!(processes_with("stubborn-7c1e"), Vec::<i32>::new());
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn daemons_do_not_outlive_a_command_that_succeeds() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("daemon.1").await;
    let script = "import os, time\nif os.fork() == 0:\n  os.setsid()\n  time.sleep(1000)\n# daemon-22ab";
    let ran = run(&mut *sandbox, command(&["python3", "-c", script])).await;
    assert_eq!(ran.outcome.end, ExecEnd::Exited(0));
    wait_until("the daemon is gone", || processes_with("daemon-22ab").is_empty()).await;
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn cancelling_ends_it_at_once() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("cancel.1").await;
    let cancel = CancellationToken::new();
    let (token, tree) = (cancel.clone(), yard.work().join("cancel.1/tree"));
    let watch = tokio::spawn(async move {
        wait_until("the command runs", || tree.join("ready").exists()).await;
        token.cancel();
    });
    let script = r#"require("fs").writeFileSync("/work/ready", ""); setInterval(() => {}, 1000)"#;
    let ran = try_run(&mut *sandbox, node(script), cancel).await.unwrap();
    assert_eq!(ran.outcome.end, ExecEnd::Cancelled);
    watch.await.unwrap();
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn cpu_time_is_bounded_over_all_processes() {
    let yard = Yard::new();
    let mut sandbox = yard.limited("cpu.1", |limits| limits.cpu_seconds = 1).await;
    let script = r#"require("child_process").spawn("node", ["-e", "for(;;);"]); for(;;);"#;
    let ran = run(&mut *sandbox, node(script)).await;
    let suffix = limiter_suffix(&yard).await;
    assert_eq!(ran.end(), format!("killed: CPU limit 1 s{suffix}"));
    assert!(ran.outcome.cpu >= Duration::from_secs(1), "{:?}", ran.outcome);
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn disk_use_is_bounded_in_work_and_home() {
    let yard = Yard::new();
    for (id, target) in [("disk.1", "/work/big"), ("disk.2", "/home/build/big")] {
        let mut sandbox = yard.limited(id, |limits| limits.disk_bytes = 20 << 20).await;
        let script = format!(
            r#"const fs = require("fs"); for (let i = 0; ; i++) fs.writeFileSync("{target}" + i, Buffer.alloc(1 << 20));"#
        );
        let ran = run(&mut *sandbox, node(&script)).await;
        assert_eq!(ran.end(), "killed: disk limit 20 MiB");
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_quick_write_before_the_end_is_seen_too() {
    let yard = Yard::with(|settings| settings.disk_poll_ms = 60_000);
    let mut sandbox = yard.limited("quick.1", |limits| limits.disk_bytes = 8 << 20).await;
    let script = r#"require("fs").writeFileSync("/work/sub", Buffer.alloc(16 << 20))"#;
    let ran = run(&mut *sandbox, node(script)).await;
    // One file may not be larger than all files together, so the kernel may refuse it first.
    assert!(ran.end().starts_with("killed: disk limit") || ran.output.contains("EFBIG"), "{}", ran.end());
    let many = r#"const fs = require("fs"); for (let i = 0; i < 16; i++) fs.writeFileSync("/work/f" + i, Buffer.alloc(1 << 20))"#;
    assert_eq!(run(&mut *sandbox, node(many)).await.end(), "killed: disk limit 8 MiB");
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn too_many_or_hidden_files_end_it() {
    let yard = Yard::with(|settings| settings.disk_entries = 500);
    let mut sandbox = yard.sandbox("many.1").await;
    let script = r#"const fs = require("fs"); for (let i = 0; ; i++) fs.writeFileSync("/work/f" + i, "");"#;
    assert_eq!(run(&mut *sandbox, node(script)).await.end(), "killed: disk limit 500 files");
    sandbox.destroy().await.unwrap();

    let yard = Yard::new();
    let mut sandbox = yard.sandbox("deep.1").await;
    let script =
        r#"for (let i = 0; i < 2000; i++) { require("fs").mkdirSync("deep"); process.chdir("deep"); }"#;
    let ran = run(&mut *sandbox, node(script)).await;
    assert!(ran.end().contains("too deep"), "{}", ran.end());
    sandbox.destroy().await.unwrap();
    assert!(!yard.work().join("deep.1").exists());
}

/// Writes 100 MiB into files that no folder holds, and stays.
const HELD: &str = r#"
import ctypes, mmap, os, signal, sys
if "hidden" in sys.argv: ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
for i in range(10):
    f = os.open("/work/held", os.O_RDWR | os.O_CREAT); os.unlink("/work/held")
    os.write(f, bytes(10 << 20))
    if "mapped" in sys.argv: kept = globals().setdefault("maps", []); kept.append(mmap.mmap(f, 4096)); os.close(f)
signal.pause()"#;

#[tokio::test]
async fn deleted_files_that_are_still_held_count_as_disk() {
    let yard = Yard::new();
    // Only root may look behind a mapping, and Python's own mappings keep a second descriptor open.
    for (id, how, named) in [
        ("held.1", "open", "killed: disk limit 64 MiB"),
        ("held.2", "mapped", "killed: disk limit 64 MiB"),
        ("held.3", "hidden", "killed: disk limit"),
    ] {
        let mut sandbox = yard
            .limited(id, |limits| {
                limits.disk_bytes = 64 << 20;
                limits.wall = Duration::from_secs(20);
            })
            .await;
        let ran = run(&mut *sandbox, command(&["python3", "-c", HELD, how])).await;
        assert!(ran.end().starts_with(named), "{how}: {} {}", ran.end(), ran.output);
        sandbox.destroy().await.unwrap();
    }
}

#[tokio::test]
async fn a_host_short_of_space_ends_the_greediest_build_and_no_other() {
    let yard = Yard::with(|settings| settings.disk_reserve_bytes = 1 << 60);
    let stay = "setInterval(() => {}, 1000)";
    let few = |limits: &mut libra::sandbox::Limits| {
        limits.disk_bytes = 6 << 20;
        limits.wall = Duration::from_secs(20);
    };
    let mut greedy = yard.limited("greedy.1", few).await;
    greedy.write_files(vec![("big".into(), vec![1; 4 << 20].into())]).await.unwrap();
    let ran = run(&mut *greedy, node(stay)).await;
    assert!(ran.end().contains("more than its share of 2 MiB"), "{}", ran.end());
    // Until its files are gone, nobody else has to make room.
    let mut modest = yard.limited("modest.1", few).await;
    run(&mut *modest, node("setTimeout(() => {}, 700)")).await.must_succeed();
    greedy.destroy().await.unwrap();
    let error = try_run(&mut *modest, node(stay), CancellationToken::new()).await.err().unwrap();
    assert!(matches!(error, libra::sandbox::SandboxError::HostDisk { .. }), "{error}");
    modest.destroy().await.unwrap();
}

#[tokio::test]
async fn files_in_memory_get_less_room_where_no_cgroup_counts_them() {
    let yard = Yard::new();
    let polled = !limiter_suffix(&yard).await.is_empty();
    let mut sandbox = yard.limited("tmp.1", |limits| limits.tmp_bytes = 64 << 20).await;
    let script = r#"for (const at of ["/tmp", "/dev/shm"]) { const s = require("fs").statfsSync(at); console.log(s.blocks * s.bsize >> 20); }"#;
    let ran = run(&mut *sandbox, node(script)).await;
    let size = if polled { "32" } else { "64" };
    assert_eq!(ran.must_succeed().output, format!("{size}\n{size}\n"));
    sandbox.destroy().await.unwrap();
}
