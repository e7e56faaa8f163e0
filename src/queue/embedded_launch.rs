//! The hidden `libra internal child-launch`: becomes the broker, tied to the life of its parent.
//!
//! Between fork and exec only async-signal-safe code may run, which safe Rust can't promise. So our
//! own binary is started first, arranges what must hold, and then replaces itself.
//! It never outlives a failed arrangement: whatever can't be arranged is an exit code.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

const USAGE: u8 = 64;
/// Another broker holds the store, or the parent is gone: trying again later may succeed.
const TRY_LATER: u8 = 75;
const NOT_ARRANGED: u8 = 71;
const NOT_EXECUTED: u8 = 127;

/// Runs `--parent PID --store-lock PATH -- BINARY ARGS…`; returns only when it failed, with the exit code.
pub fn child_launch_main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let Some(launch) = parse(arguments) else {
        return fail(USAGE, "usage: child-launch --parent PID --store-lock PATH -- BINARY [ARGS...]");
    };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return fail(NOT_ARRANGED, format_args!("parent death signal: {error}"));
    }
    // The parent may have died before the signal was arranged; then nobody would ever end us.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZeroI32::get) != Some(launch.parent) {
        return fail(TRY_LATER, "the parent is gone");
    }
    let _inherited: OwnedFd = match lock_store(&launch.store_lock) {
        Ok(lock) => lock,
        Err(error) => return fail(TRY_LATER, format_args!("another broker holds the store: {error}")),
    };
    let error = Command::new(&launch.binary).args(&launch.arguments).exec();
    fail(NOT_EXECUTED, format_args!("{}: {error}", launch.binary.display()))
}

/// Locks the store for as long as the broker lives: the descriptor is *not* close-on-exec, so two
/// brokers can never write to one store, whatever happened to their owners.
fn lock_store(path: &OsString) -> io::Result<OwnedFd> {
    let lock = open(path, OFlags::CREATE | OFlags::RDWR, Mode::RUSR | Mode::WUSR)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

struct Launch {
    parent: i32,
    store_lock: OsString,
    binary: OsString,
    arguments: Vec<OsString>,
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Launch> {
    let mut rest = arguments.into_iter();
    let mut expect = |word: &str| (rest.next()? == *word).then_some(());
    expect("--parent")?;
    let parent = rest.next()?.to_str()?.parse().ok()?;
    let mut expect = |word: &str| (rest.next()? == *word).then_some(());
    expect("--store-lock")?;
    let store_lock = rest.next()?;
    let mut expect = |word: &str| (rest.next()? == *word).then_some(());
    expect("--")?;
    let binary = rest.next()?;
    Some(Launch { parent, store_lock, binary, arguments: rest.collect() })
}

fn fail(code: u8, message: impl Display) -> u8 {
    // Standard error is the launch log of the owner; if even that is gone, the code has to do.
    drop(writeln!(io::stderr(), "child-launch: {message}"));
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_command_line_is_taken_apart_whole() {
        let launch = parse(words("--parent 7 --store-lock /x/lock -- /bin/broker -c /x/conf")).unwrap();
        assert_eq!((launch.parent, launch.arguments.len()), (7, 2));
        assert_eq!(launch.binary, "/bin/broker");
    }

    #[test]
    fn anything_else_is_a_usage_mistake() {
        for line in ["", "--parent x --store-lock l -- b", "--parent 7 -- b", "--parent 7 --store-lock l --"]
        {
            assert_eq!(child_launch_main(words(line)), USAGE, "{line}");
        }
    }
}
