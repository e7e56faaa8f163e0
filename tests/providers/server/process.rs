//! What runs in a sandbox of the test server: a real process in a group of its own, its output kept in
//! pieces so that it can be followed by whoever comes, when they come.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
}

pub struct Process {
    pub name: String,
    pub pid: u32,
    pieces: Mutex<Vec<(Stream, Bytes)>>,
    exit: Mutex<Option<Exit>>,
    changed: watch::Sender<()>,
}

impl Process {
    pub fn start(
        name: &str,
        argv: &[String],
        env: &BTreeMap<String, String>,
        cwd: &Path,
        home: &Path,
        path: &str,
    ) -> std::io::Result<Arc<Self>> {
        let mut command = Command::new(argv.first().ok_or(std::io::ErrorKind::InvalidInput)?);
        command.args(&argv[1..]).env_clear().env("PATH", path).env("HOME", home).envs(env).current_dir(cwd);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let process = Arc::new(Self {
            name: name.to_owned(),
            pid: child.id(),
            pieces: Mutex::default(),
            exit: Mutex::default(),
            changed: watch::channel(()).0,
        });
        let reading = Arc::clone(&process);
        let errors = std::thread::spawn(move || reading.read(err, Stream::Err));
        let reading = Arc::clone(&process);
        std::thread::spawn(move || {
            reading.read(out, Stream::Out);
            errors.join().unwrap();
            let status = child.wait().unwrap();
            *reading.exit.lock().unwrap() = Some(Exit { code: status.code(), signal: status.signal() });
            reading.changed.send_replace(());
        });
        Ok(process)
    }

    fn read(&self, mut pipe: impl Read, stream: Stream) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(size @ 1..) = pipe.read(&mut buffer) {
            self.pieces.lock().unwrap().push((stream, Bytes::copy_from_slice(&buffer[..size])));
            self.changed.send_replace(());
        }
    }

    /// The whole group.
    pub fn kill(&self) {
        if self.exit().is_none() {
            let group = nix::unistd::Pid::from_raw(i32::try_from(self.pid).unwrap());
            // It may end by itself at this moment.
            nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).ok();
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        *self.exit.lock().unwrap()
    }

    pub fn pieces(&self) -> usize {
        self.pieces.lock().unwrap().len()
    }

    /// The piece of that number once it is there; `None` when the process has ended without it.
    pub async fn piece(&self, number: usize) -> Option<(Stream, Bytes)> {
        let mut changed = self.changed.subscribe();
        loop {
            // Looked at first: no piece comes after the exit.
            let ended = self.exit().is_some();
            if let Some(piece) = self.pieces.lock().unwrap().get(number) {
                return Some(piece.clone());
            }
            if ended {
                return None;
            }
            changed.changed().await.ok()?;
        }
    }
}
