//! The program: everything is in the library.

use std::process::ExitCode;

/// A fifth of a small request's time was spent in the system's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    libra::cli::main(std::env::args_os().collect())
}
