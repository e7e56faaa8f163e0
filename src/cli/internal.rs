//! Commands that the program gives to itself: launchers beside and inside sandboxes, and what
//! the benchmarks need inside: a full database, a full table. Not for people.

use std::ffi::OsString;
use std::process::ExitCode;

pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let command = arguments.next().unwrap_or_default();
    match command.to_str() {
        Some("sandbox-launch") => crate::sandbox::launch_main(),
        Some("overlay-trial") => crate::sandbox::overlay_trial_main(),
        Some("sandbox-shim") => crate::sandbox::shim_main(),
        Some("child-launch") => ExitCode::from(crate::queue::child_launch_main(arguments)),
        Some("bench-hosts") => super::bench_hosts::main(arguments.collect()),
        Some("bench-fill") => super::bench_fill::main(arguments.collect()),
        _ => ExitCode::from(2),
    }
}
