//! Starts child processes, from one thread that never ends.
//!
//! A parent-death signal fires when the *thread* that spawned the child ends, and a blocking-pool
//! thread ends after seconds of idleness. So every child of this program is spawned here.
//! This room never waits for a child and never kills one: that is its owner's business.

use std::io;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Order {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: OnceLock<mpsc::SyncSender<Order>> = OnceLock::new();

/// Orders waiting for the spawning thread; a spawn takes about a millisecond.
const WAITING_ORDERS: usize = 64;

/// Spawns `command` from the process-wide spawning thread.
///
/// # Errors
/// What `Command::spawn` reports, or `BrokenPipe` if the spawning thread is gone.
pub async fn spawn(command: Command) -> io::Result<Child> {
    let (reply, answer) = oneshot::channel();
    let order = Order { command, runtime: Handle::current(), reply };
    spawner()?.try_send(order).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

fn spawner() -> io::Result<&'static mpsc::SyncSender<Order>> {
    if let Some(sender) = SPAWNER.get() {
        return Ok(sender);
    }
    let (sender, orders) = mpsc::sync_channel::<Order>(WAITING_ORDERS);
    if SPAWNER.set(sender).is_ok() {
        std::thread::Builder::new().name("spawner".into()).spawn(move || serve(&orders))?;
    }
    SPAWNER.get().ok_or_else(gone)
}

fn serve(orders: &mpsc::Receiver<Order>) {
    while let Ok(mut order) = orders.recv() {
        let _entered = order.runtime.enter();
        let child = order.command.spawn();
        // The asker may have been cancelled; the child is then dropped, and `kill_on_drop` decides.
        drop(order.reply.send(child));
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the spawning thread is busy or gone")
}
