//! The shim: our own program inside the sandbox. It carries connections from two loopback ports to the
//! sockets of registry and egress, runs the one command it was given and hands its exit code on. It has no more
//! rights than the build beside it, so nothing rests on it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use rustix::process::{Resource, Rlimit};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::bwrap::{EGRESS_SOCKET, REGISTRY_SOCKET};

/// Where npm inside finds the mirror.
pub(super) const REGISTRY_PORT: u16 = 4873;
/// Where the build's `https_proxy` points.
pub(super) const EGRESS_PORT: u16 = 3128;
/// Connections carried at the same time; npm opens 15.
const CONNECTIONS: usize = 64;
/// First line on standard error once everything is set up: what came before it is the platform's
/// failure, what comes after is the build's own business.
pub(super) const STARTED: &str = "libra shim: started";

/// What the launcher tells the shim, through standard input.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct ShimOrder {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub network: bool,
    /// Processes and threads in this user namespace, where neither a cgroup nor a uid of its own bounds
    /// them. Linux counts them by namespace since 5.14; before, by user, and then this is too strict.
    #[serde(default)]
    pub tasks: Option<u64>,
}

/// `libra internal sandbox-shim`.
pub fn shim_main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            drop(writeln!(io::stderr(), "libra shim: {message}"));
            ExitCode::from(125)
        }
    }
}

fn run() -> Result<u8, String> {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(|e| format!("could not read the order: {e}"))?;
    let order: ShimOrder = serde_json::from_slice(&text).map_err(|e| format!("unreadable order: {e}"))?;
    drop(text);
    if let Some(tasks) = order.tasks {
        let limit = Rlimit { current: Some(tasks), maximum: Some(tasks) };
        rustix::process::setrlimit(Resource::Nproc, limit)
            .map_err(|e| format!("could not bound the processes: {e}"))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("could not start: {e}"))?;
    runtime.block_on(serve(order))
}

async fn serve(order: ShimOrder) -> Result<u8, String> {
    if order.network {
        for (port, socket) in [(REGISTRY_PORT, REGISTRY_SOCKET), (EGRESS_PORT, EGRESS_SOCKET)] {
            let listener = TcpListener::bind(("127.0.0.1", port))
                .await
                .map_err(|e| format!("could not listen for the build's connections: {e}"))?;
            tokio::spawn(carry(listener, socket));
        }
    }
    let (program, arguments) = order.argv.split_first().ok_or("an empty command")?;
    let output = || io::stdout().as_fd().try_clone_to_owned().map(Stdio::from);
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(order.env)
        .stdin(Stdio::null())
        .stdout(output().map_err(|e| e.to_string())?)
        .stderr(output().map_err(|e| e.to_string())?);
    drop(writeln!(io::stderr(), "{STARTED}"));
    let status = match command.spawn() {
        Ok(mut child) => child.wait().await.map_err(|e| format!("could not wait for the command: {e}"))?,
        Err(error) => {
            drop(writeln!(io::stdout(), "could not start `{program}`: {error}"));
            return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}

async fn carry(listener: TcpListener, socket: &'static str) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((mut inner, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            if let Ok(mut outer) = UnixStream::connect(socket).await {
                drop(tokio::io::copy_bidirectional(&mut inner, &mut outer).await);
            }
            drop(place);
        });
    }
}
