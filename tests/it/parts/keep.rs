//! What has to end with the test process, however it ends: folders and child processes.
//!
//! The test harness ends its process without dropping statics, so a part that all tests share can't
//! clean up by itself.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};

use tempfile::TempDir;

/// A folder that is gone after the test process, also where nothing drops it.
pub struct KeptFolder {
    folder: TempDir,
    /// Ends, and removes what is left, when its standard input does.
    janitor: Mutex<Child>,
}

impl KeptFolder {
    pub fn new(prefix: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir().unwrap();
        // Whatever still writes there has a few seconds to end.
        let script =
            "trap '' INT TERM; cat; for i in 1 2 3 4 5 6 7 8 9 10; do rm -rf \"$0\" && exit; sleep 0.3; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null());
        let janitor = command.stderr(Stdio::null()).spawn().unwrap();
        Self { folder, janitor: Mutex::new(janitor) }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for KeptFolder {
    fn drop(&mut self) {
        let janitor = self.janitor.get_mut().unwrap();
        drop(janitor.stdin.take());
        janitor.wait().unwrap();
    }
}

/// Starts a child that ends with this process. The death signal is tied to the *thread* that spawned
/// it, so all are spawned by one that never ends.
pub fn spawn(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in taken {
                drop(reply.send(command.spawn()));
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).unwrap();
    answer.recv().unwrap().unwrap()
}

/// The program that becomes `binary` and dies with this process.
pub fn tied_command(folder: &Path, binary: &Path, arguments: &[PathBuf]) -> Command {
    let mut command = Command::new(crate::app::libra_exe());
    command
        .args(["internal", "child-launch", "--parent", &std::process::id().to_string()])
        .arg("--store-lock")
        .arg(folder.join("store.lock"))
        .arg("--")
        .arg(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
