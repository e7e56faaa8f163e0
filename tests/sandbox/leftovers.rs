//! Nothing outlives a sandbox: not when it is destroyed, dropped or aborted, and not when its server
//! is killed.

use std::time::Duration;

use libra::sandbox::SandboxError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::yard::{Yard, command, is_root, node, processes_with, run, wait_until};

fn is_empty(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[tokio::test]
async fn an_aborted_exec_leaves_neither_process_nor_folder() {
    let yard = Yard::with(|settings| settings.slots = 1);
    let mut sandbox = yard.sandbox("abort.1").await;
    let task = tokio::spawn(async move {
        let (sender, _receiver) = mpsc::channel(1);
        let script = "import time\ntime.sleep(1000)\n# aborted-91d2";
        sandbox.exec(command(&["python3", "-c", script]), sender, CancellationToken::new()).await
    });
    wait_until("the command runs", || !processes_with("aborted-91d2").is_empty()).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    wait_until("its processes are gone", || processes_with("aborted-91d2").is_empty()).await;
    wait_until("its folder is gone", || is_empty(&yard.work())).await;
    // The one slot is free and clean again.
    let mut next = yard.sandbox("abort.2").await;
    run(&mut *next, node("0")).await.must_succeed();
    next.destroy().await.unwrap();
    assert!(is_empty(&yard.work()));
}

#[tokio::test]
async fn a_dropped_exec_ends_its_command_while_the_sandbox_stays() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("dropped.1").await;
    let (sender, _receiver) = mpsc::channel(1);
    let script = "import os, time\nos.fork()\ntime.sleep(1000)\n# dropped-33c7";
    {
        let exec = sandbox.exec(command(&["python3", "-c", script]), sender, CancellationToken::new());
        tokio::select! {
            ended = exec => panic!("{ended:?}"),
            () = wait_until("the command runs", || processes_with("dropped-33c7").len() >= 2) => {}
        }
    }
    wait_until("its processes are gone", || processes_with("dropped-33c7").is_empty()).await;
    run(&mut *sandbox, node("0")).await.must_succeed();
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn slots_are_waited_for_and_then_refused() {
    let yard = Yard::with(|settings| {
        settings.slots = 1;
        settings.slot_wait_seconds = 1;
    });
    let held = yard.sandbox("held.1").await;
    let error = yard.provider.create(yard.order("late.1")).await.err().unwrap();
    assert!(matches!(error, SandboxError::SlotWait { .. }), "{error}");
    assert!(!error.is_user_fault());
    held.destroy().await.unwrap();
    yard.sandbox("late.2").await.destroy().await.unwrap();
}

#[tokio::test]
async fn sweep_removes_what_nobody_holds_and_keeps_the_rest() {
    let yard = Yard::new();
    let live = yard.sandbox("live.1").await;
    for name in ["dead.1", "dead.2", "kept.1"] {
        std::fs::create_dir_all(yard.work().join(name).join("tree/deep")).unwrap();
        std::os::unix::fs::symlink("/etc", yard.work().join(name).join("tree/etc")).unwrap();
    }
    let kept = "kept.1".to_owned();
    let report = yard.provider.sweep(&|id| id == kept).await.unwrap();
    assert_eq!(report.folders, 2);
    let mut left: Vec<_> = std::fs::read_dir(yard.work())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["kept.1", "live.1"]);
    assert!(std::path::Path::new("/etc/passwd").exists());
    live.destroy().await.unwrap();
    assert_eq!(yard.provider.sweep(&|_| false).await.unwrap().folders, 1);
}

/// Set in the process that plays the server which is killed.
const VICTIM: &str = "LIBRA_TEST_VICTIM";

/// Not a test of its own: with the variable set it is the server of the next test, killed by it.
#[tokio::test]
async fn victim_server() {
    let Ok(folder) = std::env::var(VICTIM) else { return };
    let (folder, base) = folder.rsplit_once(':').unwrap();
    let yard = Yard::with(|settings| {
        settings.lock_directory = format!("{folder}/locks");
        settings.slot_uid_base = base.parse().unwrap();
    });
    let mut paths = yard.paths.clone();
    paths.root = format!("{folder}/sandboxes").into();
    let provider = libra::sandbox::provider(&yard.settings, paths).unwrap();
    let mut sandbox = provider.create(yard.order("victim.1")).await.unwrap();
    let (sender, _receiver) = mpsc::channel(1);
    let script = "import os, time\nos.fork()\ntime.sleep(1000)\n# victim-5e0b";
    sandbox.exec(command(&["python3", "-c", script]), sender, CancellationToken::new()).await.unwrap();
}

/// Killed even where the test fails.
struct Server(std::process::Child);

impl Server {
    fn end(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test]
async fn sweep_clears_what_a_killed_server_left() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().display().to_string();
    let base = 500_000 + std::process::id();
    let server = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leftovers::victim_server"])
        .env(VICTIM, format!("{folder}:{base}"))
        // It can't clean up after itself, so what it makes lies in our own folder.
        .env("TMPDIR", &folder)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut server = Server(server);
    wait_until("its sandbox runs", || processes_with("victim-5e0b").len() >= 2).await;
    let yard = Yard::with(|settings| {
        settings.lock_directory = format!("{folder}/locks");
        settings.slot_uid_base = base;
    });
    let mut paths = yard.paths.clone();
    paths.root = format!("{folder}/sandboxes").into();
    let provider = libra::sandbox::provider(&yard.settings, paths).unwrap();
    // While that server lives, its folder and its processes are its own.
    assert_eq!(provider.sweep(&|_| false).await.unwrap().folders, 0);
    assert!(!processes_with("victim-5e0b").is_empty());
    server.end();
    wait_until("its sandbox is gone", || processes_with("victim-5e0b").is_empty()).await;
    let work = home.path().join("sandboxes/work");
    assert!(work.join("victim.1").exists());
    assert_eq!(provider.sweep(&|_| false).await.unwrap().folders, 1);
    assert!(is_empty(&work));
}

#[tokio::test]
async fn a_destroyed_sandbox_leaves_no_cgroup() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("group.1").await;
    run(&mut *sandbox, node("0")).await.must_succeed();
    let base = yard.settings.slot_uid_base;
    sandbox.destroy().await.unwrap();
    for controller in ["memory", "pids", "cpu", "cpuacct", "."] {
        let group = format!("/sys/fs/cgroup/{controller}/libra/slot-{base}");
        assert!(!std::path::Path::new(&group).exists(), "{group}");
    }
    tokio::time::timeout(Duration::from_secs(10), yard.sandbox("group.1"))
        .await
        .unwrap()
        .destroy()
        .await
        .unwrap();
}

fn lock_name(yard: &Yard, index: u32) -> String {
    match rustix::process::geteuid() {
        me if me.is_root() => format!("slot-{}", yard.settings.slot_uid_base + index),
        me => format!("user-{}-slot-{index}", me.as_raw()),
    }
}

/// A group inside the slot's group, so that it can't be removed; gone again on drop.
struct Stuck(Vec<std::path::PathBuf>);

impl Stuck {
    fn in_slot(yard: &Yard, index: u32) -> Self {
        let hierarchies = ["/sys/fs/cgroup/memory/libra", "/sys/fs/cgroup/libra"].map(std::path::Path::new);
        let groups = hierarchies.into_iter().filter(|at| is_root() && at.exists());
        let groups: Vec<_> = groups.map(|at| at.join(lock_name(yard, index)).join("stuck")).collect();
        groups.iter().for_each(|group| std::fs::create_dir_all(group).unwrap());
        Self(groups)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        for group in &self.0 {
            std::fs::remove_dir(group).ok();
            std::fs::remove_dir(group.parent().unwrap()).ok();
        }
    }
}

#[tokio::test]
async fn a_slot_that_cannot_be_used_does_not_hide_the_clean_ones() {
    let yard = Yard::new();
    // The first can't be locked, the second can't be cleaned.
    let locks = std::path::Path::new(&yard.settings.lock_directory);
    std::os::unix::fs::symlink("/nowhere", locks.join(lock_name(&yard, 0))).unwrap();
    let _stuck = Stuck::in_slot(&yard, 1);
    for id in ["spare.1", "spare.2"] {
        let mut sandbox = yard.sandbox(id).await;
        run(&mut *sandbox, node("0")).await.must_succeed();
        sandbox.destroy().await.unwrap();
    }
    let yard = Yard::with(|settings| settings.slots = 1);
    let locks = std::path::Path::new(&yard.settings.lock_directory);
    std::os::unix::fs::symlink("/nowhere", locks.join(lock_name(&yard, 0))).unwrap();
    let error = yard.provider.create(yard.order("none.1")).await.err().unwrap();
    assert!(!error.is_user_fault() && !matches!(error, SandboxError::SlotWait { .. }), "{error}");
}

#[tokio::test]
async fn the_sweep_goes_on_where_one_leftover_resists() {
    let yard = Yard::new();
    // A slot is listed once it was used.
    yard.sandbox("first.1").await.destroy().await.unwrap();
    let _stuck = Stuck::in_slot(&yard, 0);
    std::fs::create_dir_all(yard.work().join("dead.1/tree")).unwrap();
    let report = yard.provider.sweep(&|_| false).await.unwrap();
    assert_eq!(report.folders, 1);
    assert!(is_empty(&yard.work()));
}

#[tokio::test]
async fn a_slot_is_used_only_without_the_folders_of_its_last_holder() {
    let yard = Yard::new();
    let left = yard.work().join("left.1/tree");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("old"), "").unwrap();
    let base = yard.settings.slot_uid_base;
    let foreign = yard.work().join("other.1/tree");
    std::fs::create_dir_all(&foreign).unwrap();
    if is_root() {
        std::os::unix::fs::chown(&left, Some(base), Some(base)).unwrap();
        std::os::unix::fs::chown(&foreign, Some(base + 1), Some(base + 1)).unwrap();
    }
    let sandbox = yard.sandbox("next.1").await;
    // An ordinary user's slots share one uid, so only the sweep can tell whose folder it is.
    assert_eq!(left.exists(), !is_root());
    assert!(foreign.exists());
    sandbox.destroy().await.unwrap();
}
