//! What foreign code sees and may touch: nothing of the host.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use libra::sandbox::ExecEnd;

use crate::yard::{Yard, command, is_root, libra, node, processes_with, root, run, wait_until};

#[tokio::test]
async fn report_tries_for_real_and_names_the_limiter() {
    let yard = Yard::new();
    let report = yard.provider.report().await;
    assert!(report.ok, "{report:?}");
    assert!(report.host_uid.is_some_and(|uid| uid != 0));
    let expected =
        if is_root() { &["cgroup2", "cgroup1", "polling"][..] } else { &["cgroup2", "polling"][..] };
    assert!(expected.contains(&report.limiter.as_str()), "{report:?}");
    assert_eq!(std::fs::read_dir(yard.work()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_machine_without_bubblewrap_is_told_what_to_do() {
    let yard = Yard::with(|settings| settings.bwrap = "/nowhere/bwrap".into());
    let report = yard.provider.report().await;
    assert!(!report.ok);
    assert!(report.missing[0].contains("bubblewrap"), "{report:?}");
    let error = yard.provider.create(yard.order("a.1")).await.err().unwrap();
    assert!(!error.is_user_fault());
}

#[tokio::test]
async fn slot_uids_that_somebody_uses_are_refused() {
    let yard = Yard::new();
    let mut settings = yard.settings.clone();
    // 65534 is `nobody` everywhere.
    settings.slot_uid_base = 65_533;
    let opened = libra::sandbox::provider(&settings, yard.paths.clone());
    match opened.err() {
        Some(error) if is_root() => assert!(error.to_string().contains("`nobody`"), "{error}"),
        other => assert!(other.is_none() && !is_root(), "{other:?}"),
    }
}

/// The launcher's order as the server would send it, with another uid.
fn order_with_uid(uid: &str) -> String {
    format!(
        r#"{{"parent":{},"slot_uid":{uid},"cgroup_files":[],"file_bytes":1000,"tasks":null,"bwrap":"/usr/bin/bwrap",
        "bound":{{"tree":"/tmp","home":"/tmp","shim":"{}","node":null,"sockets":null}},"tmp_bytes":1048576,
        "directory":"","shim":{{"argv":["id"],"env":[],"network":false}}}}"#,
        std::process::id(),
        libra().display()
    )
}

fn launch(argv: &[&str], order: &str) -> (Option<i32>, String) {
    use std::io::Write;
    let mut child = Command::new(argv[0])
        .args(&argv[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn launcher_refuses_host_root_and_user_namespaces() {
    let program = libra().display().to_string();
    let libra = [program.as_str(), "internal", "sandbox-launch"];
    // As root `null` means root itself; as anybody else it is the caller, so 0 must be asked for.
    for uid in if is_root() { &["0", "null"][..] } else { &["0"][..] } {
        let (code, message) = launch(&libra, &order_with_uid(uid));
        assert_eq!(code, Some(125));
        assert!(message.contains("never runs as uid 0"), "{message}");
    }
    let inside = [&["unshare", "-U", "--map-current-user"][..], &libra].concat();
    let uid = if is_root() { "0" } else { "null" };
    let (code, message) = launch(&inside, &order_with_uid(uid));
    assert_eq!(code, Some(125));
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn host_files_do_not_exist_inside() {
    let yard = Yard::new();
    let secret = yard.paths.data_dir.join("bootstrap.json");
    std::fs::write(&secret, "secret").unwrap();
    let mut sandbox = yard.sandbox("host.1").await;
    let script = format!(
        r#"const fs = require("fs");
        for (const p of ["/root", "/etc/shadow", "/var", "/srv", "/sys", "/boot", {:?}, {:?}, {:?}]) {{
            if (fs.existsSync(p)) console.log("SEEN", p);
        }}
        console.log(fs.readdirSync("/").sort().join(" "));
        console.log(fs.readdirSync("/run").join(" "), "|", fs.readdirSync("/home").join(" "));"#,
        secret,
        yard.home(),
        root(),
    );
    let ran = run(&mut *sandbox, node(&script)).await;
    ran.must_succeed();
    assert!(!ran.output.contains("SEEN"), "{}", ran.output);
    assert!(ran.output.contains("libra | build"), "{}", ran.output);
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn kernel_settings_and_the_system_are_read_only() {
    let yard = Yard::new();
    let before = std::fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let mut sandbox = yard.sandbox("sys.1").await;
    let ran = run(
        &mut *sandbox,
        node(
            r#"const fs = require("fs");
            for (const p of ["/proc/sys/kernel/core_pattern", "/usr/x", "/etc/x", "/x", "/dev/x", "/run/x", "/opt/node/x",
                             "/run/libra/shim", "/etc/passwd"]) {
                try { fs.writeFileSync(p, "x"); console.log("WROTE", p); } catch (e) { console.log(e.code, p); }
            }
            for (const p of ["/work/x", "/tmp/x", "/home/build/x", "/dev/shm/x"]) fs.writeFileSync(p, "x");
            console.log("uid", process.getuid(), fs.readFileSync("/proc/self/status", "utf8").match(/CapEff:\s+(\w+)/)[1]);"#,
        ),
    )
    .await;
    ran.must_succeed();
    assert!(!ran.output.contains("WROTE"), "{}", ran.output);
    assert!(ran.output.contains("uid 1000 0000000000000000"), "{}", ran.output);
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").unwrap(), before);
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn there_is_no_network_but_loopback() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("net.1").await;
    let script = format!(
        r#"const net = require("net"), os = require("os");
        console.log("interfaces", Object.keys(os.networkInterfaces()).join());
        for (const [host, port] of [["127.0.0.1", {port}], ["127.0.0.1", 4873], ["192.0.2.1", 80]])
            net.connect(port, host).on("connect", () => console.log("CONNECTED", host, port)).on("error", e => console.log(e.code));
        console.log("sockets", require("fs").existsSync("/run/libra/sockets"));
        require("dns").lookup("example.org", e => console.log("dns", e ? "failed" : "WORKED"));"#
    );
    let ran = run(&mut *sandbox, node(&script)).await;
    ran.must_succeed();
    assert!(ran.output.contains("interfaces lo\n"), "{}", ran.output);
    assert!(ran.output.contains("dns failed"), "{}", ran.output);
    assert!(ran.output.contains("sockets false"), "{}", ran.output);
    assert!(!ran.output.contains("CONNECTED"), "{}", ran.output);
    sandbox.destroy().await.unwrap();
}

/// Calls that node can't make are made by python, which Debian has; the numbers are x86-64's.
const CALLS: &str = r#"
import ctypes, errno, os, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": dict(io_uring_setup=425, keyctl=250, bpf=321, ptrace=101, unshare=272, mount=165, clone3=435, userfaultfd=323, x32_getpid=0x40000027),
           "aarch64": dict(io_uring_setup=425, keyctl=219, bpf=280, ptrace=117, unshare=97, mount=40, clone3=435, userfaultfd=282)}
for name, number in numbers[platform.machine()].items():
    ctypes.set_errno(0)
    result = libc.syscall(number, 0x10000000 if name == "unshare" else 0, 0, 0, 0, 0, 0)
    print(name, errno.errorcode.get(ctypes.get_errno(), "OK"))
for family in (1, 2, 10, 16, 17, 38, 40):
    ctypes.set_errno(0)
    print("socket", family, "OK" if libc.socket(family, 2 if family != 16 else 3, 0) >= 0 else errno.errorcode[ctypes.get_errno()])
ctypes.set_errno(0)
flags = 0x10000000 | 17
clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
print("clone_newuser", "OK" if libc.syscall(clone, flags, 0, 0, 0, 0) >= 0 else errno.errorcode[ctypes.get_errno()])
"#;

#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("calls.1").await;
    let ran = run(&mut *sandbox, command(&["python3", "-c", CALLS])).await;
    ran.must_succeed();
    for call in
        ["io_uring_setup", "keyctl", "bpf", "ptrace", "unshare", "mount", "userfaultfd", "clone_newuser"]
    {
        assert!(ran.output.contains(&format!("{call} EPERM")), "{call}: {}", ran.output);
    }
    assert!(ran.output.contains("clone3 ENOSYS"), "{}", ran.output);
    assert!(!cfg!(target_arch = "x86_64") || ran.output.contains("x32_getpid ENOSYS"), "{}", ran.output);
    for family in [1, 2, 10, 16] {
        assert!(ran.output.contains(&format!("socket {family} OK")), "{}", ran.output);
    }
    for family in [17, 38, 40] {
        assert!(ran.output.contains(&format!("socket {family} EPERM")), "{}", ran.output);
    }
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn tenant_variables_reach_the_command_and_nothing_outside() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("env.1").await;
    let secret = "hunter2-4b1f";
    let mut order = node(
        r#"require("fs").writeFileSync("/work/ready", process.env.SECRET);
        console.log(process.env.SECRET, process.env.LD_PRELOAD);
        const until = () => require("fs").existsSync("/work/go") ? 0 : setTimeout(until, 20); until();"#,
    );
    // In the launcher's own environment this would be obeyed as root.
    let trace = yard.home().join("trace").display().to_string();
    order.env = [
        ("SECRET", secret),
        ("LD_PRELOAD", "/work/evil.so"),
        // Any program outside that is started with these writes a file there.
        ("LD_DEBUG", "files"),
        ("LD_DEBUG_OUTPUT", &trace),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let tree = yard.work().join("env.1/tree");
    let watch = tokio::spawn(async move {
        wait_until("the command runs", || tree.join("ready").exists()).await;
        let seen = processes_with(secret);
        // Environments that the kernel shows for processes outside: launcher, bwrap.
        let outside: Vec<_> = processes_with("bwrap")
            .into_iter()
            .filter(|pid| {
                std::fs::read(format!("/proc/{pid}/environ"))
                    .is_ok_and(|env| String::from_utf8_lossy(&env).contains(secret))
            })
            .collect();
        std::fs::write(tree.join("go"), "").unwrap();
        std::fs::set_permissions(tree.join("go"), std::fs::Permissions::from_mode(0o644)).unwrap();
        (seen, outside)
    });
    let ran = run(&mut *sandbox, order).await;
    ran.must_succeed();
    assert!(ran.output.contains(&format!("{secret} /work/evil.so")), "{}", ran.output);
    let (seen, outside) = watch.await.unwrap();
    assert!(seen.is_empty() && outside.is_empty(), "{seen:?} {outside:?}");
    let traced = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("trace");
    assert!(!std::fs::read_dir(yard.home()).unwrap().any(|entry| traced(entry.unwrap())));
    sandbox.destroy().await.unwrap();
}

#[tokio::test]
async fn two_sandboxes_see_neither_files_nor_processes_of_each_other() {
    let yard = Yard::new();
    let (mut one, mut two) = (yard.sandbox("one.1").await, yard.sandbox("two.1").await);
    one.write_files(vec![("mine.txt".into(), "x".into())]).await.unwrap();
    let look = r#"const fs = require("fs");
        console.log("files", fs.readdirSync("/work").join(), "pids", fs.readdirSync("/proc").filter(n => /^\d+$/.test(n)).length);"#;
    let (a, b) = tokio::join!(run(&mut *one, node(look)), run(&mut *two, node(look)));
    assert!(a.output.contains("files mine.txt pids"), "{}", a.output);
    assert!(b.output.contains("files  pids"), "{}", b.output);
    if is_root() {
        use std::os::unix::fs::MetadataExt;
        let owner = |id: &str| std::fs::metadata(yard.work().join(id).join("tree")).unwrap().uid();
        assert_ne!(owner("one.1"), owner("two.1"));
        assert!(owner("one.1") != 0 && owner("two.1") != 0);
    }
    one.destroy().await.unwrap();
    two.destroy().await.unwrap();
}

#[tokio::test]
async fn commands_that_fail_or_do_not_exist_have_an_exit_code() {
    let yard = Yard::new();
    let mut sandbox = yard.sandbox("codes.1").await;
    assert_eq!(run(&mut *sandbox, node("process.exit(3)")).await.outcome.end, ExecEnd::Exited(3));
    let missing = run(&mut *sandbox, command(&["no-such-program"])).await;
    assert_eq!(missing.outcome.end, ExecEnd::Exited(127));
    assert!(missing.output.contains("no-such-program"));
    let signalled =
        run(&mut *sandbox, node("process.kill(process.pid, 'SIGSEGV'); setInterval(() => {}, 1000)")).await;
    assert_eq!(signalled.outcome.end, ExecEnd::Exited(139));
    let mut elsewhere = node("0");
    elsewhere.directory = "no/such/folder".into();
    let error = crate::yard::try_run(&mut *sandbox, elsewhere, Default::default()).await.err().unwrap();
    assert!(error.is_user_fault(), "{error}");
    sandbox.destroy().await.unwrap();
}
